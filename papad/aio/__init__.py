"""`papad.aio.Papa`: `papad.Papa` for asyncio.

    async with papad.aio.Papa() as papa:
        await papa.make_process("web", "/usr/bin/python3", ["-m", "http.server"])
        async for frame in papa.follow("web"):
            print(frame.data)

It shares requests and responses (papad.protocol) with the blocking client, and connects with the
blocking client's code in a thread. Waits can be limited with asyncio.timeout; cancelling one loses
nothing.
"""

from __future__ import annotations

from papad.aio.papa import Papa
from papad.aio.watcher import Watcher
from papad.errors import (
    AlreadyExists,
    BadRequest,
    BindFailed,
    ConnectionLost,
    Error,
    NoRoom,
    NotFound,
    NotPermitted,
    Refused,
    StartFailed,
    TimedOut,
    Unavailable,
    Unreachable,
)

__all__ = [
    "AlreadyExists",
    "BadRequest",
    "BindFailed",
    "ConnectionLost",
    "Error",
    "NoRoom",
    "NotFound",
    "NotPermitted",
    "Papa",
    "Refused",
    "StartFailed",
    "TimedOut",
    "Unavailable",
    "Unreachable",
    "Watcher",
]
