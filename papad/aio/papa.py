"""`Papa` for asyncio."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, cast

from papad.aio.connection import Client
from papad.aio.later import LaterWatcher
from papad.aio.watcher import Watcher
from papad.client import connection as blocking_connection
from papad.client import papa as blocking
from papad.client.connection import RETRY_DELAY
from papad.errors import ConnectionLost, TimedOut
from papad.protocol import methods, requests
from papad.protocol.reading import Reading, Selection
from papad.protocol.requests import Request, Text
from papad.protocol.responses import Frame

T = TypeVar("T")
P = ParamSpec("P")
_Later = Coroutine[Any, Any, T]
C = TypeVar("C", blocking_connection.Client, blocking.Papa)


def _method(request: Callable[P, Request[T]], name: str = "") -> Callable[Concatenate[Papa, P], _Later[T]]:
    """Make a method of a request."""

    async def method(self: Papa, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._do(request(*args, **kwargs))

    return methods.as_method(method, request, name)


class Papa:
    """A client of papad, for asyncio. Commands of several tasks run one after the other.

    Every method raises Error with papad's message.
    """

    def __init__(
        self,
        port_or_path: int | Text | None = None,
        connection_timeout: float | None = None,
        *,
        timeout: float | None = None,
        autostart: bool = True,
    ) -> None:
        """Take the arguments of `papad.Papa`. Connect only when the first command needs it."""
        self._arguments = port_or_path, connection_timeout, timeout, autostart
        self._settings: blocking.Papa | None = None
        self._turn = asyncio.Lock()
        self._finding = asyncio.Lock()
        self.connection: Client | None = None

    async def __aenter__(self) -> Self:
        await self._known()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The next command opens a new one."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    # Commands

    list_sockets = _method(requests.list_sockets)
    make_socket = _method(requests.make_socket)
    remove_sockets = _method(requests.remove_sockets)
    list_values = _method(requests.list_values)
    set = _method(requests.set_value, "set")
    get = _method(requests.get_value, "get")
    remove_values = _method(requests.remove_values)
    list_processes = _method(requests.list_processes)
    make_process: methods.MakeProcess[_Later[dict[str, Any]], _Later[Watcher]] = cast(Any, _method)(
        requests.make_process
    )
    remove_processes = _method(requests.remove_processes)
    exit_if_idle = _method(requests.exit_if_idle)
    describe = _method(requests.describe)

    async def watch_processes(self, *args: Any, later: bool = False) -> Watcher:
        """Watch the processes that match, with `later` also those that are made later.

        A watch has connections of its own.
        """
        if later:
            watcher = LaterWatcher(self, args)
            await watcher.start()
            return watcher
        return await self._watch(requests.watch_processes(*args), args)

    def output(self, *args: Any, **selection: Unpack[Selection]) -> AsyncGenerator[Frame, None]:
        """Read the captured output of the processes that match, by time, without consuming it."""
        return self._read(Reading(args, **selection))

    def follow(
        self, *args: Any, timeout: float | None = None, **selection: Unpack[Selection]
    ) -> AsyncGenerator[Frame, None]:
        """Read like `output`, then follow new output.

        It continues after a restart of papad without gap or repeat. Raises TimedOut if nothing
        arrives for `timeout` seconds. Closing the iterator (contextlib.aclosing) closes its
        connection.
        """
        return self._read(Reading(args, follow=True, **selection), timeout)

    set_debug_mode = blocking.Papa.set_debug_mode
    set_default_port = blocking.Papa.set_default_port
    set_default_path = blocking.Papa.set_default_path
    set_default_connection_timeout = blocking.Papa.set_default_connection_timeout

    # Connections

    async def _do(self, request: Request[T]) -> T:
        if request.watched:
            return await self._watch(request.line, request.watched)  # type: ignore[return-value]
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

    async def _watch(self, line: bytes, patterns: tuple[object, ...]) -> Watcher:
        watcher = Watcher(self, patterns)
        deadline = time.monotonic() + (await self._known()).connection_timeout
        while True:
            try:
                await watcher.begin(line)
                return watcher
            except ConnectionLost as error:
                if isinstance(error, TimedOut) or time.monotonic() > deadline:
                    raise

    async def _known(self) -> blocking.Papa:
        """Return the blocking Papa that found papad, and started it if necessary.

        Its first connection is taken over.
        """
        async with self._finding:
            if self._settings is None:
                port_or_path, connection_timeout, timeout, autostart = self._arguments
                make = functools.partial(blocking.Papa, timeout=timeout, autostart=autostart)
                settings = await _in_thread(functools.partial(make, port_or_path, connection_timeout))
                client, settings.connection = settings.connection, None
                assert client is not None
                self.connection = await Client.of(client)
                self._settings = settings
            return self._settings

    async def another(self) -> Client:
        """Return a new connection, separate from the one for commands. The caller closes it."""
        return await Client.of(await _in_thread((await self._known()).another))

    async def _read(self, reading: Reading, timeout: float | None = -1.0) -> AsyncGenerator[Frame, None]:
        """Yield the frames of a reading. When a connection is lost, resume on a new one."""
        while True:
            connection = await self.another()
            try:
                while True:
                    if inquiry := reading.inquiry:
                        reading.locate(inquiry.parse(await connection.ask(inquiry.line)))
                    frames = connection.frames(reading.line(), timeout)
                    if reading.atomic:
                        frames = _all_of([frame async for frame in frames])
                    async for frame in frames:
                        if reading.take(frame):
                            yield frame
                    if reading.ended():
                        return
            except TimedOut:
                raise
            except ConnectionLost:
                await asyncio.sleep(RETRY_DELAY)
            finally:
                connection.close()


async def _all_of(frames: Iterable[Frame]) -> AsyncGenerator[Frame, None]:
    for frame in frames:
        yield frame


async def _in_thread(connect: Callable[[], C]) -> C:
    """Run a blocking function that connects in a thread.

    If the caller is cancelled meanwhile, the connection is closed as soon as it is made.
    """
    future = asyncio.get_running_loop().run_in_executor(None, connect)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(lambda done: None if done.cancelled() or done.exception() else done.result().close())
        raise
