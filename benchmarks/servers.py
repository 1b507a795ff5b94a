"""papad and the original side by side, and what the programs ask of them."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import ORIGINAL, PAPAD
from tests.original.servers import WELCOME, Server, running_original, running_papad
from tests.support.waiting import wait_until

Address = int | str
"""A port of 127.0.0.1, or the path of a Unix socket."""


@contextlib.contextmanager
def on_one_processor() -> Iterator[None]:
    """Have this process, and what it starts, share one processor: how long an idle one takes to wake up is not measured."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="papad-bench-") as path:
        yield Path(path)


@contextlib.contextmanager
def both() -> Iterator[dict[str, Server]]:
    """papad and the original, both at a Unix path."""
    with folder() as place, fresh(PAPAD, place / "papad") as papad, fresh(ORIGINAL, place / "original") as original:
        yield {PAPAD: papad, ORIGINAL: original}


@contextlib.contextmanager
def fresh(who: str, place: Path) -> Iterator[Server]:
    """One of them, at a Unix path."""
    place.mkdir()
    running = running_papad(place) if who == PAPAD else running_original(place, path=str(place / "papa.sock"))
    with running as server:
        yield server


def unix_path(server: Server) -> str:
    assert server.path is not None
    return server.path


def welcomed(address: Address) -> socket.socket:
    """A new connection after its welcome; the caller closes it."""
    where = address if isinstance(address, str) else ("127.0.0.1", address)
    sock = socket.socket(socket.AF_UNIX if where == address else socket.AF_INET)
    try:
        sock.settimeout(60)
        sock.connect(where)
        got = receive(sock, len(WELCOME))
        assert got == WELCOME, got
    except BaseException:
        sock.close()
        raise
    return sock


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly so many bytes."""
    got = sock.recv(size)
    while len(got) < size:
        more = sock.recv(size - len(got))
        if not more:
            raise EOFError(got)
        got += more
    return got


def ask(sock: socket.socket, line: str) -> str:
    """The answer to one line, without the prompt."""
    sock.sendall(f"{line}\n".encode())
    got = bytearray()
    while not got.endswith(b"\n> "):
        more = sock.recv(1 << 20)
        if not more:
            raise EOFError(got)
        got += more
    answer = got[:-3].decode()
    assert not answer.startswith("Error"), answer
    return answer


def clear(sock: socket.socket) -> None:
    """Remove all processes, which have ended."""
    ask(sock, "remove processes *")
    wait_until(lambda: not ask(sock, "list processes"), "nothing is left")


@dataclass
class Record:
    """One of a batch."""

    kind: bytes
    """out, err or closed."""
    data: bytes
    at: float
    """When it was received, by the monotonic clock."""


def watch(address: Address, name: str) -> Iterator[Record]:
    """All that a process writes, and its end; each batch is acknowledged once it has been used."""
    with welcomed(address) as sock, sock.makefile("rb", 1 << 20) as stream:
        sock.sendall(f"watch processes {name}\n".encode())
        line = stream.readline()
        assert line == b"Watching 1\n", line
        ended = False
        while not ended:
            while (lead := stream.read(2)) != b"] ":
                kind, _, _, rest = (lead + stream.readline()).split(b":")
                ended = kind == b"closed"
                data = b"" if ended else stream.read(int(rest) + 1)[:-1]
                yield Record(kind, data, time.monotonic())
            sock.sendall(b"-\n")
        line = stream.readline()
        assert line == b"Nothing left to watch\n", line


def daemon_of(server: Server) -> int:
    """The pid of the daemon: with papad a child of what was started, which is the nursery."""
    pid = server.process.pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            if b"papad.daemon.main" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    return pid
