"""One connection to a papad, for asyncio. What comes is taken apart by protocol/responses.py, as in the blocking client."""

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
    """One connection to a papad. One task at a time may wait for what comes."""

    def __init__(self, client: blocking.Client, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._name = for_people(client.address)
        self._timeout = client.timeout
        self._reader, self._writer = reader, writer
        self._incoming = Incoming()

    @classmethod
    async def of(cls, client: blocking.Client) -> Client:
        """Take over the socket of a client, and its timeout for each wait."""
        client.sock.setblocking(False)
        return cls(client, *await asyncio.open_connection(sock=client.sock))

    @property
    def fresh(self) -> bool:
        """Whether the connection stands, with nothing unread."""
        if self._incoming or self._reader.at_eof() or self._writer.is_closing():
            return False
        poll = select.poll()  # the event loop may not have heard of the end yet
        poll.register(self._writer.get_extra_info("socket"), select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """End the connection."""
        self._writer.close()

    async def ask(self, line: bytes) -> str:
        """Send a complete line and return the answer."""
        return await self._ask(line, self._incoming.answer)

    async def begin_watch(self, line: bytes) -> str:
        """Send a command that begins to watch, and return its first line."""
        return await self._ask(line, self._incoming.line)

    async def batch(self, timeout: float | None = -1.0) -> Batch:
        """The next batch of a watch; `timeout` is by default that of the connection."""
        return await self._wait(self._incoming.batch, timeout)

    async def frames(self, line: bytes, timeout: float | None = -1.0) -> AsyncGenerator[Frame, None]:
        """Send an `output` command and give its frames; `timeout` is for each, by default that of the connection.

        It has to be read to the end, or the connection be closed.
        """
        self.send(line)
        while (frame := await self._wait(self._incoming.frame, timeout)) is not DONE:
            yield frame

    async def drain(self) -> None:
        """Close, but only once papad has read everything that was sent."""
        try:
            async with asyncio.timeout(self._timeout):
                self._writer.write_eof()
                while await self._reader.read(65536):
                    pass
        except OSError:  # a TimeoutError, too
            pass
        finally:
            self._writer.close()

    def send(self, data: bytes) -> None:
        """Send bytes; that the connection has ended shows when the answer is waited for."""
        self._writer.write(data)

    async def _ask(self, line: bytes, take: Callable[[], str | None]) -> str:
        """Whoever does not wait for the answer, as when cancelled, leaves a connection that is of no more use."""
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
                raise ConnectionLost(f"{self._name} ended the connection") from None
        return taken
