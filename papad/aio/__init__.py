"""`papad.aio.Papa`: the same as `papad.Papa`, for asyncio.

    async with papad.aio.Papa() as papa:
        await papa.make_process("web", "/usr/bin/python3", ["-m", "http.server"])
        async for frame in papa.follow("web"):
            print(frame.data)

Requests and answers are those of the blocking client (papad.protocol), and so is connecting, which runs in a thread.
Waits can be bounded with asyncio.timeout: nothing is lost when one is cut short.
"""

from __future__ import annotations

from papad.aio.papa import Papa
from papad.aio.watcher import Watcher

__all__ = ["Papa", "Watcher"]
