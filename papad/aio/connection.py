"""One connection to papad, for asyncio. protocol/responses.py parses what arrives."""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from papad.client import connection as blocking
from papad.client.address import for_people
from papad.errors import ConnectionLost, Error, TimedOut
from papad.protocol.responses import DONE, Batch, Frame, Incoming

T = TypeVar("T")


class Client:
    """One connection to papad. Only one task at a time may wait on it."""

    def __init__(self, client: blocking.Client, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._name = for_people(client.address)
        self._timeout = client.timeout
        self._reader, self._writer = reader, writer
        self._incoming = Incoming()

    @classmethod
    async def of(cls, client: blocking.Client) -> Client:
        """Take over the socket of a blocking client, and its timeout for each wait."""
        client.sock.setblocking(False)
        return cls(client, *await asyncio.open_connection(sock=client.sock))

    @property
    def fresh(self) -> bool:
        """Whether the connection is open with nothing unread."""
        if self._incoming or self._reader.at_eof() or self._writer.is_closing():
            return False
        poll = select.poll()  # the event loop may not have noticed the end of the connection yet
        poll.register(self._writer.get_extra_info("socket"), select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()

    async def ask(self, line: bytes) -> str:
        """Send a complete line and return the answer."""
        return await self._ask(line, self._incoming.answer)

    async def begin_watch(self, line: bytes) -> str:
        """Send a command that starts a watch, and return the first line of its answer."""
        return await self._ask(line, self._incoming.line)

    async def batch(self, timeout: float | None = -1.0) -> Batch:
        """Return the next batch of a watch. `timeout` defaults to that of the connection."""
        return await self._wait(self._incoming.batch, timeout)

    async def frames(self, line: bytes, timeout: float | None = -1.0) -> AsyncGenerator[Frame, None]:
        """Send an `output` command and yield its frames.

        `timeout` limits the wait for each frame; it defaults to that of the connection. Read it to
        the end, or close the connection.
        """
        self.send(line)
        while (frame := await self.frame(timeout)) is not DONE:
            yield frame

    async def frame(self, timeout: float | None = -1.0) -> Frame:
        """Return the next frame of an `output` command that was sent, or DONE after the last."""
        return await self._wait(self._incoming.frame, timeout)

    async def drain(self) -> None:
        """Close the connection once papad has read everything that was sent."""
        try:
            async with asyncio.timeout(self._timeout):
                self._writer.write_eof()
                while await self._reader.read(65536):
                    pass
        except OSError:  # includes TimeoutError
            pass
        finally:
            self._writer.close()

    def send(self, data: bytes) -> None:
        """Send bytes. If the connection is lost, this shows only when waiting for the answer."""
        self._writer.write(data)

    async def _ask(self, line: bytes, take: Callable[[], str | None]) -> str:
        """Send a line and return the answer.

        If this is cancelled, the answer stays unread, so the connection is closed.
        """
        try:
            self.send(line)
            return await self._wait(take)
        except Error as error:
            if isinstance(error, ConnectionLost):
                self.close()
            raise
        except BaseException:
            self.close()
            raise

    async def _wait(self, take: Callable[[], T | None], timeout: float | None = -1.0) -> T:
        timeout = self._timeout if timeout is not None and timeout < 0 else timeout
        while (taken := take()) is None:
            try:
                async with asyncio.timeout(timeout):
                    data = await self._reader.read(1 << 18)
            except TimeoutError:
                raise TimedOut(f"no answer from {self._name} in time") from None
            except OSError:
                data = b""
            try:
                self._incoming.feed(data)
            except ConnectionLost:
                self.close()
                raise ConnectionLost(f"{self._name} closed the connection") from None
        return taken
