"""The event loop of the daemon: that of asyncio, but who waits for a descriptor is called at once.

asyncio queues the callback of a descriptor that is ready, and runs the queue in the rest of its
turn, which takes longer than many an answer of papad. Here the selector itself calls it, and waits
again if that left nothing else to do.
"""

from __future__ import annotations

import asyncio
import functools
import os
import select
import selectors
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVarTuple, Unpack

_READ, _WRITE = select.EPOLLIN, select.EPOLLOUT

_AT_ONCE = 64  # descriptors that are ready

Callback = Callable[[], object]
Ts = TypeVarTuple("Ts")


class _Waiting:
    """Who waits for a descriptor, and in which turn of the selector the first of them came."""

    __slots__ = ("reader", "since", "writer")

    def __init__(self, since: int) -> None:
        self.since = since
        self.reader: Callback | None = None
        self.writer: Callback | None = None

    @property
    def events(self) -> int:
        return (_READ if self.reader else 0) | (_WRITE if self.writer else 0)


class _Selector(selectors.EpollSelector):
    """Tells the event loop what is ready of its own; calls those who wait for all else."""

    def __init__(self) -> None:
        super().__init__()
        self._epoll = select.epoll.fromfd(os.dup(self.fileno()))  # the same one, to which we add as well
        self._waiting: dict[int, _Waiting] = {}
        self._turn = 0
        self.on_error: Callable[[BaseException], None]
        self.queue: deque[Callback] = deque()
        """Who is called once all that are ready now were called."""
        self.anything_else = False
        """Whether the event loop has been given something to do since `select` began."""

    def add(self, fd: int, *, reader: Callback | None = None, writer: Callback | None = None) -> None:
        """Call `reader` or `writer` whenever `fd` is ready, in place of the one before."""
        if (waiting := self._waiting.get(fd)) is None:
            waiting = _Waiting(self._turn)
        before = waiting.events
        waiting.reader, waiting.writer = reader or waiting.reader, writer or waiting.writer
        if not before:
            self._epoll.register(fd, waiting.events)
        elif waiting.events != before:
            self._epoll.modify(fd, waiting.events)
        self._waiting[fd] = waiting

    def remove(self, fd: int, *, reader: bool = False, writer: bool = False) -> bool:
        """Call it no longer; return whether there was one."""
        waiting = self._waiting.get(fd)
        if waiting is None or not ((reader and waiting.reader) or (writer and waiting.writer)):
            return False
        if reader:
            waiting.reader = None
        if writer:
            waiting.writer = None
        if waiting.events:
            self._epoll.modify(fd, waiting.events)
        else:
            del self._waiting[fd]
            self._epoll.unregister(fd)
        return True

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Call those who wait, until there is something of the event loop's, or `timeout` seconds have passed."""
        self.anything_else = False
        until = time.monotonic() + timeout if timeout else 0.0
        found = []
        poll, waiting_for, queue = self._epoll.poll, self._waiting.get, self.queue
        while True:
            self._turn = turn = self._turn + 1
            for fd, event in poll(0 if queue else timeout, _AT_ONCE):
                waiting = waiting_for(fd)
                if waiting is None:
                    found += self._own(fd, event)
                    continue
                if waiting.since == turn:
                    continue  # what was ready is closed, by one that was called before, and this is another
                try:
                    if event != _WRITE and waiting.reader is not None:
                        waiting.reader()
                    if event != _READ and waiting.writer is not None:
                        waiting.writer()
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    self.on_error(error)
            if queue:
                self._call_queue()
            if found or self.anything_else:
                return found
            if timeout is not None and (timeout := until - time.monotonic()) <= 0:
                return found

    def _call_queue(self) -> None:
        for _ in range(len(self.queue)):  # who comes meanwhile has the next turn
            try:
                self.queue.popleft()()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.on_error(error)

    def close(self) -> None:
        """Close the epoll instance."""
        self._epoll.close()
        super().close()

    def _own(self, fd: int, event: int) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what the event loop wants to know of its own; nothing if it has removed it meanwhile."""
        key = self.get_map().get(fd)
        ready = (selectors.EVENT_READ if event != _WRITE else 0) | (selectors.EVENT_WRITE if event != _READ else 0)
        return [(key, ready & key.events)] if key is not None else []


class Loop(asyncio.SelectorEventLoop):
    """The event loop. What add_reader and add_writer are given runs in no asyncio.Handle."""

    def __init__(self) -> None:
        self._epoll = _Selector()
        self._epoll.on_error = self._failed
        super().__init__(self._epoll)

    def add_reader(self, fd: Any, callback: Callable[[Unpack[Ts]], Any], *args: *Ts) -> None:
        """Call `callback` with `args` whenever `fd`, a number or what has a fileno, can be read."""
        self._epoll.add(_number(fd), reader=functools.partial(callback, *args) if args else callback)

    def remove_reader(self, fd: Any) -> bool:
        """Call it no longer; return whether there was one. `fd` must still be open."""
        return self._epoll.remove(_number(fd), reader=True)

    def add_writer(self, fd: Any, callback: Callable[[Unpack[Ts]], Any], *args: *Ts) -> None:
        """Call `callback` with `args` whenever `fd`, a number or what has a fileno, can be written."""
        self._epoll.add(_number(fd), writer=functools.partial(callback, *args) if args else callback)

    def remove_writer(self, fd: Any) -> bool:
        """Call it no longer; return whether there was one. `fd` must still be open."""
        return self._epoll.remove(_number(fd), writer=True)

    def soon(self, callback: Callback) -> None:
        """Call `callback` once all that are ready now were called: `call_soon` without a Handle."""
        self._epoll.queue.append(callback)

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As asyncio has it."""
        self._epoll.anything_else = True
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio has it."""
        self._epoll.anything_else = True
        return super().call_at(when, callback, *args, context=context)

    def stop(self) -> None:
        """As asyncio has it."""
        self._epoll.anything_else = True
        super().stop()

    def _failed(self, error: BaseException) -> None:
        self.call_exception_handler({"message": "internal error; please report this", "exception": error})


def running() -> Loop:
    """Return the running event loop, which must be of this kind."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    return loop


def _number(fd: Any) -> int:
    return fd if isinstance(fd, int) else int(fd.fileno())
