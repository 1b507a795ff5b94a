"""Starting and ending the two servers, each in a folder of its own, on loopback only, ended by process id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.original.venv import original_venv
from tests.support.ports import free_port
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
MARKER = "PAPAD_TEST_SERVER"
WELCOME = b'Papa is home. Type "help" for commands.\n> '
START_ORIGINAL = "import sys; from papa.server import main; sys.argv[0] = 'papa'; main()"


@dataclass
class Server:
    """A running server. An address is a TCP port or a Unix path; papad has both, the original one."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int | None
    path: str | None = None
    marker: str = ""
    children: set[int] = field(default_factory=set)

    def connect(self, address: int | str | None = None) -> socket.socket:
        """A new connection with a time limit on every operation; the caller closes it."""
        address = address or self.port or self.path
        assert address is not None
        where = address if isinstance(address, str) else ("127.0.0.1", address)
        sock = socket.socket(socket.AF_UNIX if where == address else socket.AF_INET)
        sock.settimeout(10)
        try:
            sock.connect(where)
        except BaseException:
            sock.close()
            raise
        return sock

    def answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}: {self.log()}")
        try:
            for address in (self.port, self.path):
                with self.connect(address) as sock:
                    if sock.recv(len(WELCOME), socket.MSG_WAITALL) != WELCOME:
                        return False
        except OSError:
            return False
        return True

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def ended(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> None:
        """End the server, then what it started and what is still there."""
        with contextlib.suppress(OSError):
            self.children.update(listed_pids(self))
        if not self.ended():
            self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            raise AssertionError(f"the server did not end at SIGTERM: {self.log()}") from None
        finally:
            for pid in self.children | marked_pids(self.marker):
                end_session_leader(pid)


def listed_pids(server: Server) -> set[int]:
    with server.connect() as sock:
        sock.sendall(b"list processes\nquit\n")
        text = b"".join(iter(lambda: sock.recv(65536), b""))
    return {int(word[4:]) for word in text.split() if word.startswith(b"pid=") and word[4:].isdigit()}


def marked_pids(marker: str) -> set[int]:
    """Helpers of a server that outlived it: they carry its mark in their environment."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if f"{MARKER}={marker}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
    return found


def end_session_leader(pid: int) -> None:
    """Kill a process made by a server; those lead a session, which a stranger that got the same pid rarely does."""
    with contextlib.suppress(OSError):
        if os.getsid(pid) != os.getsid(0):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def running(command: list[str], folder: Path, port: int | None, path: str | None = None) -> Iterator[Server]:
    marker = uuid.uuid4().hex
    dropped = ("NOTIFY_SOCKET", "LISTEN_", "INVOCATION_ID", "JOURNAL_STREAM", "WATCHDOG_")
    env = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    env |= {MARKER: marker, "PYTHONPATH": str(REPOSITORY)}
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, cwd="/", env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    server = Server(process, folder, port, path, marker)
    try:
        wait_until(server.answers, f"{command} answers")
        yield server
    finally:
        server.end()


@contextlib.contextmanager
def running_original(folder: Path, port: int | None = None, path: str | None = None) -> Iterator[Server]:
    """At the Unix path, or without one at a port."""
    port = None if path else port or free_port()
    python = str(original_venv() / "bin" / "python")
    where = ["-u", path] if path else ["-p", str(port)]
    with running([python, "-c", START_ORIGINAL, *where], folder, port, path) as server:
        yield server


@contextlib.contextmanager
def running_papad(folder: Path, port: int | None = None) -> Iterator[Server]:
    port, path = port or free_port(), str(folder / "papad.sock")
    command = [sys.executable, "-m", "papad.daemon.main", "-p", str(port), "-u", path]
    with running(command, folder, port, path) as server:
        yield server
