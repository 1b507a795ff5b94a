"""Processes through a real papad: their output, their ends, their names."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.support.papad import Daemon, Talk, open_fds
from tests.support.talks import Records, codes, frames, make, shell, text, watch
from tests.support.waiting import wait_until


@pytest.mark.parametrize("code", [0, 1, 127, 255])
def test_an_exit_code_arrives_once_and_the_name_is_free_then(talk: Talk, code: int) -> None:
    shell(talk, "x", f"exit {code}")
    assert watch(talk, "x") == [("closed", "x", code)]
    assert talk.ask("watch processes x") == "Error: x not found"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_signal_is_a_negative_code(talk: Talk, number: signal.Signals) -> None:
    pid = make(talk, "x", "", "/bin/sleep", "60")
    os.kill(pid, number)
    assert watch(talk, "x") == [("closed", "x", -number)]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 0", "INFO: process x ended with exit code 0"),
        ("exit 3", "ERROR: process x ended with exit code 3"),
        ("kill -SEGV $$", "ERROR: process x killed by SIGSEGV"),
        ("kill -TERM $$", "INFO: process x killed by SIGTERM"),
    ],
)
def test_the_log_tells_an_end_in_words_and_an_abnormal_one_as_an_error(
    talk: Talk, papad: Daemon, script: str, told: str
) -> None:
    shell(talk, "x", script)
    watch(talk, "x")
    assert f"papad: {told}\n" in papad.log


@pytest.mark.parametrize("order", [">&2; exec 2>&-; sleep 0.05; seq 2000", "; exec >&-; sleep 0.05; seq 2000 >&2"])
def test_both_pipes_are_captured_to_the_end_when_one_closes_early(talk: Talk, order: str) -> None:
    shell(talk, "x", f"echo early {order}")
    records = watch(talk, "x")
    numbers = "".join(f"{number}\n" for number in range(1, 2001)).encode()
    first, second = ("err", "out") if order.startswith(">") else ("out", "err")
    assert text(records, first) == b"early\n"
    assert text(records, second) == numbers
    assert records[-1] == ("closed", "x", 0)


def test_a_process_is_closed_only_when_a_grandchild_has_let_go_of_its_pipe(talk: Talk, tmp_path: Path) -> None:
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    shell(talk, "x", f"(read x < {fifo}; echo from the grandchild) & echo from the child; exit 5")
    wait_until(lambda: "running=False" in talk.ask("list processes x"), "the child has ended")
    assert talk.ask_line("watch processes x") == "Watching 1"
    assert text(talk.records(), "out") == b"from the child\n"
    talk.send("-\n")
    fifo.write_text("go\n")
    assert talk.watch_to_end() == [("out", "x", b"from the grandchild\n"), ("closed", "x", 5)]


@pytest.mark.parametrize("size", [1, 100, 4096, 70_000])
def test_the_buffer_keeps_the_last_bytes_and_no_more(talk: Talk, size: int) -> None:
    shell(talk, "x", "seq 10000", f"bufsize={size}")
    numbers = "".join(f"{number}\n" for number in range(1, 10001)).encode()
    talk.ask_line("watch processes x")
    batches: list[Records] = []
    with pytest.raises(EOFError):
        while True:
            batches.append(talk.records())
            talk.send("-\n")
    assert talk.exactly(2) == b"> "
    pieces = [text(records, "out") for records in batches]
    assert max(map(len, pieces)) <= size
    end = next(piece for piece in reversed(pieces) if piece)
    assert numbers.endswith(end)
    rest = iter(numbers)
    assert all(byte in rest for byte in b"".join(pieces)), "something came twice, or in another order"
    assert batches[-1][-1] == ("closed", "x", 0)


@pytest.mark.parametrize("options", ["bufsize=0", "output=0", "stdout=0 stderr=0"])
def test_without_capture_there_is_only_the_close(talk: Talk, options: str) -> None:
    shell(talk, "x", "seq 100; seq 100 >&2; exit 3", options)
    assert watch(talk, "x") == [("closed", "x", 3)]


@pytest.mark.parametrize(
    ("options", "out", "err"),
    [
        ("stdout=0", b"", b"e\n"),
        ("stderr=0", b"o\n", b""),
        ("stderr=stdout", b"o\ne\n", b""),
        ("bufsize=1k", b"o\n", b"e\n"),
    ],
)
def test_streams_go_where_the_options_say(talk: Talk, options: str, out: bytes, err: bytes) -> None:
    shell(talk, "x", "echo o; echo e >&2", options)
    records = watch(talk, "x")
    assert (text(records, "out"), text(records, "err")) == (out, err)


def test_a_process_removed_while_it_runs_writes_on_unharmed_and_is_forgotten_at_its_end(
    talk: Talk, papad: Daemon, tmp_path: Path
) -> None:
    fifo, done = tmp_path / "go", tmp_path / "done"
    os.mkfifo(fifo)
    pid = shell(talk, "x", f"echo before; read x < {fifo}; seq 300000 && echo unharmed > {done}")
    assert talk.ask("remove processes x") == ""
    assert f"x pid={pid} running=True" in talk.ask("list processes x")
    fifo.write_text("go\n")
    wait_until(lambda: talk.ask("list processes x") == "", "the name is free")
    assert done.read_text() == "unharmed\n"
    make(talk, "x", "", "/bin/true")
    assert watch(talk, "x") == [("closed", "x", 0)]


def test_the_same_spec_is_the_same_process_and_another_is_refused(talk: Talk) -> None:
    first = make(talk, "x", "env.A=1", "/bin/sleep", "60")
    assert make(talk, "x", "env.A=1", "/bin/sleep", "60") == first
    for line in ("make process x env.A=1 /bin/sleep 61", "make process x /bin/sleep 60"):
        assert talk.ask(line).startswith(f"Error: Process for x has already been created - x pid={first} ")
    os.kill(first, signal.SIGKILL)
    assert watch(talk, "x") == [("closed", "x", -9)]


def test_a_changed_definition_is_told_by_what_differs_and_no_value_of_a_variable_is_shown(talk: Talk) -> None:
    pid = make(talk, "x", "env.A=secret env.B=1 rlimit.nofile=64 env.C=3", "/bin/sleep", "60")
    answer = talk.ask(
        "make process x env.A=hidden env.B=1 env.D=4 stdout=0 working_dir=/tmp rlimit.nofile=65 /bin/sleep 61"
    )
    there = talk.ask("list processes x").strip()
    assert answer == (
        f"Error: Process for x has already been created - {there} - it differs in args: /bin/sleep 61 instead of "
        "/bin/sleep 60; env.A; env.C; env.D; rlimit.nofile: 65 instead of 64; working_dir: /tmp instead of none; "
        "stdout: 0 instead of 1"
    )
    os.kill(pid, signal.SIGKILL)
    watch(talk, "x")


def test_a_process_that_was_removed_and_still_runs_is_not_adopted(talk: Talk) -> None:
    pid = make(talk, "x", "", "/bin/sleep", "60")
    talk.ask("remove processes x")
    for line in (
        "make process x /bin/sleep 60",
        "make process x again=1 /bin/sleep 60",
        "make process x watch=1 /bin/ls",
    ):
        answer = talk.ask(line)
        assert answer.startswith(f"Error: Process for x has already been created - x pid={pid} ")
        assert answer.endswith(f" - it was removed and still runs (pid {pid}); the name is free once it has ended")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: talk.ask("list processes x") == "", "the name is free")


def test_again_starts_what_has_ended_anew_and_leaves_alone_what_runs(talk: Talk, papad: Daemon) -> None:
    first = shell(talk, "x", "echo old; exit 3", "again=1")  # there is none yet: it is made
    wait_until(lambda: json.loads(talk.ask("describe processes x"))["closed"], "it is closed")
    assert shell(talk, "x", "echo old; exit 3") == first  # without again it is the one that is there
    second = shell(talk, "x", "echo new; exec sleep 60", "again=1")
    assert second != first
    assert "running=True" in talk.ask("list processes x")
    assert shell(talk, "x", "echo new; exec sleep 60", "again=1") == second
    assert talk.ask("make process x again=1 /bin/ls").startswith(
        "Error: Process for x has already been created - x pid="
    )
    wait_until(lambda: json.loads(talk.ask("describe processes x"))["captured"] == 4, "it has written")
    os.kill(second, signal.SIGKILL)
    assert watch(talk, "x") == [("out", "x", b"new\n"), ("closed", "x", -9)]


def test_what_again_cannot_start_leaves_the_old_one_as_it_was(talk: Talk) -> None:
    pid = shell(talk, "x", "echo old; exit 3")
    wait_until(lambda: json.loads(talk.ask("describe processes x"))["closed"], "it is closed")
    assert talk.ask("make process x again=1 /no/such/thing").startswith("Error: Bad command")
    assert f"x pid={pid} running=False" in talk.ask("list processes x")
    assert watch(talk, "x") == [("out", "x", b"old\n"), ("closed", "x", 3)]


def test_again_ends_the_watch_of_the_old_one_and_a_follower_goes_on_with_the_new_one(talk: Talk, papad: Daemon) -> None:
    shell(talk, "x", "echo old; sleep 60 & exit 3")
    holder = wait_until(
        lambda: json.loads(talk.ask("describe processes x"))["captured"] and talk.ask("list processes x"), "it wrote"
    )
    wait_until(lambda: "running=False" in talk.ask("list processes x"), "it has ended, but for its child")
    assert holder
    with papad.connect() as watcher, papad.connect() as follower:
        assert watcher.ask_line("watch processes x") == "Watching 1"
        assert watcher.records() == [("out", "x", b"old\n")]
        watcher.send("-\n")
        follower.send("output follow=1 x\n")
        old = json.loads(talk.ask("describe processes x"))["pid"]
        shell(talk, "x", "echo new", "again=1")
        assert watcher.until(b"> ").decode().endswith("Nothing left to watch\n> ")
        assert [frame[2] for frame in frames(follower, 2) if frame[0] == "out"] == [b"new\n"]
        os.killpg(old, signal.SIGKILL)
    assert watch(talk, "x") == [("out", "x", b"new\n"), ("closed", "x", 0)]


def test_thousands_of_lines_of_many_processes_all_arrive(talk: Talk) -> None:
    for number in range(20):
        shell(talk, f"many.{number}", f"seq 2000; seq 1000 >&2; exit {number}", "bufsize=100k")
    records = watch(talk, "many.*")
    for number in range(20):
        assert text(records, "out", f"many.{number}") == "".join(f"{n}\n" for n in range(1, 2001)).encode()
        assert text(records, "err", f"many.{number}") == "".join(f"{n}\n" for n in range(1, 1001)).encode()
    assert codes(records) == {f"many.{number}": number for number in range(20)}


FAILING = {
    "": "No command",
    "/no/such/thing": "Bad command - [Errno 2] No such file or directory: '/no/such/thing'",
    "working_dir=/no/dir /bin/true": "Bad working_dir - [Errno 2] No such file or directory: '/no/dir'",
    "working_dir=relative /bin/true": 'working_dir must be an absolute path, not "relative"',
    "uid=nobody-of-that-name /bin/true": "'nobody-of-that-name' is not a valid user name",
    "rlimit.nonsense=1 /bin/true": 'Unknown rlimit "nonsense"',
    "rlimit.nofile=99999999999 /bin/true": "Bad rlimit - ",
    "bufsize=-1 /bin/true": "bufsize must be a number of bytes",
    "stderr=2 /bin/true": 'stderr must be 0, 1 or stdout, not "2"',
    "nonsense=1 /bin/true": 'Unknown option "nonsense"',
    "/bin/echo $(socket.nothing.port)": "Socket nothing not found",
    "/bin/echo $(socket.x": "Process for x argument starts with",
    "/bin/echo \0": "Arguments cannot hold the character NUL",
}


def settled(papad: Daemon) -> tuple[int, int]:
    """How many descriptors papad and its nursery have open, once both know that no process is left."""
    both = papad.pid, papad.nursery
    wait_until(lambda: not any("pidfd" in what for pid in both for what in open_fds(pid).values()), "no pidfd is left")
    daemon, nursery = (len(open_fds(pid)) for pid in both)
    return daemon, nursery


def left(papad: Daemon, before: tuple[int, int]) -> int:
    """How many more both have open now; fewer, if they had not let go of everything before."""
    now = len(open_fds(papad.pid)), len(open_fds(papad.nursery))
    return sum(max(0, after - earlier) for after, earlier in zip(now, before, strict=True))


@pytest.mark.parametrize("words", FAILING, ids=repr)
def test_a_failed_start_is_one_error_and_leaves_nothing(talk: Talk, papad: Daemon, words: str) -> None:
    make(talk, "warm-up", "", "/bin/true")
    watch(talk, "warm-up")
    before = settled(papad)
    for _ in range(3):
        answer = talk.ask(f"make process x {words}")
        assert answer.startswith("Error: " + FAILING[words])
    assert talk.ask("list processes") == ""
    wait_until(lambda: left(papad, before) == 0, "no descriptor is left")


def test_two_hundred_processes_leave_no_descriptor(talk: Talk, papad: Daemon) -> None:
    make(talk, "warm-up", "", "/bin/true")
    watch(talk, "warm-up")
    before = settled(papad)
    talk.send("".join(f"make process p{number} /bin/echo {number}\n" for number in range(200)))
    for number in range(200):
        assert talk.until(b"\n> ").startswith(b"p%d pid=" % number)
    records = watch(talk, "p*")
    assert codes(records) == {f"p{number}": 0 for number in range(200)}
    assert text(records, "out", "p7") == b"7\n"
    wait_until(lambda: left(papad, before) == 0, "no descriptor is left")


def test_a_process_inherits_the_sockets_under_their_numbers_and_nothing_else(talk: Talk, tmp_path: Path) -> None:
    for line in ("a port=0", f"b path={tmp_path}/b", "c reuseport=1", "d type=dgram reuseport=1"):
        assert not talk.ask(f"make socket {line}").startswith("Error")
    make(
        talk,
        "x",
        "env.PATH=/bin",
        "/bin/sh",
        "-c",
        "ls /proc/$$/fd; echo $(socket.c.fileno) $(socket.a.port) $(socket.a.port)",
    )
    port = re.search(r"^a .* port=(\d+)", talk.ask("list sockets a"))
    assert port is not None
    *fds, last = text(watch(talk, "x"), "out").decode().split("\n")[:-1]
    assert sorted(map(int, fds)) == [0, 1, 2, 64, 65, 66]
    assert last == f"66 {port[1]} {port[1]}"
    talk.ask("remove sockets")


def test_processes_go_by_their_pid_too(talk: Talk) -> None:
    pid = make(talk, "x", "", "/bin/sleep", "60")
    assert talk.ask(f"list processes {pid}").startswith(f"x pid={pid}")
    os.kill(pid, signal.SIGKILL)
    assert watch(talk, str(pid)) == [("closed", "x", -9)]


def test_when_the_nursery_is_killed_output_and_exit_codes_still_arrive_and_a_new_one_is_made(
    own_papad: Daemon, tmp_path: Path
) -> None:
    """The daemon goes on, but nobody would start it anew."""
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    own_papad.leaving = True
    pid = own_papad.pid
    with own_papad.connect() as talk:
        shell(talk, "x", f"echo before; read x < {fifo}; echo after; exit 6")
        own_papad.popen.kill()
        own_papad.popen.wait(10)
        make(talk, "y", "", "/bin/echo", "newly born")
        assert text(watch(talk, "y"), "out") == b"newly born\n"
        fifo.write_text("go\n")
        records = watch(talk, "x")
        assert text(records, "out") == b"before\nafter\n"
        assert codes(records) in ({"x": 6}, {"x": 256})  # what a kernel before 6.15 cannot tell is 256
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the daemon has left in order")


def test_started_by_hand_papad_survives_a_kill_of_its_daemon(own_papad: Daemon, tmp_path: Path) -> None:
    """As under a service manager: nobody is refused meanwhile, and nothing is lost."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with own_papad.connect() as talk:
        talk.ask("set kept 1")
        web = talk.ask("make socket web")
        shell(talk, "x", f"echo before; read x < {gate}; echo after; exit 6")
    for _ in range(3):
        os.kill(own_papad.pid, signal.SIGKILL)
        with own_papad.connect() as talk:  # waits in the backlog
            assert talk.ask("get kept") == "1"
            assert talk.ask("list sockets") == web
    gate.write_text("go\n")
    with own_papad.connect() as talk:
        records = watch(talk, "x")
    assert (text(records, "out"), codes(records)) == (b"before\nafter\n", {"x": 6})


def test_started_by_hand_papad_ends_in_order_and_what_runs_on_is_not_stopped(own_papad: Daemon, tmp_path: Path) -> None:
    done = tmp_path / "done"
    script = f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; seq 200000; seq 200000 >&2; touch {done}"
    with own_papad.connect() as talk:
        shell(talk, "x", script)
    own_papad.leaving = True
    own_papad.popen.terminate()
    assert own_papad.popen.wait(20) == 0
    assert "process x runs on, pid " in own_papad.log
    (tmp_path / "go").touch()
    wait_until(done.exists, "it has written far more than a pipe holds")
