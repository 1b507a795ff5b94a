"""A watcher that also watches the processes that are made after its watch has begun.

It does what client/later.py says. Both connections are read by tasks, which a cancelled `read` leaves
alone, so that nothing that they have taken is lost.
"""

from __future__ import annotations

import asyncio
from typing import Any

from papad.aio.connection import Client
from papad.aio.watcher import Source, Watcher
from papad.client.connection import RETRY_DELAY
from papad.errors import ConnectionLost, NotFound, TimedOut
from papad.protocol import requests
from papad.protocol.responses import Batch
from papad.protocol.watching import Later, WatchBatch


class LaterWatcher(Watcher):
    """A watch that ends only when it is closed."""

    def __init__(self, papa_object: Source, patterns: tuple[object, ...]) -> None:
        """Take the patterns. `start` must follow."""
        super().__init__(papa_object, patterns)
        self._later = Later(patterns)
        self._follower: Client | None = None
        self._stale = True
        """Whether the watch must begin anew before it is read."""
        self._closed = False
        self._batch: asyncio.Task[Batch] | None = None
        self._news: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to watch, even if there is nothing yet. Raises Error."""
        try:
            await self._begin()
        except BaseException:
            await self.close(acknowledge=False)
            raise

    def __bool__(self) -> bool:
        return not self._closed

    async def read(self, timeout: float | None = -1.0) -> WatchBatch | None:
        """Acknowledge the previous batch, and return the next one, or None if the watcher is closed.

        Without a `timeout` this waits without a limit. Raises TimedOut, or what papad refuses.
        """
        if self._watched.rest:
            return self._watched.take_rest()
        self.acknowledge()
        try:
            async with asyncio.timeout(timeout if timeout is None or timeout >= 0 else None):
                while not self._closed:
                    await self._begin()
                    if (batch := await self._taken()) is not None:
                        return batch
                return None
        except TimedOut:
            raise
        except TimeoutError:
            raise TimedOut("nothing came of what is watched in time") from None

    async def close(self, *, acknowledge: bool = True) -> None:
        """End the watch, and acknowledge the last batch, as `Watcher.close` does."""
        if acknowledge:
            self.acknowledge()
        self._watched.rest.clear()
        self._closed = True
        await self._end_both()

    async def _taken(self) -> WatchBatch | None:
        """Wait for a batch, or for what makes the watch stale; return the part to hand out. Raises Error."""
        assert self._news is not None
        if self._batch is None and self.connection is not None:
            self._batch = asyncio.create_task(self.connection.batch(None))
        tasks: list[asyncio.Task[Any]] = [task for task in (self._batch, self._news) if task is not None]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if self._batch is None or not self._batch.done():
            self._stale = self._news.done()
            if self._stale:
                self._news.result()
            return None
        task, self._batch = self._batch, None
        try:
            batch = self._watched.take(task.result())
        except ConnectionLost:
            self._stale = True
            return None
        if batch is None and self.connection is not None:  # nothing is left of what was watched
            self.connection.close()
            self.connection = None
        return batch

    async def _hear(self, follower: Client) -> None:
        """Return when a process shows that the watch does not have, or the connection is lost. Raises Error."""
        try:
            while not self._later.is_new(await follower.frame(None)):
                pass
        except ConnectionLost:
            pass

    async def _begin(self) -> None:
        """Begin to watch all that there is, and to follow what comes later. Raises Error."""
        while self._stale:
            await self._end_both()
            try:
                await self._begin_once()
                self._stale = False
            except TimedOut:
                raise
            except (ConnectionLost, NotFound):  # papad restarts, or a process has gone since it was described
                await asyncio.sleep(RETRY_DELAY)

    async def _begin_once(self) -> None:
        self._follower = await self.papa_object.another()
        inquiry = self._later.inquiry
        described = inquiry.parse(await self._follower.ask(inquiry.line))
        self._later.know(described)
        self._follower.send(self._later.line())
        self._news = asyncio.create_task(self._hear(self._follower))
        patterns = self._watched.left({each["name"]: each for each in described})
        if described and patterns:
            await self.begin(requests.watch_processes(*patterns))
            self._watched.again = True

    async def _end_both(self) -> None:
        """Close both connections, once papad has read the acknowledgements that were sent."""
        tasks = [task for task in (self._batch, self._news) if task is not None]
        self._batch = self._news = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # it was lost with its connection
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.close()
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.drain()
