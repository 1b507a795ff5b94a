"""Watching processes: their output and their exits, in batches that are acknowledged."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from types import TracebackType
from typing import Any, Protocol, Self

from papad.client.connection import Client, Closing
from papad.errors import ConnectionLost, Error, TimedOut
from papad.protocol import requests
from papad.protocol.responses import Record
from papad.protocol.watching import WatchBatch, Watched


class Source(Protocol):
    """Provides the connections of a watcher: a Papa or an equivalent object."""

    connection: Client | None
    """The connection that the watch started on. It is given back at the end of the watch."""

    def another(self) -> Client:
        """Return a new connection once papad answers."""

    def list_processes(self) -> dict[str, dict[str, Any]]:
        """Return all processes by name."""


class Watcher(Closing):
    """A watch, as returned by Papa.watch_processes. Call `read`, or iterate over its batches.

    It is a context manager. select() reports when there is something to read.
    """

    def __init__(self, papa_object: Source, patterns: tuple[object, ...] = ()) -> None:
        self.papa_object = papa_object
        assert papa_object.connection is not None
        self.connection: Client | None = papa_object.connection
        self._watched = Watched(patterns)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the watcher. After an exception the last batch is left to the next watcher."""
        self.close(acknowledge=kind is None)

    def __bool__(self) -> bool:
        return self.connection is not None

    def __len__(self) -> int:
        return 1 if self else 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> WatchBatch:
        batch = self.read() if self else None
        if batch is None:
            raise StopIteration
        return batch

    @property
    def exit_code(self) -> dict[str, int]:
        """The exit codes, by name, of the processes whose `closed` record was read."""
        return self._watched.exit_code

    def fileno(self) -> int:
        """Return the file descriptor, for select(). It may change after a restart of papad."""
        if self.connection is None:
            raise Error("the watcher is closed")
        return self.connection.fileno()

    @property
    def ready(self) -> bool:
        """Whether `read` would not block: a batch has arrived, or the connection was lost."""
        return self.connection is not None and (self.connection.fileno() < 0 or self.connection.ready)

    def read(self, timeout: float | None = -1.0) -> WatchBatch | None:
        """Acknowledge the previous batch, and return the next one (out, err, closed).

        Return None when nothing is left to watch, and an empty batch after two seconds without
        output. Raises TimedOut if nothing arrives for `timeout` seconds, by default that of the
        Papa.

        Once the watch has ended, `read(timeout=…)` returns None each time. Without a timeout it
        returns empty lists, as the original does, and warns: a loop until None would not end.
        """
        if self._watched.rest:
            return self._watched.take_rest()
        if not self:
            if timeout is None or timeout >= 0:
                return None
            warnings.warn("the watch has ended; `for batch in watcher` ends with it", RuntimeWarning, stacklevel=2)
            return WatchBatch([], [], [])
        self.acknowledge()
        while self.connection is not None:
            try:
                batch = self._watched.take(self.connection.batch(timeout))
            except TimedOut:
                raise
            except ConnectionLost:
                self._watch_again()
                continue
            if batch is None:
                self._give_back()
            return batch
        return None

    def records(self, timeout: float | None = -1.0) -> Generator[Record, None, None]:
        """Yield the records one by one, with their stream, until nothing is left to watch.

        Those of a batch are in the order of time, and those of one process in the order in which
        they came. A batch is acknowledged when all its records were taken and another is wanted, or
        at the end of the `with` block; if some were not taken, the next watcher gets all of them
        again. Raises TimedOut like `read`.
        """
        while True:
            while self._watched.rest:
                yield self._watched.rest.popleft()
            if not self or self.read(timeout) is None:
                return
            self._watched.spread()

    def acknowledge(self) -> None:
        """Acknowledge the last batch, so that papad drops it.

        This does nothing while `records` has not yielded all of it.
        """
        if self._watched.unacknowledged and not self._watched.rest and self.connection is not None:
            self._watched.unacknowledged = False
            try:
                self.connection.acknowledge()
            except TimedOut:
                raise
            except ConnectionLost:
                pass  # `read` reconnects, and drops what papad sends again

    def close(self, *, acknowledge: bool = True) -> None:
        """End the watch, and acknowledge the last batch.

        With acknowledge=False, or if `records` has not yielded all of it, the next watcher gets that
        batch again.
        """
        if self.connection is None:
            return
        connection = self.connection
        acknowledge = acknowledge and not self._watched.rest
        self._watched.rest.clear()
        if not acknowledge or not self._watched.unacknowledged:
            self.connection = None
            connection.drain()
            return
        self._watched.unacknowledged = False
        try:
            connection.acknowledge(stop=True)
            connection.batch()
        except ConnectionLost:
            self.connection = None
            connection.close()
        else:
            self._give_back()

    def _give_back(self) -> None:
        """Return the connection to the Papa for commands, or close it if the Papa has a new one."""
        if self.papa_object.connection is None:
            self.papa_object.connection = self.connection
        elif self.connection is not None:
            self.connection.close()
        self.connection = None

    def _watch_again(self) -> None:
        """Continue the watch on a new connection after a restart of papad.

        If nothing is left to watch, `connection` becomes None.
        """
        before = None
        while patterns := self._watched.left(self.papa_object.list_processes()):
            client = self.papa_object.another()
            self.connection = client
            try:
                client.begin_watch(requests.watch_processes(*patterns))
                self._watched.again = True
                return
            except ConnectionLost:
                client.close()
            except Error:
                client.close()
                if patterns == before:
                    break  # the wildcards no longer match anything
            before = patterns
        self.connection = None
