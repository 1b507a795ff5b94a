"""`Papa`, the client class for programs.

It is a drop-in replacement for the class of that name in the package papa 1.0.6, with additions.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Generator
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar, Unpack, cast

from papad.client.address import find
from papad.client.connection import RETRY_DELAY, Client, Closing, connect, read
from papad.client.later import LaterWatcher
from papad.client.watcher import Watcher
from papad.errors import ConnectionLost, Error, Refused, TimedOut, Unreachable
from papad.protocol import methods, requests
from papad.protocol.reading import Reading, Selection
from papad.protocol.requests import Request, Text
from papad.protocol.responses import Frame

T = TypeVar("T")
P = ParamSpec("P")

DEBUG_MODE_NONE, DEBUG_MODE_THREAD, DEBUG_MODE_PROCESS = 0, 1, 2


def _method(request: Callable[P, Request[T]], name: str = "") -> Callable[Concatenate[Papa, P], T]:
    """Make a method of a request."""

    def method(self: Papa, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._do(request(*args, **kwargs))

    return methods.as_method(method, request, name)


class Papa(Closing):
    """A client of papad. It connects, starts papad if necessary, and reconnects after a restart.

    It is a context manager, and is not thread-safe. Every method raises Error with papad's message.
    """

    spawned: ClassVar[bool] = False
    """Set this to True to keep this program from starting papad."""
    _default_port_or_path: ClassVar[int | Text | None] = None
    _default_connection_timeout: ClassVar[float] = 10
    _default_timeout: ClassVar[float | None] = 30

    def __init__(
        self,
        port_or_path: int | Text | None = None,
        connection_timeout: float | None = None,
        *,
        timeout: float | None = None,
        autostart: bool = True,
    ) -> None:
        """Connect to a port of 127.0.0.1 or to the absolute path of a Unix socket.

        The default address is that of papad.client.address.find(). `connection_timeout` (default:
        10 seconds) limits how long to connect to papad, start it, and reconnect to it. `timeout`
        (default: 30 seconds) limits each wait for an answer; TimedOut is raised when it expires.
        With `autostart`, papad is started if none answers.
        """
        given = port_or_path or self._default_port_or_path
        if isinstance(given, bytes | os.PathLike):
            given = os.fsdecode(given)
        self.connection_timeout = connection_timeout or self._default_connection_timeout
        self.timeout = timeout or self._default_timeout
        self.connection: Client | None = None
        self._locate(given or find())
        anywhere = not given and not os.environ.get("PAPAD_SOCKET")
        self.connection = (
            self._first_connection(anywhere=anywhere) if autostart and not self.spawned else self.another()
        )

    def close(self) -> None:
        """Close the connection. The next command opens a new one."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def fileno(self) -> int | None:
        """Return the file descriptor of the connection, or None if there is none."""
        return self.connection.fileno() if self.connection is not None else None

    def another(self) -> Client:
        """Return a new connection, separate from the one for commands. The caller closes it."""
        return connect(self.port_or_path, self.connection_timeout, self.timeout)

    # Commands

    list_sockets = _method(requests.list_sockets)
    make_socket = _method(requests.make_socket)
    remove_sockets = _method(requests.remove_sockets)
    list_values = _method(requests.list_values)
    set = _method(requests.set_value, "set")
    get = _method(requests.get_value, "get")
    remove_values = _method(requests.remove_values)
    list_processes = _method(requests.list_processes)
    make_process: methods.MakeProcess[dict[str, Any], Watcher] = cast(Any, _method)(requests.make_process)
    remove_processes = _method(requests.remove_processes)
    exit_if_idle = _method(requests.exit_if_idle)
    describe = _method(requests.describe)

    def watch_processes(self, *args: Any, later: bool = False) -> Watcher:
        """Watch the processes that match, with `later` also those that are made later."""
        if later:
            return LaterWatcher(self, args)
        return self._watch(requests.watch_processes(*args), args)

    def output(self, *args: Any, **selection: Unpack[Selection]) -> Generator[Frame, None, None]:
        """Read the captured output of the processes that match, by time.

        This consumes nothing and does not disturb watchers.
        """
        return read(Reading(args, **selection), self.another, self.timeout)

    def follow(
        self, *args: Any, timeout: float | None = None, **selection: Unpack[Selection]
    ) -> Generator[Frame, None, None]:
        """Read like `output`, then follow new output, also of processes that are made later.

        It continues after a restart of papad without gap or repeat. Raises TimedOut if nothing
        arrives for `timeout` seconds.
        """
        return read(Reading(args, follow=True, **selection), self.another, timeout)

    # Connections

    def _do(self, request: Request[T]) -> T:
        if request.watched:
            return self._watch(request.line, request.watched)  # type: ignore[return-value]
        return request.parse(self._retry(lambda client: client.ask(request.line), repeatable=request.repeatable))

    def _watch(self, line: bytes, patterns: tuple[object, ...]) -> Watcher:
        self._retry(lambda client: client.begin_watch(line))
        watcher = Watcher(self, patterns)
        self.connection = None
        return watcher

    def _retry(self, talk: Callable[[Client], T], *, repeatable: bool = True) -> T:
        """Call `talk` with an open connection.

        If the connection is lost meanwhile and the command is `repeatable`, try again on a new one.
        """
        deadline = time.monotonic() + self.connection_timeout
        while True:
            if self.connection is not None and not self.connection.fresh:
                self.close()
            if self.connection is None:
                self.connection = self.another()
            try:
                return talk(self.connection)
            except ConnectionLost as error:
                self.close()
                if isinstance(error, TimedOut) or not repeatable or time.monotonic() > deadline:
                    raise

    def _locate(self, port_or_path: int | str) -> None:
        self.port_or_path = port_or_path
        unix = isinstance(port_or_path, str)
        self.family = socket.AF_UNIX if unix else socket.AF_INET
        self.location = port_or_path if unix else ("127.0.0.1", port_or_path)
        if isinstance(port_or_path, str) and not os.path.isabs(port_or_path):
            raise Error(f"The path of papad's socket must be absolute, not {port_or_path!r}")

    def _first_connection(self, *, anywhere: bool) -> Client:
        """Return the first connection, and start papad if none answers.

        With `anywhere`, no address was given, so a user's own papad is started if it has a unit.
        """
        deadline = time.monotonic() + self.connection_timeout
        while True:
            left = deadline - time.monotonic()
            try:
                client = Client(self.port_or_path, max(left, 0.001))
                client.timeout = self.timeout
                return client
            except Refused:
                raise
            except (ConnectionLost, Unreachable) as error:
                if left < 0 or isinstance(error, TimedOut):
                    raise Unreachable(
                        f"could not connect to papad in {self.connection_timeout:.3g} seconds: {error}"
                    ) from None
                if isinstance(error, Unreachable):
                    # Imported here because it is rarely needed and slow to import.
                    from papad.client.autostart import own_socket, start

                    own = own_socket()
                    if anywhere and own and os.geteuid():  # root uses the system's papad
                        self._locate(own)
                    start(self.port_or_path, deadline)
                time.sleep(RETRY_DELAY)

    # Settings for the whole program

    @classmethod
    def set_debug_mode(cls, mode: bool | int = True, quit_when_connection_closed: bool = False) -> None:
        """Do nothing: papad never runs inside the client's process."""

    @classmethod
    def set_default_port(cls, port: int) -> None:
        """Set the default address for Papa()."""
        cls._default_port_or_path = port

    @classmethod
    def set_default_path(cls, path: Text) -> None:
        """Set the default address for Papa()."""
        cls._default_port_or_path = path

    @classmethod
    def set_default_connection_timeout(cls, connection_timeout: float) -> None:
        """Set the default for how many seconds Papa() tries to connect."""
        cls._default_connection_timeout = connection_timeout


set_debug_mode = Papa.set_debug_mode
set_default_port = Papa.set_default_port
set_default_path = Papa.set_default_path
set_default_connection_timeout = Papa.set_default_connection_timeout
