"""Watching processes: their output and their ends, in batches that are acknowledged."""

from __future__ import annotations

from typing import Any, Protocol

from papad.client.connection import Client, Closing
from papad.errors import ConnectionLost, Error, TimedOut
from papad.protocol import requests
from papad.protocol.watching import WatchBatch, Watched


class Source(Protocol):
    """Where a watcher has its connections from: a Papa, or what does as much."""

    connection: Client | None
    """The first one, on which the watch has begun; given back at the end of the watch."""

    def another(self) -> Client:
        """A new connection, once papad answers."""

    def list_processes(self) -> dict[str, dict[str, Any]]:
        """All processes, by name."""


class Watcher(Closing):
    """A watch, as Papa.watch_processes gives it. A context manager; select() tells when there is something to read."""

    def __init__(self, papa_object: Source, patterns: tuple[object, ...] = ()) -> None:
        self.papa_object = papa_object
        assert papa_object.connection is not None
        self.connection: Client | None = papa_object.connection
        self._watched = Watched(patterns)

    def __bool__(self) -> bool:
        return self.connection is not None

    def __len__(self) -> int:
        return 1 if self else 0

    @property
    def exit_code(self) -> dict[str, int]:
        """Name to exit code of the processes whose end was read."""
        return self._watched.exit_code

    def fileno(self) -> int:
        """The connection's file number, for select(). It may be another one after a restart of papad."""
        if self.connection is None:
            raise Error("the watcher is closed")
        return self.connection.fileno()

    @property
    def ready(self) -> bool:
        """Whether `read` would find something at once: a batch, or that papad has gone."""
        return self.connection is not None and (self.connection.fileno() < 0 or self.connection.ready)

    def read(self, timeout: float | None = -1.0) -> WatchBatch | None:
        """Acknowledge the batch before, wait for the next, and return it: out, err, closed. None when nothing is left to watch.

        An empty batch comes after two seconds of silence. Raises TimedOut, by default when nothing came for the timeout of the Papa.
        """
        if not self:
            return WatchBatch([], [], [])  # None comes once
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

    def acknowledge(self) -> None:
        """Tell papad that the last batch has arrived, so that it drops it."""
        if self._watched.unacknowledged and self.connection is not None:
            self._watched.unacknowledged = False
            try:
                self.connection.acknowledge()
            except TimedOut:
                raise
            except ConnectionLost:
                pass  # `read` takes it up: what comes again is taken out there

    def close(self, *, acknowledge: bool = True) -> None:
        """End the watch. The last batch is acknowledged, unless it shall come again to the next watcher."""
        if self.connection is None:
            return
        connection = self.connection
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
        """The connection takes commands again: the Papa gets it back, if it has no other by now."""
        if self.papa_object.connection is None:
            self.papa_object.connection = self.connection
        elif self.connection is not None:
            self.connection.close()
        self.connection = None

    def _watch_again(self) -> None:
        """papad has been restarted: go on over a new connection. At the end of the watch there is none."""
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
                    break  # wildcards that match nothing any more
            before = patterns
        self.connection = None
