"""A papad under a tool that counts, quiet until it is asked for something: then all that it does belongs to that."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.manager import PAPAD, Manager
from tests.support.papad import WELCOME
from tests.support.waiting import wait_until

CLOCKS = ("main._STATUS_DELAY", "connection._TURN", "delivery.frames._TURN", "server._ACCEPTING")
"""What ends or comes by the clock in papad.daemon; here it does not, for under a tool all is slow."""

# All modules are imported before the gate opens.
PROGRAM = """
import importlib
import papad.daemon.main
for clock in {clocks!r}:
    module, _, name = clock.rpartition(".")
    found = importlib.import_module("papad.daemon." + module)
    assert hasattr(found, name), clock
    setattr(found, name, 1e9)
open({gate!r}).read()
papad.daemon.main.main()
"""
QUIET_LOOKS, QUIET_SECONDS = 5, 0.004


class Place:
    """The daemon runs under `tool`, the words before its command, and waits at a gate once it has imported all."""

    def __init__(self, folder: Path, tool: Sequence[str]) -> None:
        folder.mkdir(parents=True)
        self._gate = str(folder / "gate")
        os.mkfifo(self._gate)
        self.folder = folder
        environ = {"PYTHONHASHSEED": "0"}
        command = [*tool, PAPAD[0], "-c", PROGRAM.format(clocks=CLOCKS, gate=self._gate)]
        self._manager = Manager(folder, command, environ)
        self.path, self.port = self._manager.path, self._manager.port
        self._nursery = 0
        self._idle: list[int] = []  # pids
        self._talks: dict[str | int, socket.socket] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in self._talks.values():
            sock.close()
        for pid in self._idle:
            os.kill(pid, signal.SIGKILL)
        self._manager.end(self._nursery)

    @property
    def daemon(self) -> int:
        """The pid of the daemon."""
        return self._manager.pid

    @property
    def nursery(self) -> int:
        """The pid of the nursery."""
        if not self._nursery:
            self._nursery = wait_until(lambda: json.loads(self.ask("describe server"))["nursery"], "a nursery")
        return self._nursery

    @contextlib.contextmanager
    def at_gate(self) -> Iterator[None]:
        """The daemon has imported all, and waits until the end of this before it begins."""
        fd = wait_until(self._opened, "the daemon is at the gate", 120)
        try:
            yield
        finally:
            os.close(fd)

    def _opened(self) -> int:
        try:
            return os.open(self._gate, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads
            return 0

    def replace(self) -> None:
        """Kill the daemon; the next one comes to the gate."""
        self.disconnect()
        before = self.daemon
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: self.daemon != before, "there is another daemon")

    def hold(self, count: int) -> None:
        """Have so many processes run, which do nothing."""
        for number in range(len(self._idle), count):
            answer = self.ask(f"make process idle.{number} /bin/sleep 1000")
            self._idle.append(int(answer.partition(" pid=")[2].split()[0]))

    def connect(self, address: str | int) -> socket.socket:
        """A new connection after its welcome; the caller closes it."""
        sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        sock.settimeout(120)
        try:
            sock.connect(address if isinstance(address, str) else ("127.0.0.1", address))
            assert until(sock, b"> ") == WELCOME
        except BaseException:
            sock.close()
            raise
        return sock

    def ask(self, line: str, address: str | int = "") -> str:
        """The answer to a line, on a connection that stays, by default to the Unix socket."""
        address = address or self.path
        if address not in self._talks:
            self._talks[address] = self.connect(address)
        self._talks[address].sendall(f"{line}\n".encode())
        answer = until(self._talks[address], b"\n> ")[:-3].decode()
        assert not answer.startswith("Error"), answer
        return answer

    def disconnect(self) -> None:
        """Close the connections that stay."""
        for sock in self._talks.values():
            sock.close()
        self._talks.clear()

    def quiet(self) -> None:
        """Wait until daemon and nursery wait for something to do."""
        pids = [self.daemon, self.nursery]
        looks: list[list[str]] = []

        def same() -> bool:
            time.sleep(QUIET_SECONDS)
            looks.append([asleep(pid) for pid in pids])
            return all(looks[-1]) and looks[-QUIET_LOOKS:] == looks[-1:] * QUIET_LOOKS

        wait_until(same, "papad is quiet")


def asleep(pid: int) -> str:
    """How much processor time a process has had, if it waits now; else nothing."""
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return Path(f"/proc/{pid}/schedstat").read_text().split()[0] if state == "S" else ""


def until(sock: socket.socket, end: bytes) -> bytes:
    """All that comes, up to this end."""
    got = bytearray()
    while not got.endswith(end):
        more = sock.recv(1 << 20)
        if not more:
            raise EOFError(bytes(got))
        got += more
    return bytes(got)


@contextlib.contextmanager
def running(folder: Path, tool: Sequence[str]) -> Iterator[Place]:
    """A place whose papad has begun."""
    with Place(folder, tool) as place:
        with place.at_gate():
            pass
        place.ask("set x 1")
        place.quiet()
        yield place
