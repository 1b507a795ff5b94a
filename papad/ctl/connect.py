"""Finds papad and connects to it, for one command or several."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Self

from papad.client.address import DEFAULT_PORT, find, for_people, is_port, usual_paths
from papad.client.connection import Client
from papad.ctl.parser import Call, Usage
from papad.ctl.render import leave_with_reader
from papad.ctl.run import CannotConnect
from papad.errors import ConnectionLost, Error, NotPermitted, Refused, TimedOut, Unreachable

ONLY_HOST = "PAPACTL_ONLY_HOST"
"""Environment variable that tells the papactl for one of several hosts which host to use."""
_SSH_WAIT = 300.0  # seconds for ssh to connect, including the time to type a password

if TYPE_CHECKING:
    from papad.ctl.tunnel import Tunnel


class Session:
    """The address of papad, and a connection to it.

    The session connects at the first use, and again after the connection was lost. For one of
    several hosts, `label` precedes each message of ssh, and ssh does not prompt.
    """

    def __init__(
        self, socket: str | None = None, port: str | None = None, host: str | None = None, label: str | None = None
    ) -> None:
        if socket is not None and port is not None:
            raise Usage("use either --socket or --port, not both")
        if socket == "":
            raise Usage("--socket needs the path of a socket, not ''")
        if port is not None and not is_port(port):
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
        """The address of papad, for messages."""
        place = for_people(self.address) if self.address else "the papad"
        if self.host:
            return f"{place} on {self.host}"
        return place + (f" ({self.origin})" if self.origin else "")

    def client(self) -> Client:
        """Return the connection of this session. Raises CannotConnect."""
        if self._client is None:
            self._client = self.connect()
        return self._client

    def check_acknowledges(self) -> None:
        """Raise NotPermitted if papad would not heed our acknowledgements, so that the same output would come again."""
        if self.client().describe("server")[0].get("role") == "view":
            raise NotPermitted(
                "you may only look, and acknowledge nothing; to read output as it comes: papactl output -f"
            )

    def begin(self) -> None:
        """Start connecting to another machine, so that several connect at the same time.

        Raises CannotConnect.
        """
        assert self._tunnel is not None
        try:
            self._tunnel.begin()
        except Unreachable as error:
            raise CannotConnect(f"cannot connect to {self.where}: {error}") from None

    def connect(self) -> Client:
        """Return a new connection, which the caller owns. Raises CannotConnect."""
        if self._tunnel is not None:
            return self._over(self._tunnel)
        try:
            return Client(self.address)
        except Refused as error:
            if not error.membership:
                raise CannotConnect(f"papad at {self.where} refused the connection: {error}") from None
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
            raise CannotConnect(f"cannot connect to papad at {self.where}: {error}") from None

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

    def run_there(self, words: list[str]) -> int:
        """Run another command line of papactl on the other machine. Return its exit status.

        Raises CannotConnect if it was not run.
        """
        assert self._tunnel is not None
        try:
            return self._tunnel.run(words)
        except Unreachable as error:
            raise CannotConnect(f"cannot run papactl on {self.host}: {error}") from None

    def drop(self) -> None:
        """Close the connection. The next use opens a new one."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def keep(self) -> None:
        """Pass the ownership of the connection to the caller, who closes it."""
        self._client = None

    def revive(self) -> None:
        """Drop the connection if it is no longer usable."""
        if self._client is not None and not self._client.fresh:
            self.drop()

    def _hint(self, error: Unreachable) -> str:
        if isinstance(error, Refused):
            return (
                "Only root and members of the group papad may use it: sudo adduser $USER papad, then log in again.\n"
                "To look only, the group papad-view is enough. Or start a papad of your own: systemctl --user enable --now papad.socket"
            )
        if self.given:
            return "Without --socket and --port, papactl searches for papad"
        if self.origin == "$PAPAD_SOCKET":
            return "Unset PAPAD_SOCKET to let papactl search for papad"
        own, system, _ = usual_paths()
        tried = ["Searched for papad at: $PAPAD_SOCKET, which is not set"]
        tried += [f"    {path}, {self._seen(path)}" for path in (own, system)]
        tried += [f"    127.0.0.1:{DEFAULT_PORT}, where nothing listens"] if self.address == DEFAULT_PORT else []
        start = "systemctl --user" if self.address == own else "sudo systemctl"
        return "\n".join([*tried, f"To start it: {start} enable --now papad.socket"])

    def _seen(self, path: str) -> str:
        if path == self.address:
            return "the one tried"
        return f"not tried: --socket {path}" if os.path.exists(path) else "does not exist"


def session_of(call: Call) -> Session:
    """Return the session for the options of a command line."""
    only = os.environ.pop(ONLY_HOST, None)  # only for this process, not for its children
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
    return address, "your own" if str(address) == usual_paths()[0] else "the system's"


def _reason(error: Unreachable) -> str:
    return str(error).rpartition(": ")[2]
