"""Finding papad and talking to it, for one command or for many."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Self

from papad.client.address import DEFAULT_PORT, find, for_people, usual_paths
from papad.client.connection import Client
from papad.ctl.parser import Call, Usage
from papad.ctl.render import leave_with_reader
from papad.errors import ConnectionLost, Error, Refused, TimedOut, Unreachable

ONLY_HOST = "PAPACTL_ONLY_HOST"
"""In the environment of the papactl that serves one of several hosts: which one."""
_SSH_WAIT = 300.0  # seconds for ssh to connect, somebody's typing of a password included

if TYPE_CHECKING:
    from papad.ctl.tunnel import Tunnel


class CannotConnect(Exception):
    """There is no talking to papad. `hint` says what to do; it may have several lines."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Session:
    """Where papad is, and the connection to it, made at its first use and again when it was lost.

    For one of several hosts `label` is what ssh's words begin with, and ssh asks no questions.
    """

    def __init__(
        self, socket: str | None = None, port: str | None = None, host: str | None = None, label: str | None = None
    ) -> None:
        if socket and port:
            raise Usage("--socket or --port, not both")
        if port and not (port.isdecimal() and 0 < int(port) < 65536):
            raise Usage(f"--port must be a number from 1 to 65535, not {port!r}")
        self.host = host
        self.address: str | int
        self.given = socket is not None or port is not None
        given = os.path.abspath(socket) if socket and not host else socket
        self.address, self.origin = (given or int(port or 0), "") if self.given else ("", "") if host else _found()
        self._client: Client | None = None
        self._tunnel: Tunnel | None = None
        if host is not None:
            from papad.ctl.tunnel import Tunnel

            self._tunnel = Tunnel(host, self.address if self.given else None, label)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()
        if self._tunnel is not None:
            self._tunnel.close(at_once=kind is KeyboardInterrupt)

    @property
    def where(self) -> str:
        """The server's place, for people."""
        place = for_people(self.address) if self.address else "the papad"
        if self.host:
            return f"{place} of {self.host}"
        return place + (f" ({self.origin})" if self.origin else "")

    def client(self) -> Client:
        """The connection. Raises CannotConnect."""
        if self._client is None:
            self._client = self.connect()
        return self._client

    def begin(self) -> None:
        """Begin to connect to another machine, so that several can at the same time. Raises CannotConnect."""
        assert self._tunnel is not None
        try:
            self._tunnel.begin()
        except Unreachable as error:
            raise CannotConnect(f"cannot connect to {self.where}: {error}") from None

    def connect(self) -> Client:
        """A connection that is the caller's. Raises CannotConnect."""
        if self._tunnel is not None:
            return self._over(self._tunnel)
        try:
            return Client(self.address)
        except Refused as error:
            raise CannotConnect(f"no permission to talk to papad at {self.where}", self._hint(error)) from None
        except Unreachable as error:
            raise CannotConnect(
                f"cannot connect to papad at {self.where}: {_reason(error)}", self._hint(error)
            ) from None
        except ConnectionLost:
            raise CannotConnect(
                f"{self.where} is not answering like papad; is another program listening there?"
            ) from None
        except Error as error:
            raise CannotConnect(f"papad at {self.where} refuses: {error}") from None

    def _over(self, tunnel: Tunnel) -> Client:
        try:
            client = Client(tunnel.connect, _SSH_WAIT)
        except TimedOut:
            raise CannotConnect(f"no answer from {self.where} in {_SSH_WAIT:.0f} seconds") from None
        except ConnectionLost:
            reason, hint = tunnel.why()
            raise CannotConnect(f"cannot talk to {self.where}: {reason}", hint) from None
        except Error as error:
            raise CannotConnect(f"cannot connect to {self.where}: {error}") from None
        client.timeout = 30.0
        return client

    def drop(self) -> None:
        """Close the connection; the next use makes another."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def keep(self) -> None:
        """The connection is somebody else's from now on, who closes it."""
        self._client = None

    def revive(self) -> None:
        """Forget a connection that is of no more use."""
        if self._client is not None and not self._client.fresh:
            self.drop()

    def _hint(self, error: Unreachable) -> str:
        if isinstance(error, Refused):
            return (
                "It lets in root and the members of the group papad: sudo adduser $USER papad, and log in again.\n"
                "Or have one of your own: systemctl --user enable --now papad.socket"
            )
        if self.given:
            return "Without --socket and --port, papactl looks for it by itself"
        if self.origin == "$PAPAD_SOCKET":
            return "Unset PAPAD_SOCKET to have papactl look for it"
        own, system = usual_paths()
        tried = ["Looked for it at: $PAPAD_SOCKET, which is not set"]
        tried += [f"    {path}, {self._seen(path)}" for path in (own, system)]
        tried += [f"    127.0.0.1:{DEFAULT_PORT}, where nobody listens"] if self.address == DEFAULT_PORT else []
        start = "systemctl --user" if self.address == own else "sudo systemctl"
        return "\n".join([*tried, f"To start it: {start} enable --now papad.socket"])

    def _seen(self, path: str) -> str:
        if path == self.address:
            return "this one"
        return f"not asked: --socket {path}" if os.path.exists(path) else "not there"


def session_of(call: Call) -> Session:
    """The session that the options of a command line ask for."""
    only = os.environ.pop(ONLY_HOST, None)  # for this process alone, not for those that it starts
    if only is not None:
        leave_with_reader()
        return Session(call.text("socket"), call.text("port"), only, label="")
    return Session(call.text("socket"), call.text("port"), *call.texts("host"))


def _found() -> tuple[str | int, str]:
    address = find()
    if os.environ.get("PAPAD_SOCKET"):
        return address, "$PAPAD_SOCKET"
    if address == DEFAULT_PORT:
        return address, "the default"
    return address, "the system's" if str(address) == usual_paths()[-1] else "your own"


def _reason(error: Unreachable) -> str:
    return str(error).rpartition(": ")[2]
