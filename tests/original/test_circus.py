"""circus 0.17.2 with use_papa: its workers outlive it, it adopts them again, and it replaces one that is killed.

circus asks 127.0.0.1:20202 whatever its settings say, so these tests need that port.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.original.conversation import Conversation
from tests.original.servers import Server, running_papad
from tests.support.ports import free_port
from tests.support.waiting import wait_until

PORT = 20202
WORKER = """
import os, socket, sys
print("worker", os.getpid(), flush=True)
listener = socket.socket(fileno=int(sys.argv[1]))
while True:
    connection, _ = listener.accept()
    connection.sendall(b"%d" % os.getpid())
    connection.close()
"""
CONFIG = """
[circus]
check_delay = 1
endpoint = tcp://127.0.0.1:{control}
pubsub_endpoint = tcp://127.0.0.1:{events}
statsd = False

[watcher:web]
cmd = {python} {folder}/worker.py $(circus.sockets.web)
numprocesses = 2
use_sockets = True
use_papa = True
stdout_stream.class = FileStream
stdout_stream.filename = {folder}/out
stderr_stream.class = FileStream
stderr_stream.filename = {folder}/err

[socket:web]
host = 127.0.0.1
port = {port}
use_papa = True
"""


@pytest.fixture
def papad_on_its_port(tmp_path: Path) -> Iterator[Server]:
    """papad where circus looks for it; TCP and the private Unix path hold one state, so it is papad that answers."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError as error:
            pytest.skip(f"circus talks to 127.0.0.1:{PORT} only, and that port is taken: {error}")
    with running_papad(tmp_path / "papad", PORT) as server:
        assert ask(server, "set who papad", server.path) == ""
        assert ask(server, "get who") == "papad"
        yield server
        assert ask(server, "get who") == "papad"


def ask(server: Server, line: str, address: int | str | None = None) -> str:
    with contextlib.closing(Conversation(server.connect(address))) as talk:
        talk.reply()
        talk.send(line.encode())
        return talk.reply().decode().removesuffix("\n> ")


@dataclass
class Circus:
    """circusd and circusctl, with endpoints of their own."""

    folder: Path
    python: str
    papad: Server
    port: int
    control: int
    daemon: subprocess.Popen[bytes] | None = None
    count: int = 2

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8"}

    def launch(self) -> None:
        command = [self.python, "-W", "ignore", "-m", "circus.circusd", str(self.folder / "circus.ini")]
        with open(self.folder / "circusd.log", "ab") as log:
            self.daemon = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def start(self) -> None:
        self.launch()
        wait_until(lambda: self.managed() == self.count, f"circus manages its workers: {self.log()}", 30)

    def control_call(self, *words: str) -> str:
        command = [self.python, "-W", "ignore", "-m", "circus.circusctl", "--timeout", "10"]
        command += ["--endpoint", f"tcp://127.0.0.1:{self.control}", *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout.strip()

    def managed(self) -> int:
        assert self.daemon is not None
        assert self.daemon.poll() is None, self.log()
        listed = self.control_call("list", "web")
        return len([word for word in listed.split(",") if word.isdigit()])

    def quit(self) -> None:
        assert self.daemon is not None
        # Refused while another command is at work.
        wait_until(lambda: self.control_call("quit") == "ok", f"circus takes `quit`: {self.log()}", 30)
        try:
            self.daemon.wait(30)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"circus did not quit within 30 s: {self.log()}") from None

    def end(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait(10)

    def log(self) -> str:
        return (self.folder / "circusd.log").read_text(errors="replace")[-3000:]

    def running_pids(self) -> set[int]:
        lines = ask(self.papad, "list processes circus.*").splitlines()
        return {int(line.split("pid=")[1].split()[0]) for line in lines if "running=True" in line}

    def serving_pids(self, count: int) -> set[int]:
        """Connect until so many different workers have answered."""
        seen: set[int] = set()

        def enough() -> bool:
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
                seen.add(int(client.recv(100)))
            return len(seen) >= count

        wait_until(enough, f"{count} workers serve: {self.log()}", 20)
        return seen


@pytest.fixture
def circus(venv: Path, papad_on_its_port: Server, tmp_path: Path) -> Iterator[Circus]:
    folder = tmp_path / "circus"
    folder.mkdir()
    python = str(venv / "bin" / "python")
    circus = Circus(folder, python, papad_on_its_port, free_port(), free_port())
    (folder / "worker.py").write_text(WORKER)
    values = {"control": circus.control, "events": free_port(), "port": circus.port}
    (folder / "circus.ini").write_text(CONFIG.format(python=python, folder=folder, **values))
    yield circus
    circus.end()


def test_workers_outlive_circus_and_are_adopted(circus: Circus) -> None:
    circus.start()
    first = circus.serving_pids(2)
    assert circus.running_pids() == first

    circus.quit()
    assert circus.serving_pids(2) == first

    circus.start()
    assert circus.running_pids() == first
    assert circus.serving_pids(2) == first

    victim = min(first)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(circus.running_pids()) == 2 and victim not in circus.running_pids(), "a new worker", 20)
    second = circus.serving_pids(2)
    assert victim not in second
    assert len(second & first) == 1

    def printed() -> set[int]:
        return {int(line.split()[1]) for line in (circus.folder / "out").read_text().splitlines()}

    wait_until(lambda: printed() == first | second, f"the output of all workers: {circus.log()}")
    circus.quit()
    assert circus.serving_pids(2) == second


def test_a_worker_that_ended_while_circus_was_away_is_replaced(circus: Circus) -> None:
    circus.start()
    first = circus.serving_pids(2)
    circus.quit()
    os.kill(min(first), signal.SIGKILL)
    circus.start()
    wait_until(lambda: len(circus.running_pids()) == 2, f"two workers again: {circus.log()}", 20)
    assert max(first) in circus.serving_pids(2)


def test_stopping_the_watcher_ends_its_workers(circus: Circus) -> None:
    circus.start()
    circus.serving_pids(2)
    circus.control_call("stop", "web")
    wait_until(lambda: not circus.running_pids(), f"no worker is left: {circus.log()}", 20)
    circus.quit()
