"""What is counted: each operation is done to a papad that is quiet before and after it, again and again."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.guard.place import Place, until
from tests.support.waiting import wait_until

Once = Callable[[], object]

AT_ONCE = 100  # requests
HELD = 200  # processes that are listed
LINE = b"a short line of a log\n"
BLOCK = (b"x" * 99 + b"\n") * 640  # 64,000 bytes: what a pipe takes


@dataclass(frozen=True)
class Operation:
    """`ready` makes what it needs, and gives what does it once."""

    name: str
    ready: Callable[[Place], AbstractContextManager[Once]]


def simple(act: Callable[[Place], object]) -> Callable[[Place], AbstractContextManager[Once]]:
    """One that needs nothing."""

    @contextlib.contextmanager
    def ready(place: Place) -> Iterator[Once]:
        yield lambda: act(place)

    return ready


@contextlib.contextmanager
def many_gets(place: Place) -> Iterator[Once]:
    """They come with one read."""
    lines, answers = b"get x\n" * AT_ONCE, b"1\n> " * AT_ONCE
    with place.connect(place.path) as sock:

        def once() -> None:
            sock.sendall(lines)
            until(sock, answers)

        yield once


@contextlib.contextmanager
def a_process(place: Place) -> Iterator[Once]:
    """From `make process` to what the daemon and the nursery do once it has ended; nothing is left of it."""

    def once() -> None:
        answer = place.ask("make process once /bin/true")
        gone(int(answer.partition(" pid=")[2].split()[0]))
        place.quiet()
        place.ask("remove processes once")

    yield once


@contextlib.contextmanager
def captured(place: Place, data: bytes) -> Iterator[Once]:
    """It is in the pipe as a whole before the daemon sees any of it."""
    with writer(place) as (write, pid):

        def once() -> None:
            before = written(pid)
            os.kill(place.daemon, signal.SIGSTOP)
            try:
                wait_until(lambda: state(place.daemon) in "tT", "the daemon is stopped")
                write(data)
                wait_until(lambda: written(pid) == before + len(data), "it is in the pipe")
            finally:
                os.kill(place.daemon, signal.SIGCONT)
            place.quiet()

        yield once


@contextlib.contextmanager
def watched(place: Place) -> Iterator[Once]:
    """A short line is captured, delivered and acknowledged."""
    with writer(place) as (write, _), place.connect(place.path) as sock:
        sock.sendall(b"watch processes writer\n")
        assert until(sock, b"\n") == b"Watching 1\n"

        def once() -> None:
            write(LINE)
            assert LINE in until(sock, b"] ")
            place.quiet()
            sock.sendall(b"-\n")

        yield once


@contextlib.contextmanager
def a_list(place: Place) -> Iterator[Once]:
    """Of processes that have ended, for these are made sooner."""
    for number in range(HELD):
        place.ask(f"make process held.{number} /bin/true")
    place.quiet()

    def once() -> None:
        assert place.ask("list processes").count("\n") == HELD - 1

    yield once
    place.ask("remove processes held.*")


@contextlib.contextmanager
def writer(place: Place) -> Iterator[tuple[Callable[[bytes], object], int]]:
    """A process that writes what it is given; how to give it something, and its pid."""
    fifo = place.folder / "fifo"
    os.mkfifo(fifo)
    path = str(fifo).replace(" ", "\\ ")
    pid = int(place.ask(f"make process writer /bin/cat {path}").partition(" pid=")[2].split()[0])
    fd = os.open(fifo, os.O_RDWR)  # which waits for nobody
    try:
        yield lambda data: os.write(fd, data), pid
    finally:
        os.close(fd)
        fifo.unlink()
        gone(pid)
        place.quiet()
        place.ask("remove processes writer")


def gone(pid: int) -> None:
    """Wait until the nursery has reaped it."""
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the process is gone")


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def written(pid: int) -> int:
    """How many bytes it has written, in calls that have returned (proc_pid_io(5))."""
    return int(Path(f"/proc/{pid}/io").read_text().partition("wchar: ")[2].split()[0])


def connected(place: Place, address: str | int) -> None:
    """A client comes, is welcomed, and goes."""
    with place.connect(address):
        place.quiet()


OPERATIONS = [
    Operation("get, Unix", simple(lambda place: place.ask("get x"))),
    Operation("get, TCP", simple(lambda place: place.ask("get x", place.port))),
    Operation(f"{AT_ONCE} gets at once", many_gets),
    Operation("connection, Unix", simple(lambda place: connected(place, place.path))),
    Operation("connection, TCP", simple(lambda place: connected(place, place.port))),
    Operation("set", simple(lambda place: place.ask("set y 12345678"))),
    Operation("process, from start to end", a_process),
    Operation("captured line", lambda place: captured(place, LINE)),
    Operation(f"captured {len(BLOCK):,} bytes of lines", lambda place: captured(place, BLOCK)),
    Operation("watched line", watched),
    Operation(f"list of {HELD} processes", a_list),
]
