"""The part of a connection that a delivery uses, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from papad.daemon.delivery.channel import TRANSITIONS, Delivery, IllegalTransition, Mode


class MemoryChannel:
    """A Channel: `sent` is what the client got; the test says whether the client reads."""

    def __init__(self) -> None:
        self.mode = Mode.COMMANDS
        self.full = False
        self.closing = False
        self.draining = False
        self.reads = True  # has_read_all
        self.proceeded = 0
        self._sent = b""
        self._delivery: Delivery | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, delivery: Delivery) -> None:
        """What a connection does with a new delivery."""
        self._delivery = delivery
        self.write(delivery.begin())

    def take(self, line: str) -> None:
        """The client sends a line; the mode must be one that takes it."""
        assert self.mode in (Mode.UNACKNOWLEDGED, Mode.FOLLOWING)
        assert self._delivery is not None
        self.write(self._delivery.take(line))

    def got(self) -> bytes:
        """What was sent since the last call."""
        sent, self._sent = self._sent, b""
        return sent

    @property
    def waiting(self) -> int:
        """How many bytes were sent and not asked for by `got`."""
        return len(self._sent)

    def enter(self, mode: Mode) -> None:
        if mode not in TRANSITIONS[self.mode]:
            raise IllegalTransition(f"{self.mode} to {mode}")
        self.mode = mode

    def write(self, data: bytes) -> None:
        self._sent += data

    @property
    def unread(self) -> int:
        return 0 if self.reads else len(self._sent)

    def has_read_all(self) -> bool:
        return self.reads

    def proceed(self) -> None:
        self.proceeded += 1

    def end_delivery(self) -> None:
        if self._delivery is not None:
            delivery, self._delivery = self._delivery, None
            delivery.end()
            self.enter(Mode.COMMANDS)

    def soon(self, callback: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_soon(callback)

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def turns(count: int = 5) -> None:
    """Let everything run that is ready to: so many turns of the event loop."""
    for _ in range(count):
        await asyncio.sleep(0)
