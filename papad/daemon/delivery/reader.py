"""Read output without consuming it: frames of several processes, merged by time.

A frame is a line, `KIND:NAME:TIMESTAMP:NUMBER:ID:POSITION`. For the kinds `out` and `err`, NUMBER
bytes and a newline follow it. docs/protocol.md lists the kinds.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

from papad.daemon.output.ring import STREAMS, Ring
from papad.daemon.tables.process import Process
from papad.daemon.tables.processes import Processes

_CHUNK, _CHUNKS = 16 * 1024, 4 << 20  # the most bytes read ahead of one process, and of all

Frame = tuple[float, int, int, bytes]
"""Time, process id, position after it (or one of the following), and the bytes to send."""
_CLOSED, _EXITED = -1, -2


@dataclass(frozen=True)
class Query:
    """What a client wants to read. Times are in seconds since 1970."""

    patterns: list[str]
    last: int | None = None
    bytes: int | None = None
    since: float = 0.0
    until: float = float("inf")
    stream: str | None = None
    follow: bool = False
    after: dict[int, int] = field(default_factory=dict)  # process id -> position
    before: dict[int, int] = field(default_factory=dict)  # process id -> position


class Reading:
    """A client's reading: each byte comes once, as far as there was one when it was asked for.

    A follower is told of changes to processes, and calls `on_news` when there may be more.
    """

    def __init__(self, processes: Processes, query: Query) -> None:
        """Begin to read. Raises Error for a name that does not exist, except when following."""
        self.query = query
        self.on_news: Callable[[], object] = lambda: None
        self.found = False
        """Whether any frame was yielded."""
        self._processes = processes
        self._positions: dict[int, int] = dict(query.after)  # process id -> where to read on
        self._told: set[tuple[int, int]] = set()  # process id, and _CLOSED or _EXITED: what was sent of its end
        self._news: dict[int, Process] = {}  # processes that may have more, by id
        self._merging: dict[int, Process] = {}  # those of which `_merged` yields what there was when it began
        self._merged: Iterator[Frame] | None = None
        found = processes.select(query.patterns, required=not query.follow)
        for process in found:
            self._news[process.id] = process
            if process.id not in self._positions:
                self._positions[process.id] = self._start(process)
        self._seeking = self._seek(found) if (query.last, query.bytes) != (None, None) else iter(())
        if query.follow:
            processes.followers.add(self)

    def end(self) -> None:
        """Stop reading."""
        self._processes.followers.discard(self)
        self.on_news = lambda: None

    def wake(self, process: Process) -> None:
        """Note that a process may have more to read."""
        if process.id in self._positions or self._processes.matches(process, self.query.patterns):
            self._positions.setdefault(process.id, 0)
            self._news[process.id] = process
            self.on_news()

    @property
    def has_news(self) -> bool:
        """Whether a follower has more to read, once `frames` has come to its end."""
        return bool(self._news)

    def frames(self) -> Generator[bytes]:
        """Yield what there is, merged by time; and an empty frame at each step on the way.

        So the caller can stop when it has taken too long. What is not taken from the iterator is
        yielded by the next call.
        """
        for _ in self._seeking:
            yield b""
        if self._merged is None:
            self._merging, self._news = self._news, {}
            chunk = max(1024, min(_CHUNK, _CHUNKS // max(1, len(self._merging))))
            self._merged = heapq.merge(*(self._frames_of(process, chunk) for process in self._merging.values()))
        for _, id, position, data in self._merged:
            if position < 0:
                self._told.add((id, position))
            else:
                self._positions[id] = position
            self.found = self.found or bool(data)
            yield data
        self._merged = None
        self._news = {id: each for id, each in self._merging.items() if self._has_more(each)} | self._news

    def _frames_of(self, process: Process, most: int) -> Iterator[Frame]:
        """Yield the frames of one process, up to what it has written by now, of `most` bytes each.

        `frames` advances its position as it yields them.
        """
        query, id = self.query, process.id
        position = self._positions[id]
        before = min(query.before.get(id, sys.maxsize), process.ring.state.tail if process.ring else 0)
        while process.ring is not None:
            start = max(position, process.ring.state.head)
            chunk = next(process.ring.read(start, min(most, before - start)), None)
            if chunk is None or chunk.time > query.until:
                break
            if chunk.position > position:
                missing = chunk.position - position
                yield chunk.time, id, chunk.position, _line("lost", process, chunk.time, missing, chunk.position)
            position = chunk.position + len(chunk.data)
            stream = STREAMS[chunk.stream]
            head = _line(stream, process, chunk.time, len(chunk.data), chunk.position)
            wanted = query.stream in (None, stream)
            yield chunk.time, id, position, head + chunk.data + b"\n" if wanted else b""
        if process.ring is not None:
            state = process.ring.state
            # No chunk follows that would show the gap, where a watcher acknowledged the rest of a closed process,
            # or where all that there was has been overwritten before this reader got to it.
            rest = process.closed and state.head == state.tail
            gone = state.head if rest else before if id not in query.before and before <= state.head else position
            if position < gone:
                missing, position, newest = gone - position, gone, process.ring.newest
                yield newest, id, position, _line("lost", process, newest, missing, position)
        if self._at_end(process, position):
            yield self._end(process, _CLOSED, position)
        elif self._at_exit(process):
            yield self._end(process, _EXITED, position)

    def _end(self, process: Process, what: int, position: int) -> Frame:
        """Return the frame `closed`, or `exited`, which is empty outside the time that was asked for."""
        assert process.exit is not None
        code, ended = process.exit
        # Either comes after all output that there is by now, although a child may have written after the exit.
        kind, end = ("closed", process.closed_at) if what == _CLOSED else ("exited", ended)
        wanted = self.query.since <= end <= self.query.until
        return process.closed_at, process.id, what, _line(kind, process, end, code, position) if wanted else b""

    def _at_exit(self, process: Process) -> bool:
        """Return whether the process has ended, is not closed for somebody holds its output, and that was not sent yet."""
        return process.exit is not None and (process.id, _EXITED) not in self._told and process.held

    def _at_end(self, process: Process, position: int) -> bool:
        """Return whether the process is closed and all was read, but its end was not sent yet."""
        unread = process.ring is not None and position < process.ring.state.tail
        return process.closed and (process.id, _CLOSED) not in self._told and not unread

    def _has_more(self, process: Process) -> bool:
        position = self._positions[process.id]
        return self._unsent(process, position) or self._at_end(process, position) or self._at_exit(process)

    def _unsent(self, process: Process, position: int) -> bool:
        """Return whether there is output from `position` on that was asked for."""
        if process.ring is None or position >= self.query.before.get(process.id, sys.maxsize):
            return False
        following = next(process.ring.read(position, 1), None)
        return following is not None and following.time <= self.query.until

    def _start(self, process: Process) -> int:
        """Return the default position to start at: after what watchers have acknowledged.

        Bytes that were overwritten before that are included, and reported as lost.
        """
        if process.ring is None:
            return 0
        if self.query.since:
            return process.ring.position_at(self.query.since)
        return max(0, process.ring.state.head - process.ring.state.lost)

    def _seek(self, processes: list[Process]) -> Iterator[None]:
        """Find where the newest `last` records or `bytes` of all processes begin, a record at each step."""
        query = self.query
        starts = {each.id: each.ring.state.tail for each in processes if each.ring is not None}
        records = (_newest_first(each.id, each.ring) for each in processes if each.ring is not None)
        wanted = sys.maxsize if query.last is None else query.last
        room = sys.maxsize if query.bytes is None else query.bytes
        for time, id, position, end, stream in heapq.merge(*records, reverse=True):
            if not wanted or not room:
                break
            if query.since <= time <= query.until and query.stream in (None, STREAMS[stream]):
                starts[id] = max(position, end - room)
                wanted -= 1
                room -= end - starts[id]
            yield
        self._positions = starts | query.after | {id: at for id, at in self._positions.items() if id not in starts}


def _newest_first(id: int, ring: Ring) -> Iterator[tuple[float, int, int, int, int]]:
    for time, position, end, stream in ring.newest_first():
        yield time, id, position, end, stream


def _line(kind: str, process: Process, time: float, number: int, position: int) -> bytes:
    return f"{kind}:{process.name}:{time}:{number}:{process.id}:{position}\n".encode()
