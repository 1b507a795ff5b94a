"""papad without a service manager: the program that is started keeps a daemon, ends in order, and leaves nothing that hangs."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from papad.daemon.main import EXIT_CONFIG
from papad.daemon.nursery.keeper import KEEPER, Keeper
from tests.support.papad import REPOSITORY, Daemon, Talk, open_fds, running_papad
from tests.support.waiting import wait_until

KILLS = 20
WORKER = """
import os, socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
while True:
    connection, _ = listener.accept()
    with connection:
        if connection.recv(64):
            connection.sendall(b"%d" % os.getpid())
"""
NUMBERED = """
import os, sys, time
number = 0
while not os.path.exists(sys.argv[1]):
    print(number, flush=True)
    number += 1
    time.sleep(0.001)
sys.exit(7)
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running_papad(tmp_path, tcp=True) as daemon:
        yield daemon


def child_of(pid: int) -> int:
    """The only child of a process, or 0 while it has none."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0


def kill(pid: int) -> None:
    """SIGKILL; returns once it is dead."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), f"{pid} is dead")


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def kill_daemon(daemon: Daemon) -> None:
    """SIGKILL to the daemon; returns once there is another, which is home."""
    count = daemon.log.count("is home")
    kill(daemon.pid)
    wait_until(lambda: daemon.log.count("is home") > count, "papad is home again")


def insist(daemon: Daemon, line: str) -> str:
    """The answer of whichever daemon lives to give it. Every connection must succeed."""
    for _ in range(100):
        with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError), daemon.connect() as talk:
            return talk.ask(line)
    raise AssertionError(f"no answer to {line}")


def end(daemon: Daemon, number: int = signal.SIGTERM) -> int:
    daemon.leaving = True
    daemon.popen.send_signal(number)
    return daemon.popen.wait(20)


# What it does when its daemon ends.


def one_that(script: str) -> Keeper:
    keeper = Keeper("", [])
    keeper._command = [sys.executable, "-I", "-S", "-c", script]
    return keeper


def run_once(keeper: Keeper) -> None:
    keeper.turn()
    pid, status = os.waitpid(keeper.pid, 0)
    assert pid == keeper.pid
    keeper.ended(os.waitstatus_to_exitcode(status))


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 9)", "sys.exit(1)", "sys.exit(78)"])
def test_one_that_dies_is_started_anew_and_the_later_the_more_often_it_dies_at_once(how: str) -> None:
    keeper = one_that(f"import os, sys; {how}")
    delays = []
    for _ in range(30):
        run_once(keeper)
        assert not keeper.over
        assert keeper.due is not None
        delays.append(round(keeper.due - time.monotonic(), 1))
        keeper.due = 0.0
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (0.0, 2.0)
    keeper.turn()
    keeper._began -= 60  # it has lived for a minute
    keeper.ended(os.waitstatus_to_exitcode(os.waitpid(keeper.pid, 0)[1]))
    assert keeper.due is not None
    assert keeper.due - time.monotonic() < 0.1


def test_it_waits_for_the_time_that_is_due() -> None:
    keeper = one_that("import os; os.kill(os.getpid(), 9)")
    run_once(keeper)
    keeper.due = time.monotonic() + 60
    keeper.turn()
    assert keeper.pid == 0


def test_a_daemon_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    keeper = one_that("")
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    keeper.turn()
    assert (keeper.pid, keeper.over) == (0, False)
    assert keeper.due is not None
    assert "cannot start the daemon" in capfd.readouterr().err


def test_one_that_ends_as_it_was_told_to_is_not_started_anew() -> None:
    keeper = one_that("")
    run_once(keeper)
    keeper.turn()
    assert (keeper.pid, keeper.over) == (0, True)


def test_a_daemon_that_ends_by_a_fault_of_its_own_is_followed_by_the_next(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "papad", tmp_path / "papad", ignore=shutil.ignore_patterns("__pycache__"))
    module = tmp_path / "papad/daemon/server.py"
    sound = module.read_text()
    with running_papad(tmp_path, cwd=tmp_path) as daemon:
        daemon.ask("set a here")
        pid = process(daemon, "x", "exec sleep 60")
        module.write_text(f"{sound}\n1 / 0\n")
        kill(daemon.pid)
        wait_until(lambda: daemon.log.count("ZeroDivisionError") > 2, "it has been tried again")
        module.write_text(sound)
        wait_until(lambda: daemon.log.count("is home") == 2, "papad is home again")
        assert daemon.ask("get a") == "here"
        assert json.loads(daemon.ask("describe processes x"))["pid"] == pid
        os.truncate(daemon.path + ".log", 0)  # a traceback is a failure


def test_a_daemon_that_does_not_find_its_nursery_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "papad.daemon.main"], cwd=REPOSITORY, env=os.environ | {KEEPER: "no such"},
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "does not answer" in done.stderr


# How it ends.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_these_signals_end_it_in_order(daemon: Daemon, number: int) -> None:
    pid = daemon.pid
    assert end(daemon, number) == 0
    assert not alive(pid)
    assert "leaving" in daemon.log
    assert not os.path.exists(daemon.path)


@pytest.mark.parametrize("delay", [0, 0.05, 0.1, 0.15, 0.2, 0.3])
def test_a_signal_while_the_daemon_starts_ends_it_in_order(tmp_path: Path, delay: float) -> None:
    path = str(tmp_path / "s")
    command = [sys.executable, "-m", "papad.daemon.main", "-u", path]
    with open(path + ".log", "wb") as log, subprocess.Popen(command, cwd=REPOSITORY, stderr=log) as popen:
        pid = wait_until(lambda: child_of(popen.pid), "there is a daemon")
        time.sleep(delay)
        popen.terminate()
        assert popen.wait(20) == 0
        assert not alive(pid)
        assert "leaving" in Daemon(popen, path, 0).log
        assert not os.path.exists(path)


def test_a_signal_while_the_daemon_is_dead_ends_it_as_well(tmp_path: Path) -> None:
    for number in range(3):
        command = [sys.executable, "-m", "papad.daemon.main", "-u", str(tmp_path / f"{number}.sock")]
        with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL) as popen:
            os.kill(wait_until(lambda popen=popen: child_of(popen.pid), "there is a daemon"), signal.SIGKILL)
            popen.terminate()
            assert popen.wait(20) == 0


def at_terminal(tmp_path: Path) -> tuple[int, int]:
    """papad as the foreground program of a terminal: its pid, and the terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.chdir(REPOSITORY)
            os.dup2(os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY, 0o600), 2)
            os.execv(sys.executable, [sys.executable, "-m", "papad.daemon.main", "-u", str(tmp_path / "s")])
        finally:
            os._exit(127)
    log = tmp_path / "log"
    wait_until(lambda: log.exists() and "is home" in log.read_text(), "papad is home")
    return pid, terminal


@pytest.mark.parametrize("how", ["Ctrl-C", "hangup"])
def test_a_terminal_ends_it_in_order(tmp_path: Path, how: str) -> None:
    pid, terminal = at_terminal(tmp_path)
    if how == "Ctrl-C":
        os.write(terminal, b"\x03")
    else:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    log = (tmp_path / "log").read_text()
    assert "leaving" in log
    assert "Traceback" not in log
    assert not (tmp_path / "s").exists()


def test_under_nohup_it_outlives_the_terminal(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    command = ["nohup", sys.executable, "-m", "papad.daemon.main", "-u", path]
    with open(path + ".log", "wb") as log, subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log) as popen:
        daemon = Daemon(popen, path, 0)
        wait_until(lambda: "is home" in daemon.log, "papad is home")
        daemon.ask("set a 1")
        pid = daemon.pid
        for each in (popen.pid, pid):
            os.kill(each, signal.SIGHUP)
        assert daemon.ask("get a") == "1"
        assert (daemon.pid, popen.poll()) == (pid, None)
        popen.terminate()
        assert popen.wait(20) == 0


# What runs on.


def drainers(pipe: str) -> list[int]:
    """The pids of those who discard what comes from a pipe."""
    found = []
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() == "papad-drain\n" and pipe in open_fds(pid).values():
                found.append(pid)
    return found


def process(daemon: Daemon, name: str, script: str) -> int:
    """A process that runs a shell script; its pid."""
    daemon.ask(f"make process {name} env.PATH={os.defpath} shell=1 {script.replace(' ', chr(92) + ' ')}")
    return int(json.loads(daemon.ask(f"describe processes {name}"))["pid"])


def test_full_pipes_do_not_stop_what_runs_on_and_the_drainer_ends_with_it(daemon: Daemon, tmp_path: Path) -> None:
    script = f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; seq 200000; touch {tmp_path}/done; "
    pid = process(daemon, "x", script + f"while [ ! -e {tmp_path}/end ]; do sleep 0.01; done")
    pipe = open_fds(pid)[1]
    assert end(daemon) == 0
    (drainer,) = wait_until(lambda: drainers(pipe), "somebody empties the pipe")
    assert sorted(open_fds(drainer)) == [0, 1, 2, *[fd for fd, what in open_fds(drainer).items() if "pipe:" in what]]
    assert os.readlink(f"/proc/{drainer}/cwd") == "/"
    (tmp_path / "go").touch()
    wait_until((tmp_path / "done").exists, "it has written far more than a pipe holds")
    assert alive(drainer)
    (tmp_path / "end").touch()
    wait_until(lambda: not alive(drainer), "the drainer has ended")


def test_a_descendant_is_drained_after_its_parent_has_ended(daemon: Daemon, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"(while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; seq 200000; touch {tmp_path}/done) &")
    daemon.ask(f"make process x env.PATH={os.defpath} /bin/sh {script}")
    wait_until(lambda: "running=False" in daemon.ask("list processes x"), "it has ended")
    assert end(daemon) == 0
    (tmp_path / "go").touch()
    wait_until((tmp_path / "done").exists, "its child has written far more than a pipe holds")


def test_the_addresses_are_free_as_soon_as_it_has_ended_though_somebody_drains(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / str(number)).mkdir()
        with running_papad(tmp_path / str(number), tcp=True) as daemon:
            daemon.leaving = True
            pid = process(daemon, "x", "exec sleep 60")
            daemon.popen.terminate()
            assert daemon.popen.wait(20) == 0
            assert bindable(daemon.port)
        os.kill(pid, signal.SIGKILL)


def test_the_drainer_can_be_ended(daemon: Daemon) -> None:
    pid = process(daemon, "x", "exec sleep 60")
    pipe = open_fds(pid)[1]
    assert end(daemon) == 0
    (drainer,) = wait_until(lambda: drainers(pipe), "somebody empties the pipe")
    os.kill(drainer, signal.SIGTERM)
    wait_until(lambda: not alive(drainer), "the drainer has ended")
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


# A second one.


@pytest.mark.parametrize("state", ["serving", "stopped"])
def test_a_second_papad_for_the_same_path_or_port_says_so_in_one_line(daemon: Daemon, state: str) -> None:
    daemon.ask("set a here")
    pid = daemon.pid
    if state == "stopped":
        os.kill(pid, signal.SIGSTOP)
    for args, told in (
        (("-u", daemon.path), f"{daemon.path} is in use"),
        (("-p", str(daemon.port)), "Address already in use; choose another with -p PORT"),
    ):
        command = [sys.executable, "-m", "papad.daemon.main", *args]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == EXIT_CONFIG
        assert done.stderr.count("\n") == 1
        assert told in done.stderr
    os.kill(pid, signal.SIGCONT)
    assert daemon.ask("get a") == "here"


# Killed.


def inode(port: int) -> str:
    """The inode of what listens at a port of 127.0.0.1."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    (found,) = (words[9] for words in lines if words[1] == f"0100007F:{port:04X}" and words[3] == "0A")
    return found


class Load:
    """Somebody who connects again and again, to the daemon and to a worker; each connection must succeed."""

    def __init__(self, daemon: Daemon, port: int) -> None:
        self.daemon, self.port = daemon, port
        self.failures: list[str] = []
        self.workers: set[str] = set()
        self.counts = {self.ask_daemon: 0, self.ask_worker: 0}
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self.repeat, args=[what]) for what in self.counts]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join(60)

    def repeat(self, what: object) -> None:
        while not self.ending.wait(0.003):
            try:
                what()  # type: ignore[operator]
            except Exception as error:
                self.failures.append(repr(error))
            self.counts[what] += 1  # type: ignore[index]

    def ask_daemon(self) -> None:
        for address in (self.daemon.path, self.daemon.port):
            with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as sock:
                sock.connect(address if isinstance(address, str) else ("127.0.0.1", address))
        if insist(self.daemon, "get a") != "here":
            self.failures.append("the value is another")

    def ask_worker(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as sock:
            sock.sendall(b"who")
            self.workers.add(sock.makefile().read())


def test_killed_twenty_times_under_load_it_loses_and_refuses_nothing(daemon: Daemon, tmp_path: Path) -> None:
    chance = random.Random(20)
    worker, numbered = tmp_path / "worker.py", tmp_path / "numbered.py"
    worker.write_text(WORKER)
    numbered.write_text(NUMBERED)
    daemon.ask("set a here")
    made = daemon.ask("make socket web backlog=128")
    port = int(made.partition("port=")[2].split()[0])
    daemon.ask(f"make process web {sys.executable} {worker} $(socket.web.fileno)")
    daemon.ask(f"make process numbered bufsize=16m {sys.executable} {numbered} {tmp_path}/stop")
    inodes = [inode(port), inode(daemon.port)]
    pids = set()
    with Load(daemon, port) as load:
        for number in range(KILLS):
            pids.add(daemon.pid)
            if chance.random() < 0.5:
                kill_daemon(daemon)
            else:
                kill(daemon.pid)
                wait_until(lambda: child_of_daemon(daemon), "there is another daemon")
            line = insist(daemon, f"make process code{number} /bin/sh -c echo\\ {number};exit\\ {number}")
            assert line.startswith(f"code{number} pid="), line
    assert len(pids) == KILLS
    assert load.failures == []
    assert min(load.counts.values()) > KILLS
    assert len(load.workers) == 1
    assert insist(daemon, "list sockets web") == made
    assert [inode(port), inode(daemon.port)] == inodes
    assert {f"socket:[{each}]" for each in inodes} <= set(open_fds(daemon.pid).values())
    (tmp_path / "stop").touch()
    for number in range(KILLS):
        assert output(daemon, f"code{number}") == (f"{number}\n".encode(), number)
    data, code = output(daemon, "numbered")
    lines = data.decode().split()
    assert len(lines) > 1000
    assert lines == [str(number) for number in range(len(lines))]
    assert code == 7


def child_of_daemon(daemon: Daemon) -> int:
    with contextlib.suppress(ValueError, OSError):
        return daemon.pid
    return 0


def output(daemon: Daemon, name: str) -> tuple[bytes, int | bytes]:
    """All that a process has written, up to its end, and its exit code."""
    with daemon.connect() as talk:
        assert talk.ask_line(f"watch processes {name}") == "Watching 1"
        records = talk.watch_to_end()
    return b"".join(data for kind, _, data in records if kind == "out" and isinstance(data, bytes)), records[-1][2]


def test_killed_itself_it_leaves_a_daemon_that_goes_on_and_frees_all_when_it_ends(
    daemon: Daemon, tmp_path: Path
) -> None:
    pid = daemon.pid
    daemon.ask("set a here")
    port = int(daemon.ask("make socket web").partition("port=")[2].split()[0])
    process(daemon, "old", f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; echo later; exit 5")
    daemon.leaving = True
    daemon.popen.kill()
    assert daemon.popen.wait(20) == -signal.SIGKILL
    try:
        with Talk(daemon.path) as talk:
            assert talk.ask("get a") == "here"
            assert "pid=" in talk.ask("make process new /bin/sh -c echo\\ new;exit\\ 6")
            told = json.loads(talk.ask("describe server"))
        assert told["pid"] == pid
        assert told["nursery"] not in (0, daemon.popen.pid)
        (tmp_path / "go").touch()
        data, code = output(daemon, "old")
        assert data == b"later\n"
        assert code in (5, 256)  # where Linux cannot tell: its parent is gone
        assert output(daemon, "new") == (b"new\n", 6)
        assert "the nursery is gone" in daemon.log
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not alive(pid), "the daemon has ended")
    assert not os.path.exists(daemon.path)
    wait_until(lambda: not alive(told["nursery"]), "nobody holds what it had")
    assert bindable(port)


def test_both_killed_one_after_the_other_nobody_holds_what_they_had(daemon: Daemon, tmp_path: Path) -> None:
    web = int(daemon.ask("make socket web").partition("port=")[2].split()[0])
    daemon.leaving = True
    pid = daemon.pid
    daemon.popen.kill()
    daemon.popen.wait(20)
    new = process(
        daemon, "new", f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; seq 200000; touch {tmp_path}/done"
    )
    nursery = json.loads(daemon.ask("describe server"))["nursery"]
    kill(pid)
    wait_until(lambda: not alive(nursery), "the second nursery has ended")
    assert bindable(daemon.port)
    assert alive(new)
    (tmp_path / "go").touch()
    wait_until((tmp_path / "done").exists, "it has written far more than a pipe holds")
    wait_until(lambda: bindable(web), "its process, the last to have the socket, has ended")


def bindable(port: int) -> bool:
    """Whether nobody listens at a port of 127.0.0.1."""
    with socket.socket() as sock, contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        return True
    return False
