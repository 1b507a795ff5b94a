"""A watcher that also watches the processes that are made after its watch has begun.

A watch is of the processes that exist when it begins. So a second connection follows those that it
does not have (protocol/watching.py: Later). When one shows there, the watch ends and begins anew, and
has that one, too. papad keeps what was not acknowledged, so nothing is lost by that, and nothing was
handed out before. A restart of papad is dealt with in the same way.
"""

from __future__ import annotations

import contextlib
import select
import time

from papad.client.connection import RETRY_DELAY, Client
from papad.client.watcher import Source, Watcher
from papad.errors import ConnectionLost, NotFound, TimedOut
from papad.protocol import requests
from papad.protocol.watching import Later, WatchBatch, Watched


class LaterWatcher(Watcher):
    """A watch that ends only when it is closed. Its descriptor for select() stays the same."""

    def __init__(self, papa_object: Source, patterns: tuple[object, ...]) -> None:
        """Begin to watch, even if there is nothing yet. Raises Error."""
        self.papa_object = papa_object
        self.connection = None
        self._watched = Watched(patterns)
        self._later = Later(patterns)
        self._follower: Client | None = None
        self._stale = True
        """Whether the watch must begin anew before it is read."""
        self._poll: select.epoll | None = select.epoll()
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def __bool__(self) -> bool:
        return self._poll is not None

    def fileno(self) -> int:
        """Return a descriptor for select(), which is readable when `read` will not wait for long."""
        return self._poll.fileno() if self._poll is not None else super().fileno()

    @property
    def ready(self) -> bool:
        """Whether `read` would not block."""
        if not self:
            return False
        if not self._batch_is_here:
            self._hear()
        return self._stale or self._batch_is_here

    @property
    def _batch_is_here(self) -> bool:
        """Whether the watch can be read without waiting, if only to find its connection lost."""
        return self.connection is not None and (self.connection.fileno() < 0 or self.connection.ready)

    def read(self, timeout: float | None = -1.0) -> WatchBatch | None:
        """Acknowledge the previous batch, and return the next one, or None once this is closed.

        An empty one comes after two seconds without output, as from any watcher, and where select()
        told of something that is no output. While there is nothing to be watched, this waits without
        a limit, or for `timeout` seconds if that is given. Raises TimedOut.
        """
        if self._watched.rest or self._poll is None:
            return super().read(timeout)
        self.acknowledge()
        limited = timeout is None or timeout >= 0
        deadline = time.monotonic() + timeout if limited and timeout is not None else None
        while True:
            try:
                if self._stale:
                    self._begin()
                if self.connection is not None and self._batch_is_here:
                    batch = self._watched.take(self.connection.batch())
                    if batch is None:  # nothing is left of what was watched
                        self.connection.close()
                        self.connection = None
                    return batch or WatchBatch([], [], [])
            except TimedOut:
                raise
            except ConnectionLost:
                self._stale = True
                continue
            self._wait(deadline, limited=limited)
            if self._batch_is_here:  # it goes first, so that many new processes cannot hold it up
                continue
            self._hear()
            if not self._stale:  # only the end of a process that the watch has
                return WatchBatch([], [], [])

    def close(self, *, acknowledge: bool = True) -> None:
        """End the watch, and acknowledge the last batch, as `Watcher.close` does."""
        if acknowledge:
            with contextlib.suppress(ConnectionLost):
                self.acknowledge()
        self._watched.rest.clear()
        self._end()
        if self._poll is not None:
            self._poll.close()
            self._poll = None

    def _begin(self) -> None:
        """Begin to watch all that there is, and to follow what comes later. Raises Error."""
        while self._stale:
            self._end()
            try:
                self._begin_once()
                self._stale = False
            except TimedOut:
                raise
            except (ConnectionLost, NotFound):  # papad restarts, or a process has gone since it was described
                time.sleep(RETRY_DELAY)

    def _begin_once(self) -> None:
        assert self._poll is not None
        self._follower = self.papa_object.another()
        described = self._later.inquiry.parse(self._follower.ask(self._later.inquiry.line))
        self._later.know(described)
        self._follower.send(self._later.line())
        self._poll.register(self._follower, select.EPOLLIN)
        patterns = self._watched.left({each["name"]: each for each in described})
        if described and patterns:
            self.connection = self.papa_object.another()
            self.connection.begin_watch(requests.watch_processes(*patterns))
            self._watched.again = True
            self._poll.register(self.connection, select.EPOLLIN)

    def _end(self) -> None:
        """Close both connections, once papad has read the acknowledgements that were sent."""
        if self._follower is not None:
            self._follower.close()
        if self.connection is not None:
            self.connection.drain()
        self._follower = self.connection = None

    def _hear(self) -> None:
        """Take what has come of later processes; one that is new makes the watch stale."""
        try:
            while not self._stale and self._follower is not None and self._follower.ready:
                self._stale = self._later.is_new(self._follower.frame())
        except TimedOut:
            raise
        except ConnectionLost:
            self._stale = True

    def _wait(self, deadline: float | None, *, limited: bool) -> None:
        """Wait until something comes. Raises TimedOut."""
        assert self._poll is not None
        left = max(0.0, deadline - time.monotonic()) if deadline is not None else None
        if not limited and self.connection is not None:
            left = self.connection.timeout
        if not self._poll.poll(left):
            raise TimedOut("nothing came of what is watched in time")
