"""Watching processes, for asyncio.

protocol/watching.py decides, for both clients, what to hand out after a restart of papad.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any, Protocol, Self

from papad.aio.connection import Client
from papad.errors import ConnectionLost, Error, TimedOut
from papad.protocol import requests
from papad.protocol.responses import Record
from papad.protocol.watching import WatchBatch, Watched


class Source(Protocol):
    """Provides the connections of a watcher: a Papa or an equivalent object."""

    async def another(self) -> Client:
        """Return a new connection once papad answers."""

    async def list_processes(self) -> dict[str, dict[str, Any]]:
        """Return all processes by name."""


class Watcher:
    """A watch on a connection of its own. Call `read`, or iterate over its batches.

    It is an async context manager.
    """

    def __init__(self, papa_object: Source, patterns: tuple[object, ...]) -> None:
        self.papa_object = papa_object
        self.connection: Client | None = None
        self._watched = Watched(patterns)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the watcher. After an exception the last batch is left to the next watcher."""
        await self.close(acknowledge=kind is None)

    def __bool__(self) -> bool:
        return self.connection is not None

    def __len__(self) -> int:
        return 1 if self else 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchBatch:
        batch = await self.read()
        if batch is None:
            raise StopAsyncIteration
        return batch

    @property
    def exit_code(self) -> dict[str, int]:
        """The exit codes, by name, of the processes whose `closed` record was read."""
        return self._watched.exit_code

    async def read(self, timeout: float | None = -1.0) -> WatchBatch | None:
        """Acknowledge the previous batch, and return the next one, or None if nothing is left.

        Raises TimedOut like `Watcher.read` of the blocking client; the watcher can be read again.
        """
        if self._watched.rest:
            return self._watched.take_rest()
        self.acknowledge()
        while self.connection is not None:
            try:
                batch = self._watched.take(await self.connection.batch(timeout))
            except TimedOut:
                raise
            except ConnectionLost:
                await self._watch_again()
                continue
            if batch is None:
                self._end()
            return batch
        return None

    async def records(self, timeout: float | None = -1.0) -> AsyncGenerator[Record, None]:
        """Yield the records one by one, like `Watcher.records` of the blocking client."""
        while True:
            while self._watched.rest:
                yield self._watched.rest.popleft()
            if not self or await self.read(timeout) is None:
                return
            self._watched.spread()

    def acknowledge(self) -> None:
        """Acknowledge the last batch, so that papad drops it.

        This does nothing while `records` has not yielded all of it.
        """
        if self._watched.unacknowledged and not self._watched.rest and self.connection is not None:
            self._watched.unacknowledged = False
            self.connection.send(b"\n")

    async def close(self, *, acknowledge: bool = True) -> None:
        """End the watch, and acknowledge the last batch.

        With acknowledge=False, or if `records` has not yielded all of it, the next watcher gets that
        batch again.
        """
        if self.connection is not None:
            if acknowledge:
                self.acknowledge()
            self._watched.rest.clear()
            connection, self.connection = self.connection, None
            await connection.drain()

    def _end(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    async def begin(self, line: bytes) -> None:
        """Start the watch on a new connection. Raises Error, ConnectionLost if papad restarts."""
        connection = await self.papa_object.another()
        try:
            await connection.begin_watch(line)
        except BaseException:
            connection.close()
            raise
        self.connection = connection

    async def _watch_again(self) -> None:
        """Continue the watch on a new connection after a restart of papad.

        If nothing is left to watch, `connection` becomes None. Until then the lost one stays, so that
        `read` tries again if this is cancelled or papad is unreachable.
        """
        before = None
        while patterns := self._watched.left(await self.papa_object.list_processes()):
            try:
                await self.begin(requests.watch_processes(*patterns))
                self._watched.again = True
                return
            except ConnectionLost:
                pass
            except Error:
                if patterns == before:
                    break  # the wildcards no longer match anything
            before = patterns
        self._end()
