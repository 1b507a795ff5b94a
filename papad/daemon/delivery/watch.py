"""Watching: the batches that a connection gets, and the effect of its acknowledgements."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable

from papad.daemon.output.ring import STREAMS
from papad.daemon.tables.process import Process
from papad.daemon.tables.processes import Processes
from papad.protocol import wire

MAX_BATCH = 4 << 20
"""The most bytes of output in a batch; the rest follows in the next."""

_TURN = 0.002  # seconds of giving back memory; then others get a turn


class Watch:
    """The processes that a connection watches, each until its end is acknowledged."""

    def __init__(self, processes: Processes, watched: Iterable[Process], *, consumes: bool = True) -> None:
        """Watch these. Unless it `consumes`, an acknowledgement only moves this watch on."""
        self.consumes = consumes
        self._processes = processes
        self._positions: dict[Process, int] = {}  # where to go on, of a watch that does not consume
        # The unacknowledged batch: process -> start, stop, whether it reported the end.
        self._delivered: dict[Process, tuple[int, int, bool]] = {}
        self._acknowledged: dict[Process, None] = {}  # since the last `trim`
        self._watched = list(watched)
        self.on_news: Callable[[], object] = lambda: None
        for process in self._watched:
            process.observers.add(self)

    def __len__(self) -> int:
        return len(self._watched)

    def batch(self, room: int = MAX_BATCH) -> list[bytes]:
        """Return the records that are not acknowledged, with `room` bytes of output at most.

        The next `acknowledge` refers to these.
        """
        records: list[bytes] = []
        self._delivered.clear()
        for process in self._watched:
            start = stop = 0
            complete = True
            if process.ring is not None:
                state = process.ring.state
                start = stop = max(state.head, self._positions.get(process, 0))
                for chunk in process.ring.read(start, room):
                    records.append(wire.output_record(STREAMS[chunk.stream], process.name, chunk.time, chunk.data))
                    stop = chunk.position + len(chunk.data)
                room -= stop - start
                complete = stop == state.tail
            closed = complete and process.closed
            if closed and process.exit is not None:
                records.append(wire.closed_record(process.name, process.closed_at, process.exit[0]))
            if stop > start or closed:
                self._delivered[process] = start, stop, closed
        return records

    def acknowledge(self) -> None:
        """Drop what the last batch delivered, or pass over it."""
        delivered, self._delivered = self._delivered, {}
        for process, (start, stop, closed) in delivered.items():
            if not self.consumes:
                self._positions[process] = stop
                if closed:
                    self.lose(process)
                continue
            if process.ring is not None:
                process.ring.acknowledge(start, stop)
            if closed:
                self._processes.forget(process)
            elif process.ring is not None:
                self._acknowledged[process] = None

    def trim(self) -> bool:
        """Give back the memory of what was acknowledged, until that has taken long; return whether there is more."""
        end = time.monotonic() + _TURN
        while self._acknowledged:
            process, _ = self._acknowledged.popitem()
            if process.ring is not None:
                with contextlib.suppress(OSError):  # it stays until the ring comes round
                    process.ring.trim()
            if time.monotonic() >= end:
                break
        return bool(self._acknowledged)

    def lose(self, process: Process) -> None:
        """Stop watching a process that is gone."""
        self._watched.remove(process)
        self._delivered.pop(process, None)
        self._acknowledged.pop(process, None)
        process.observers.discard(self)
        self.on_news()

    def wake(self) -> None:
        """Signal that there may be something new to deliver."""
        self.on_news()

    def end(self) -> None:
        """Stop watching; what was not acknowledged stays."""
        for process in self._watched:
            process.observers.discard(self)
        self.on_news = lambda: None
