"""examples/manager.py: a process manager on the client library that loses nothing, whatever is killed and when."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

from papad import Frame, Papa, aio
from tests.support.papad import REPOSITORY, Daemon, in_child
from tests.support.ports import free_port
from tests.support.waiting import wait_until

SEED = int(os.environ.get("PAPAD_CHAOS_SEED") or random.randrange(10**9))
SECONDS = float(os.environ.get("PAPAD_CHAOS_SECONDS") or 15)
WANTED = 3

# Serves on descriptor 3, and writes numbered lines. What it has written is in a file of its own, too.
WORKER = """
import os, select, signal, socket, sys
ending = []
signal.signal(signal.SIGTERM, lambda *_: ending.append(1))
listener = socket.socket(fileno=3)
listener.setblocking(False)
name, number = os.environ["NAME"], 0
truth = os.open("truth/" + name, os.O_CREAT | os.O_WRONLY)
while not ending:
    if select.select([listener], [], [], .005)[0]:
        try:
            other, _ = listener.accept()
        except BlockingIOError:
            pass
        else:
            other.sendall(name.encode())
            other.close()
    os.write(1 + number % 5 // 4, b"line %d\\n" % number)
    number += 1
    os.pwrite(truth, b"%9d" % number, 0)
"""


class Run:
    """A manager that is started again whenever it is killed, and who counts its workers meanwhile."""

    def __init__(self, folder: Path, papad: Daemon) -> None:
        self.folder, self._papad = folder, papad
        (folder / "truth").mkdir()
        self.port = free_port()
        self.configure("1")
        self._ending = threading.Event()
        self.fewer = 0.0
        """The longest time in seconds in which there were fewer workers than wanted."""
        self._threads = [threading.Thread(target=each) for each in (self._supervise, self._count)]
        self.manager: subprocess.Popen[bytes]
        self.begun = 0

    def configure(self, release: str, workers: int = WANTED, command: list[str] | None = None) -> None:
        command = command or [sys.executable, "-S", "-c", WORKER]
        config = {"name": "web", "workers": workers, "release": release, "port": self.port, "command": command}
        config["log_size"] = 20_000
        (self.folder / "new").write_text(json.dumps(config))
        (self.folder / "new").rename(self.folder / "manager.json")

    def deploy(self, release: str, workers: int = WANTED) -> None:
        self.configure(release, workers)
        with contextlib.suppress(ProcessLookupError):
            self.manager.send_signal(signal.SIGHUP)

    def __enter__(self) -> Run:
        self._threads[0].start()
        wait_until(lambda: len(self.running()) == WANTED, "the workers run")
        self._threads[1].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.manager.kill()
        for thread in self._threads:
            thread.join()

    def _supervise(self) -> None:
        env = os.environ | {"PAPAD_SOCKET": self._papad.path, "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, str(REPOSITORY / "examples/manager.py"), str(self.folder)]
        while not self._ending.is_set():
            with open(self.folder / "errors", "ab") as errors:
                self.manager = subprocess.Popen(command, env=env, stderr=errors)
            self.begun += 1
            self.manager.wait()

    def _count(self) -> None:
        enough = time.monotonic()
        while not self._ending.wait(0.01):
            if len(self.running()) >= WANTED:
                enough = time.monotonic()
            self.fewer = max(self.fewer, time.monotonic() - enough)

    def running(self) -> dict[str, int]:
        """The workers that write, by name."""
        found = {}
        for name, pid in self._pids().items():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found[name] = pid
        return found

    def _pids(self) -> dict[str, int]:
        found = {}
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                cwd, environ = os.readlink(f"/proc/{pid}/cwd"), Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if cwd == str(self.folder):
                    found |= {each[5:].decode(): int(pid) for each in environ if each.startswith(b"NAME=web")}
        return found

    def releases(self) -> set[str]:
        return {name.split(".")[1] for name in self.running()}

    def shipped(self) -> dict[str, list[int]]:
        """The numbers of the lines of each worker, in the order of the files."""
        lines = defaultdict(list)
        files = sorted(self.folder.glob("log.*"), key=lambda path: int(path.suffix[1:]))
        for line in "".join(path.read_text() for path in files).splitlines():
            found = re.fullmatch(r"(web\.\S+): line (\d+)", line)
            assert found, f"not a line of a worker: {line!r}"
            lines[found[1]].append(int(found[2]))
        return lines

    def written(self) -> dict[str, int]:
        """How many lines each worker has written, or one more where it was killed in between."""
        return {path.name: int(path.read_text() or 0) for path in (self.folder / "truth").iterdir()}


def program() -> ModuleType:
    """The manager's own, as a module."""
    spec = importlib.util.spec_from_file_location("manager", REPOSITORY / "examples/manager.py")
    assert spec is not None
    assert spec.loader is not None
    manager = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(manager)
    return manager


OUTPUT = {id: b"".join(b"line %d\n" % number for number in range(7)) + b"no end" for id in (5, 6)}


def feed(log: Any) -> None:
    """All that papad would send, from where the log is: pieces of lines, and then the ends."""
    frames = []
    for at in range(0, len(OUTPUT[5]), 5):
        for id, data in OUTPUT.items():
            start = max(at, log.positions.get(id, 0))
            if data[at : at + 5] and at + 5 > start:
                frames.append(Frame("out", f"web.1.{id}", 1.0, data[start : at + 5], id, start))
            if at == 20:  # its child goes on, in the middle of a line
                frames.append(Frame("exited", f"web.1.{id}", 1.5, 0, id, max(at + 5, start)))
    frames += [Frame("closed", f"web.1.{id}", 2.0, 0, id, len(data)) for id, data in OUTPUT.items()]
    for at in range(0, len(frames), 3):
        log.write(frames[at : at + 3])


def test_a_log_whose_writer_is_killed_at_any_line_has_all_of_it_once(tmp_path: Path) -> None:
    """At the same line of its program twice, while it goes on, too."""
    manager = program()

    def lives(folder: Path, lines: int) -> None:
        left = itertools.count(lines, -1)

        def trace(frame: FrameType, event: str, _: object) -> Any:
            if frame.f_code.co_filename != manager.__file__:
                return None
            if event == "line" and next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        feed(manager.Log(folder, 60))

    expected = {id: [*data.decode().split("\n")] for id, data in OUTPUT.items()}
    for lines in itertools.count():
        folder = tmp_path / str(lines)
        folder.mkdir()
        killed = [in_child(lambda folder=folder, lines=lines: lives(folder, lines)) == signal.SIGKILL for _ in range(2)]
        with contextlib.closing(manager.Log(folder, 60)) as log:
            feed(log)
        files = sorted(folder.glob("log.*"), key=lambda path: int(path.suffix[1:]))
        text = "".join(path.read_text() for path in files).splitlines()
        for id in OUTPUT:
            assert [line.partition(": ")[2] for line in text if line.startswith(f"web.1.{id}:")] == expected[id], lines
        assert len(files) > 2
        if not any(killed):
            break
    assert lines > 200


def test_a_worker_that_ends_in_the_instant_in_which_it_is_stopped_is_no_error(
    own_papad: Daemon, tmp_path: Path
) -> None:
    manager = program()
    (tmp_path / "manager.json").write_text(json.dumps({"name": "web", "release": "1", "command": ["/bin/cat", "fifo"]}))
    os.mkfifo(tmp_path / "fifo")

    async def stop() -> None:
        async with aio.Papa(own_papad.path, autostart=False) as papa:
            await papa.make_socket("web")
            each = manager.Manager(tmp_path, papa)
            await each._start()
            (pid,) = [process["pid"] for process in (await papa.list_processes()).values()]
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it is gone, and the manager has not heard of it")
            each._stop("web.1.1")
            assert each._ending == {"web.1.1"}
            each._changed.clear()
            await asyncio.wait_for(each._changed.wait(), 10)
            assert (each._workers, each._ending) == ({}, set())
            each._log.close()

    asyncio.run(stop())


@pytest.fixture
def run(own_papad: Daemon, tmp_path: Path) -> Iterator[Run]:
    folder = tmp_path / "manager"
    folder.mkdir()
    with Run(folder, own_papad) as run:
        yield run
    assert "Traceback" not in (folder / "errors").read_text()


def all_is_shipped(run: Run, papad: Daemon) -> None:
    """End the workers; then each line that they wrote is in the files once, in order, and papad holds none of them."""
    run.deploy("last", workers=0)
    with Papa(papad.path, 20, autostart=False) as p:
        wait_until(lambda: not p.list_processes(), "all have ended, and their output is in the files")
    shipped, written = run.shipped(), run.written()
    assert shipped.keys() == {name for name, count in written.items() if count}
    for name, numbers in shipped.items():
        assert numbers == list(range(len(numbers))), name
        assert len(numbers) in (written[name], written[name] + 1), name


def test_a_release_takes_the_place_of_another_and_refuses_nobody(run: Run, own_papad: Daemon) -> None:
    answers: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.002):
            with socket.create_connection(("127.0.0.1", run.port), timeout=10) as sock:
                answers.append(sock.recv(100).decode())

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        run.deploy("2")
        wait_until(lambda: run.releases() == {"2"} and len(run.running()) == WANTED, "only the new release runs")
    finally:
        done.set()
        asking.join()
    assert {answer.split(".")[1] for answer in answers} == {"1", "2"}
    assert "" not in answers
    assert run.fewer < 0.2
    all_is_shipped(run, own_papad)
    print(f"{len(answers)} answers; fewer workers for {run.fewer:.2f} s")


@pytest.mark.parametrize("command", [["/no/such/program"], ["/bin/sh", "-c", "echo tried >&2; exit 1"]])
def test_a_release_that_fails_is_tried_less_and_less_often_and_leaves_the_old_one_alone(
    run: Run, command: list[str]
) -> None:
    before = run.running()
    run.configure("bad", command=command)
    run.manager.send_signal(signal.SIGHUP)

    def tries() -> int:
        shipped = "".join(path.read_text() for path in run.folder.glob("log.*"))
        return shipped.count("tried\n") + (run.folder / "errors").read_text().count("Bad command")

    began = time.monotonic()
    wait_until(lambda: tries() >= 4, "it was tried again")
    assert time.monotonic() - began > 0.1 + 0.2 + 0.4
    assert run.running() == before
    run.deploy("good")
    wait_until(lambda: run.releases() == {"good"}, "one that does not fail takes the place of the old one")


def passed(until: float) -> bool:
    return time.monotonic() > until


def test_nothing_is_lost_and_nobody_missing_whoever_is_killed(run: Run, own_papad: Daemon) -> None:
    """Who replaces a worker may be killed in the middle of that, once; then the next kill waits for the worker."""
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    end = time.monotonic() + SECONDS
    kills = dict.fromkeys(("manager", "papad", "worker"), 0)
    who = ""
    with Papa(own_papad.path, 20, autostart=False) as p:
        while time.monotonic() < end:
            if who != "worker":
                wait_until(lambda: len(run.running()) >= WANTED, "the workers run")
            who = chance.choice(list(kills))
            if who == "manager":
                run.manager.kill()
            elif who == "papad":
                os.kill(p.describe("server")[0]["pid"], signal.SIGKILL)
            else:
                os.kill(chance.choice([pid for _, pid in sorted(run.running().items())]), signal.SIGKILL)
            kills[who] += 1
            if chance.random() < 0.2:
                run.deploy(str(chance.randrange(100)))
            until = time.monotonic() + chance.uniform(0, 1.5)
            wait_until(functools.partial(passed, until), "a while later")
    all_is_shipped(run, own_papad)
    assert len(list(run.folder.glob("log.*"))) > 2
    print(f"{kills}, {run.begun} managers, {sum(run.written().values())} lines, fewer workers for {run.fewer:.2f} s")
    assert run.fewer < 1
