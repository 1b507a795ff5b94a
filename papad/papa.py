"""`Papa`: what programs use. A drop-in for the class of that name in the package papa 1.0.6, and more."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, ClassVar, Literal, Self, TypeVar, Unpack, overload

from papad import requests
from papad.client import Client, connect, find, read
from papad.errors import ConnectionLost, Error, Refused, TimedOut, Unreachable
from papad.incoming import Frame
from papad.requests import Reading, Request, Selection, Text
from papad.watcher import Watcher

T = TypeVar("T")

DEBUG_MODE_NONE, DEBUG_MODE_THREAD, DEBUG_MODE_PROCESS = 0, 1, 2


class Papa:
    """The way to a papad, wherever it is: connects, starts it if need be, and connects again when it was restarted.

    A context manager; not for several threads at once. Every method raises Error with what papad says.
    """

    spawned: ClassVar[bool] = False
    """Set it to keep this program from starting papad."""
    _default_port_or_path: ClassVar[int | str | None] = None
    _default_connection_timeout: ClassVar[float] = 10
    _default_timeout: ClassVar[float | None] = 30

    def __init__(
        self,
        port_or_path: int | str | None = None,
        connection_timeout: float | None = None,
        *,
        timeout: float | None = None,
        autostart: bool = True,
    ) -> None:
        """Connect to a port of 127.0.0.1 or a Unix socket's absolute path; by default to where client.find() says papad is.

        `connection_timeout` (10 seconds) is for finding, starting and finding again a papad that answers; `timeout` (30 seconds) for
        each wait for an answer, then TimedOut is raised. With `autostart` papad is started where nobody answers.
        """
        given = port_or_path or self._default_port_or_path
        self.connection_timeout = connection_timeout or self._default_connection_timeout
        self.timeout = timeout or self._default_timeout
        self.connection: Client | None = None
        self._locate(given or find())
        self.connection = self._first_connection(autostart, anywhere=given is None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. The next command makes a new one."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def fileno(self) -> int | None:
        """The file number of the connection, None when there is none."""
        return self.connection.fileno() if self.connection is not None else None

    def another(self) -> Client:
        """A connection besides that which the commands use; the caller closes it."""
        return connect(self.port_or_path, self.connection_timeout, self.timeout)

    # Commands

    def list_sockets(self, *args: Any) -> dict[str, dict[str, Any]]:
        """Name to options of the sockets that match, by name, number or wildcard; of all without a pattern."""
        return self._do(requests.list_sockets(*args))

    def make_socket(
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
        """Make a socket, or get the one that was made the same way; its options, among them `port` and `fileno`."""
        return self._do(
            requests.make_socket(name, host, port, family, socket_type, backlog, path, umask, interface, reuseport)
        )

    def remove_sockets(self, *args: Any) -> bool:
        """Close the sockets that match; all without a pattern."""
        return self._do(requests.remove_sockets(*args))

    def list_values(self, *args: Any) -> dict[str, str]:
        """Name to value of those that match; of all without a pattern."""
        return self._do(requests.list_values(*args))

    def set(self, name: Text, value: object = None) -> None:
        """Set a value; None or an empty one clears it."""
        self._do(requests.set_value(name, value))

    def get(self, name: Text) -> str | None:
        """A value, None where there is none."""
        return self._do(requests.get_value(name))

    def remove_values(self, *args: Any) -> bool:
        """Clear the values that match."""
        return self._do(requests.remove_values(*args))

    def list_processes(self, *args: Any) -> dict[str, dict[str, Any]]:
        """Name to pid, running, started, args and so on of the processes that match; of all without a pattern."""
        return self._do(requests.list_processes(*args))

    @overload
    def make_process(
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
        watch_immediately: Literal[False] | None = None,
        *,
        shell: bool | None = None,
        listen: Iterable[Text] | None = None,
        journal: bool | None = None,
    ) -> dict[str, Any]: ...

    @overload
    def make_process(
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
        watch_immediately: Literal[True],
        shell: bool | None = None,
        listen: Iterable[Text] | None = None,
        journal: bool | None = None,
    ) -> Watcher: ...

    def make_process(
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
        watch_immediately: bool | None = None,
        *,
        shell: bool | None = None,
        listen: Iterable[Text] | None = None,
        journal: bool | None = None,
    ) -> dict[str, Any] | Watcher:
        """Start a process, or get the one that was made the same way; its pid and so on, or with `watch_immediately` a Watcher."""
        request = requests.make_process(
            name, executable, args, env, working_dir, uid, gid, rlimits, stdout, stderr, bufsize, watch_immediately,
            shell=shell, listen=listen, journal=journal,
        )  # fmt: skip
        return self._watch(request.line, (name,)) if watch_immediately else self._do(request)

    def remove_processes(self, *args: Any) -> bool:
        """Stop recording the processes that match, all without a pattern; they run on."""
        return self._do(requests.remove_processes(*args))

    def watch_processes(self, *args: Any) -> Watcher:
        """Watch the processes that match."""
        return self._watch(requests.watch_processes(*args), args)

    def exit_if_idle(self) -> bool:
        """Make papad leave if it holds nothing; whether it does."""
        return self._do(requests.exit_if_idle())

    def describe(self, kind: str, *args: Any) -> list[dict[str, Any]]:
        """Everything known about `sockets`, `processes` or `values` that match, or `server`."""
        return self._do(requests.describe(kind, *args))

    def output(self, *args: Any, **selection: Unpack[Selection]) -> Iterator[Frame]:
        """The output that papad holds of the processes that match, by time. Nothing is consumed, and no watcher disturbed."""
        return read(Reading(args, **selection), self.another, self.timeout)

    def follow(self, *args: Any, timeout: float | None = None, **selection: Unpack[Selection]) -> Iterator[Frame]:
        """The same, and what comes, of processes made later too; goes on over restarts of papad without gap or repeat.

        Raises TimedOut when nothing comes for `timeout` seconds.
        """
        return read(Reading(args, follow=True, **selection), self.another, timeout)

    # Connections

    def _do(self, request: Request[T]) -> T:
        return request.parse(self._retry(lambda client: client.ask(request.line), repeatable=request.repeatable))

    def _watch(self, line: bytes, patterns: tuple[object, ...]) -> Watcher:
        self._retry(lambda client: client.begin_watch(line))
        watcher = Watcher(self, patterns)
        self.connection = None
        return watcher

    def _retry(self, talk: Callable[[Client], T], *, repeatable: bool = True) -> T:
        """Talk over a connection that stands; over a new one, if this ends and `repeatable` says that it does no harm."""
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

    def _first_connection(self, autostart: bool, anywhere: bool) -> Client:
        """The first connection, to a papad that is started if nobody answers; `anywhere` if nobody said where."""
        deadline = time.monotonic() + self.connection_timeout
        if autostart and not self.spawned:
            try:
                return Client(self.port_or_path, self.timeout)
            except (Refused, TimedOut):
                raise
            except ConnectionLost:
                pass  # it answers, and restarts just now
            except Unreachable:
                from papad.start import own_socket, start  # seldom needed, and takes a while

                own = own_socket()
                if anywhere and own:
                    self._locate(own)
                start(self.port_or_path, deadline)
        return connect(self.port_or_path, max(deadline - time.monotonic(), 0.0), self.timeout)

    # What can be set for the whole program

    @classmethod
    def set_debug_mode(cls, mode: bool | int = True, quit_when_connection_closed: bool = False) -> None:
        """Accepted, and without effect: papad never runs inside the client's process."""

    @classmethod
    def set_default_port(cls, port: int) -> None:
        """Where papad is, if Papa() is not told."""
        cls._default_port_or_path = port

    @classmethod
    def set_default_path(cls, path: str) -> None:
        """Where papad is, if Papa() is not told."""
        cls._default_port_or_path = path

    @classmethod
    def set_default_connection_timeout(cls, connection_timeout: float) -> None:
        """For how many seconds Papa() tries to connect, if it is not told."""
        cls._default_connection_timeout = connection_timeout


set_debug_mode = Papa.set_debug_mode
set_default_port = Papa.set_default_port
set_default_path = Papa.set_default_path
set_default_connection_timeout = Papa.set_default_connection_timeout
