"""`Papa` for asyncio."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from papad import papa as blocking
from papad import requests
from papad.aio.connection import Connection
from papad.aio.watcher import Watcher
from papad.client import Client
from papad.errors import ConnectionLost, TimedOut
from papad.incoming import Frame
from papad.requests import Reading, Request, Selection, Text

T = TypeVar("T")
C = TypeVar("C", Client, blocking.Papa)
_RETRY_DELAY = 0.05  # seconds


class Papa:
    """The way to a papad, for asyncio. Commands of several tasks take their turns. Every method raises Error with what papad says."""

    def __init__(
        self,
        port_or_path: int | str | None = None,
        connection_timeout: float | None = None,
        *,
        timeout: float | None = None,
        autostart: bool = True,
    ) -> None:
        """Arguments are those of `papad.Papa`. Nothing is connected before it is needed."""
        self._arguments = port_or_path, connection_timeout, timeout, autostart
        self._settings: blocking.Papa | None = None
        self._turn = asyncio.Lock()
        self._finding = asyncio.Lock()
        self.connection: Connection | None = None

    async def __aenter__(self) -> Self:
        await self._known()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. The next command makes a new one."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    # Commands

    async def list_sockets(self, *args: Any) -> dict[str, dict[str, Any]]:
        """As in papad.Papa, like all that follow."""
        return await self._do(requests.list_sockets(*args))

    async def make_socket(
        self,
        name: Text,
        host: Text | None = None,
        port: int | None = None,
        family: int | None = None,
        socket_type: int | None = None,
        backlog: int | None = None,
        path: Text | None = None,
        umask: int | None = None,
        interface: Text | None = None,
        reuseport: bool | None = None,
    ) -> dict[str, Any]:
        """Make a socket, or get the one that was made the same way."""
        return await self._do(
            requests.make_socket(name, host, port, family, socket_type, backlog, path, umask, interface, reuseport)
        )

    async def remove_sockets(self, *args: Any) -> bool:
        """Close the sockets that match; all without a pattern."""
        return await self._do(requests.remove_sockets(*args))

    async def list_values(self, *args: Any) -> dict[str, str]:
        """Name to value of those that match."""
        return await self._do(requests.list_values(*args))

    async def set(self, name: Text, value: object = None) -> None:
        """Set a value; None or an empty one clears it."""
        await self._do(requests.set_value(name, value))

    async def get(self, name: Text) -> str | None:
        """A value, None where there is none."""
        return await self._do(requests.get_value(name))

    async def remove_values(self, *args: Any) -> bool:
        """Clear the values that match."""
        return await self._do(requests.remove_values(*args))

    async def list_processes(self, *args: Any) -> dict[str, dict[str, Any]]:
        """Name to pid, running and so on of the processes that match."""
        return await self._do(requests.list_processes(*args))

    async def make_process(
        self,
        name: Text,
        executable: Text | None = None,
        args: object = None,
        env: Mapping[Any, Any] | None = None,
        working_dir: Text | None = None,
        uid: int | Text | None = None,
        gid: int | Text | None = None,
        rlimits: Mapping[str, Any] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        bufsize: int | str | None = None,
        *,
        shell: bool | None = None,
        listen: Iterable[Text] | None = None,
        journal: bool | None = None,
    ) -> dict[str, Any]:
        """Start a process, or get the one that was made the same way. To watch it, call watch_processes: nothing is missed."""
        return await self._do(
            requests.make_process(
                name,
                executable,
                args,
                env,
                working_dir,
                uid,
                gid,
                rlimits,
                stdout,
                stderr,
                bufsize,
                shell=shell,
                listen=listen,
                journal=journal,
            )
        )

    async def remove_processes(self, *args: Any) -> bool:
        """Stop recording the processes that match; they run on."""
        return await self._do(requests.remove_processes(*args))

    async def watch_processes(self, *args: Any) -> Watcher:
        """Watch the processes that match, over a connection of its own."""
        watcher = Watcher(self, args)
        deadline = time.monotonic() + (await self._known()).connection_timeout
        while True:
            try:
                await watcher.begin(requests.watch_processes(*args))
                return watcher
            except ConnectionLost as error:
                if isinstance(error, TimedOut) or time.monotonic() > deadline:
                    raise

    async def exit_if_idle(self) -> bool:
        """Make papad leave if it holds nothing; whether it does."""
        return await self._do(requests.exit_if_idle())

    async def describe(self, kind: str, *args: Any) -> list[dict[str, Any]]:
        """Everything known about `sockets`, `processes` or `values` that match, or `server`."""
        return await self._do(requests.describe(kind, *args))

    def output(self, *args: Any, **selection: Unpack[Selection]) -> AsyncIterator[Frame]:
        """The output that papad holds of the processes that match, by time; nothing is consumed."""
        return self._read(Reading(args, **selection))

    def follow(self, *args: Any, timeout: float | None = None, **selection: Unpack[Selection]) -> AsyncIterator[Frame]:
        """The same, and what comes; goes on over restarts of papad without gap or repeat.

        Raises TimedOut when nothing comes for `timeout` seconds. Its connection ends when the iterator is closed (contextlib.aclosing).
        """
        return self._read(Reading(args, follow=True, **selection), timeout)

    # Connections

    async def _do(self, request: Request[T]) -> T:
        async with self._turn:
            deadline = time.monotonic() + (await self._known()).connection_timeout
            while True:
                if self.connection is None or not self.connection.fresh:
                    self.close()
                    self.connection = await self.another()
                try:
                    return request.parse(await self.connection.ask(request.line))
                except ConnectionLost as error:
                    if isinstance(error, TimedOut) or not request.repeatable or time.monotonic() > deadline:
                        raise

    async def _known(self) -> blocking.Papa:
        """The blocking Papa that knows where papad is, and has started it if need be. Its connection becomes ours."""
        async with self._finding:
            if self._settings is None:
                port_or_path, connection_timeout, timeout, autostart = self._arguments
                make = functools.partial(blocking.Papa, timeout=timeout, autostart=autostart)
                settings = await _in_thread(functools.partial(make, port_or_path, connection_timeout))
                client, settings.connection = settings.connection, None
                assert client is not None
                self.connection = await Connection.of(client)
                self._settings = settings
            return self._settings

    async def another(self) -> Connection:
        """A connection besides that which the commands use; the caller closes it."""
        return await Connection.of(await _in_thread((await self._known()).another))

    async def _read(self, reading: Reading, timeout: float | None = -1.0) -> AsyncIterator[Frame]:
        """The frames of a reading; on a new connection whenever papad ends the old one, from where it stood."""
        while True:
            connection = await self.another()
            try:
                if inquiry := reading.inquiry:
                    reading.locate(inquiry.parse(await connection.ask(inquiry.line)))
                frames = connection.frames(reading.line(), timeout)
                if reading.atomic:
                    frames = _all_of([frame async for frame in frames])
                async for frame in frames:
                    if reading.take(frame):
                        yield frame
                return
            except TimedOut:
                raise
            except ConnectionLost:
                await asyncio.sleep(_RETRY_DELAY)
            finally:
                connection.close()


async def _all_of(frames: Iterable[Frame]) -> AsyncIterator[Frame]:
    for frame in frames:
        yield frame


async def _in_thread(connect: Callable[[], C]) -> C:
    """Run something that connects in a thread. If nobody waits for it any more, it is closed as soon as it is there."""
    future = asyncio.get_running_loop().run_in_executor(None, connect)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(lambda done: None if done.cancelled() or done.exception() else done.result().close())
        raise
