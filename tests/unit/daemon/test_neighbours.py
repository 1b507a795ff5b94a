"""Nobody waits for a bad neighbour: what one client or process does, or fails to do, costs others nothing."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import struct
import time
from pathlib import Path

import pytest

from tests.support.nurseries import Hanging
from tests.support.papad import Probe, child_as, open_fds, processor_time, running_papad, varied_copy
from tests.support.waiting import wait_until

NOBODY = 65534
ATTACKS = int(os.environ.get("PAPAD_ATTACKS", "2000"))
CONNECTIONS = int(os.environ.get("PAPAD_CONNECTIONS", "20000"))
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@root_only
def test_a_flood_of_strangers_costs_little_and_one_line_a_second(tmp_path: Path) -> None:
    with running_papad(tmp_path, tcp=True) as daemon:

        def flood() -> None:
            while True:  # without waiting: a full queue would cost a second each time
                with contextlib.ExitStack() as opened:
                    for _ in range(20):
                        sock = opened.enter_context(socket.socket())
                        sock.setblocking(False)
                        sock.connect_ex(("127.0.0.1", daemon.port))
                    time.sleep(0.001)

        lines = daemon.log.count("\n")
        with child_as(NOBODY, flood), child_as(NOBODY, flood), Probe(daemon) as probe:
            began, before = time.monotonic(), processor_time(daemon.pid)
            time.sleep(4)
            took, used = time.monotonic() - began, processor_time(daemon.pid) - before
        assert "refused a connection: uid 65534 may not talk" in daemon.log or "cannot tell who you are" in daemon.log
        assert daemon.log.count("\n") - lines <= took + 3
        assert used < 0.6 * took
        assert probe.median < 0.1
        wait_until(lambda: len(open_fds(daemon.pid)) < 30, "nothing is left of them")


@root_only
def test_one_user_cannot_take_all_connections(tmp_path: Path) -> None:
    """nobody is a member here: the group papad is that of nobody."""
    varied_copy(tmp_path, "daemon/commands/roles.py", '"papad", "papad-view"', '"nogroup", "papad-view"')
    with running_papad(tmp_path, tcp=True, cwd=tmp_path) as daemon:
        reader, writer = os.pipe()

        def idle() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (2000, 2000))
            held = []
            for _ in range(510):
                sock = socket.create_connection(("127.0.0.1", daemon.port))
                held.append(sock)
                os.write(writer, b"w" if sock.recv(1000).startswith(b"Papa") else b"e")
            time.sleep(60)

        with child_as(NOBODY, idle):
            answers = b""
            while len(answers) < 510:
                answers += os.read(reader, 1000)
            assert answers == b"w" * 500 + b"e" * 10
            with contextlib.ExitStack() as all_of_them:
                for _ in range(600):
                    all_of_them.enter_context(daemon.connect())
                with daemon.connect(welcome=False) as talk:
                    assert talk.until(b"\n") == b"Error: papad has 1100 connections already; close some\n"
        os.close(reader)
        os.close(writer)
        assert daemon.ask("get x") == ""


def test_a_standard_input_that_nobody_writes_to_delays_only_the_command_that_wants_it(tmp_path: Path) -> None:
    varied_copy(tmp_path, "daemon/tables/processes.py", "_START_TIMEOUT = 30.0", "_START_TIMEOUT = 1.0")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with running_papad(tmp_path, cwd=tmp_path) as daemon, daemon.connect() as talk:
        talk.send(f"make process hangs stdin={fifo} /bin/cat\n")
        assert "pid=" in daemon.ask("make process x /bin/true")
        assert talk.until(b"\n> ").decode().endswith("Or does nobody write to its stdin?\n> ")
        assert "hangs" not in daemon.ask("list processes")


def test_a_program_whose_exec_hangs_delays_only_the_command_that_wants_it(tmp_path: Path) -> None:
    varied_copy(tmp_path, "daemon/tables/processes.py", "_START_TIMEOUT = 30.0", "_START_TIMEOUT = 1.0")
    hanging = Hanging(tmp_path)
    with running_papad(tmp_path, cwd=tmp_path) as daemon, daemon.connect() as talk:
        assert "pid=" in talk.ask("make process before /bin/true")
        wait_until(lambda: "running=False" in talk.ask("list processes before"), "it has ended")
        before = [len(open_fds(pid)) for pid in (daemon.pid, daemon.nursery)]
        with Probe(daemon) as probe, daemon.connect() as other:
            talk.send(f"make process hangs {hanging.path}\n")
            hanging.wait()
            assert "pid=" in other.ask("make process x /bin/sh -c exit\\ 3")
            assert other.ask_line("watch processes x") == "Watching 1"
            assert other.watch_to_end() == [("closed", "x", 3)]
            answer = talk.until(b"\n> ").decode()
        assert answer.startswith(f"Error: Cannot start a process: {hanging.path} could not be executed within 1 s.")
        assert probe.longest < 5
        assert "hangs" not in talk.ask("list processes")
        children = Path(f"/proc/{daemon.nursery}/task/{daemon.nursery}/children")
        wait_until(lambda: children.read_text().split() == [str(daemon.pid)], "the child is gone")
        hanging.go()
        assert "pid=" in talk.ask(f"make process hangs {hanging.path}")
        talk.ask("remove processes hangs")
        wait_until(
            lambda: [len(open_fds(pid)) for pid in (daemon.pid, daemon.nursery)] == before, "nothing is left open"
        )
    os.close(hanging.fd)


def test_a_thousand_expensive_commands_at_once_leave_turns_to_others(tmp_path: Path) -> None:
    with running_papad(tmp_path) as daemon, daemon.connect() as talk:
        count = 20_000
        talk.send("".join(f"set v{number} {number}\n" for number in range(count)))
        for _ in range(count):
            talk.until(b"> ")
        with Probe(daemon) as probe:
            talk.send("list values zz*\n" * 1000)
            for _ in range(1000):
                assert talk.until(b"> ").strip() == b">"
        assert len(probe.waits) > 10
        assert probe.median < 0.1
        assert probe.longest < 0.5


def test_output_that_is_discarded_costs_little_however_much_it_is(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("(while :; do echo a line; done) & yes &")  # the nursery's, in the end, and killed with it
    with running_papad(tmp_path) as daemon, daemon.connect() as talk:
        talk.ask(f"make process x env.PATH={os.defpath} /bin/sh {script}")
        wait_until(lambda: "running=False" in talk.ask("list processes x"), "it has ended; its children have not")
        talk.ask("remove processes x")
        with Probe(daemon) as probe:
            time.sleep(0.5)  # what was in the pipe
            began, before = time.monotonic(), processor_time(daemon.pid)
            time.sleep(2)
            took, used = time.monotonic() - began, processor_time(daemon.pid) - before
        assert used < 0.3 * took
        assert probe.median < 0.1
        assert sum("pipe:" in what for what in open_fds(daemon.pid).values()) > 2, "they write"


def test_a_reader_of_little_among_much_leaves_turns_to_others(tmp_path: Path) -> None:
    with running_papad(tmp_path) as daemon, daemon.connect() as talk:
        lines = "i=0;while\\ [\\ $i\\ -lt\\ 600000\\ ];do\\ echo\\ line;i=$((i+1));done"
        talk.ask(f"make process x bufsize=16m /bin/sh -c {lines}")
        wait_until(lambda: "running=False" in talk.ask("list processes x"), "it has ended")
        for options in ("stream=err", "last=3 stream=err", "last=3 until=1"):
            with Probe(daemon) as probe:
                talk.send(f"output {options} x\n")
                assert b"out:x" not in talk.until(b"> ")
                time.sleep(0.05)
            assert probe.longest < 0.25, options


def test_output_of_a_process_that_floods_ends_where_it_was_when_it_was_asked_for(tmp_path: Path) -> None:
    with running_papad(tmp_path) as daemon, daemon.connect() as talk:
        talk.ask("make process x bufsize=1m /usr/bin/yes")
        wait_until(lambda: json.loads(talk.ask("describe processes x"))["lost"] > 1 << 20, "it floods")
        for _ in range(3):
            talk.send("output x\n")
            size = 0
            while not talk.data.endswith(b"\n> "):
                talk.data = talk.data[-3:] + talk.sock.recv(1 << 18)
                size += len(talk.data)
            assert size < 4 << 20
            talk.data = b""


def test_output_of_many_processes_is_read_from_their_rings_once(tmp_path: Path) -> None:
    with running_papad(tmp_path) as daemon, daemon.connect() as talk:
        for number in range(200):
            talk.ask(f"make process p{number} bufsize=128k /usr/bin/seq 20000")
        wait_until(lambda: "running=True" not in talk.ask("list processes"), "all have ended")
        before, size, end = read_by(daemon.pid), 0, b""
        talk.send("output\n")
        while end != b"\n> ":
            data = talk.sock.recv(1 << 18)
            size, end = size + len(data), (end + data)[-3:]
        assert size > 200 * 100_000
        assert read_by(daemon.pid) - before < 1.5 * size


def read_by(pid: int) -> int:
    """How many bytes a process has read so far (proc(5), rchar)."""
    return int(Path(f"/proc/{pid}/io").read_text().split()[1])


def test_watchers_that_do_not_read_share_a_bounded_memory(tmp_path: Path) -> None:
    with running_papad(tmp_path) as daemon, daemon.connect() as talk, contextlib.ExitStack() as watchers:
        talk.ask("make process x bufsize=6m /usr/bin/seq 800000")
        wait_until(lambda: "running=False" in talk.ask("list processes x"), "it has ended")
        before = daemon.rss()
        for _ in range(100):
            assert watchers.enter_context(daemon.connect()).ask_line("watch processes x") == "Watching 1"
        with Probe(daemon) as probe:
            time.sleep(2)
        assert daemon.rss() - before < 160 << 20
        assert probe.median < 0.1


def test_watchers_that_do_not_read_their_first_line_cost_little(tmp_path: Path) -> None:
    with running_papad(tmp_path, tcp=True) as daemon, daemon.connect() as talk, contextlib.ExitStack() as watchers:
        talk.ask("make process x /bin/sleep 600")
        for _ in range(300):
            watchers.enter_context(daemon.connect(tcp=True)).send("watch processes x\n")
        time.sleep(3)
        began, before = time.monotonic(), processor_time(daemon.pid)
        time.sleep(3)
        assert processor_time(daemon.pid) - before < 0.3 * (time.monotonic() - began)


def test_many_processes_are_listed_and_described_in_pieces(tmp_path: Path) -> None:
    with running_papad(tmp_path) as daemon, daemon.connect() as talk:
        for number in range(1000):
            talk.send(f"make process p{number} stdout=0 stderr=0 /bin/true\n")
        for _ in range(1000):
            talk.until(b"> ")
        with Probe(daemon) as probe:
            for _ in range(40):
                assert talk.ask("describe processes").count("\n") == 999
                names = [line.partition(" ")[0] for line in talk.ask("list processes").split("\n")]
                assert names == sorted(f"p{number}" for number in range(1000))
        assert len(probe.waits) > 5
        assert probe.longest < 0.5


@root_only
def test_commands_of_strangers_who_close_at_once_are_not_executed(tmp_path: Path) -> None:
    with running_papad(tmp_path, tcp=True) as daemon:
        reader, writer = os.pipe()

        def attack() -> None:
            abort = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close() resets the connection
            for number in range(ATTACKS):
                with socket.socket() as sock, contextlib.suppress(OSError):
                    sock.connect(("127.0.0.1", daemon.port))
                    sock.sendall(b"set pwned 1\nmake process pwned /bin/sleep 60\n")
                    match number % 4:
                        case 1:
                            sock.shutdown(socket.SHUT_WR)
                        case 2:
                            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
                        case 3:
                            sock.recv(1)
            os.write(writer, b"!")
            time.sleep(60)

        with child_as(NOBODY, attack):
            assert os.read(reader, 1) == b"!"
        os.close(reader)
        os.close(writer)
        wait_until(lambda: len(open_fds(daemon.pid)) < 30, "nothing is left of them")
        assert daemon.ask("get pwned") == ""
        assert daemon.ask("list processes") == ""


def test_connections_leave_nothing(tmp_path: Path) -> None:
    with running_papad(tmp_path) as daemon:

        def connect(count: int) -> None:
            for _ in range(count):
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(daemon.path)
                    sock.sendall(b"get x\n")
                    while not sock.recv(1000).endswith(b"\n> "):
                        pass

        fds = len(open_fds(daemon.pid))
        connect(CONNECTIONS // 20)
        before = daemon.rss()
        connect(CONNECTIONS)
        wait_until(lambda: len(open_fds(daemon.pid)) == fds, "all are closed")
        assert daemon.rss() - before < 4 << 20


def test_a_thousand_idle_and_fifty_stuck_clients_keep_nobody_waiting(tmp_path: Path) -> None:
    with running_papad(tmp_path) as daemon, contextlib.ExitStack() as clients:
        daemon.ask("set big " + "x" * 100_000)
        for _ in range(1000):
            clients.enter_context(daemon.connect())
        for _ in range(50):
            stuck = clients.enter_context(daemon.connect())
            stuck.sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(100):
                    stuck.send("get big\n" * 100)
        with Probe(daemon) as probe:
            time.sleep(2)
        assert probe.median < 0.1
