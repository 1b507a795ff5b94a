"""Watching: what a connection gets of the processes it watches, and what its acknowledgement means."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from papad.daemon.output.ring import STREAMS
from papad.daemon.tables.process import Process
from papad.daemon.tables.processes import Processes
from papad.protocol import wire

_BATCH_BYTES = 4 * 1024 * 1024  # output in one batch; the rest comes with the next


class Watch:
    """What one connection watches: fixed when it begins, until each is closed and acknowledged."""

    def __init__(self, processes: Processes, watched: Iterable[Process]) -> None:
        self._processes = processes
        self._delivered: dict[Process, tuple[int, int, bool]] = {}  # from, to, closed
        self._watched = list(watched)
        self.on_news: Callable[[], object] = lambda: None
        for process in self._watched:
            process.observers.add(self)

    def __len__(self) -> int:
        return len(self._watched)

    def batch(self) -> list[bytes]:
        """All records there are and nobody has acknowledged, a few MiB at most; acknowledge() is about these."""
        records: list[bytes] = []
        room = _BATCH_BYTES
        self._delivered.clear()
        for process in self._watched:
            start = stop = 0
            complete = True
            if process.ring is not None:
                state = process.ring.state
                start = stop = state.head
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
        """The last batch has arrived: drop what was in it."""
        delivered, self._delivered = self._delivered, {}
        for process, (start, stop, closed) in delivered.items():
            if process.ring is not None:
                process.ring.acknowledge(start, stop)
            if closed:
                self._processes.forget(process)
                for observer in list(process.observers):
                    observer.lose(process)

    def lose(self, process: Process) -> None:
        """A watched process is gone."""
        self._watched.remove(process)
        self._delivered.pop(process, None)
        process.observers.discard(self)
        self.on_news()

    def wake(self) -> None:
        """There is something new to deliver."""
        self.on_news()

    def end(self) -> None:
        """Nobody watches any more; what was not acknowledged stays."""
        for process in self._watched:
            process.observers.discard(self)
        self.on_news = lambda: None
