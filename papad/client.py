"""Talking to papad: a connection, commands, answers. What `papactl` and the tests are built on."""

from __future__ import annotations

import os
import socket
from types import TracebackType
from typing import Self

from papad import wire
from papad.errors import ConnectionLost, Error, Unreachable

DEFAULT_PORT = 20202


class Client:
    """One connection to a papad. A context manager; not for several threads at once."""

    def __init__(self, address: str | int = DEFAULT_PORT, timeout: float | None = 10.0) -> None:
        """Connect to a Unix socket's path, or a port of 127.0.0.1. `timeout` is in seconds, for each wait.

        Raises Unreachable when nobody answers there, Error when papad lets us not in.
        """
        self.address = address
        family, target = (
            (socket.AF_UNIX, address) if isinstance(address, str) else (socket.AF_INET, ("127.0.0.1", address))
        )
        self._sock = socket.socket(family, socket.SOCK_STREAM)
        self._sock.settimeout(timeout)
        self._data = b""
        try:
            self._sock.connect(target)
        except OSError as error:
            self._sock.close()
            raise Unreachable(f"nobody answers at {describe(address)}: {error.strerror or error}") from None
        try:
            self._answer()
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. What a watch delivered and nobody acknowledged will be delivered again."""
        self._sock.close()

    def command(self, *words: str) -> str:
        """Send one command, its words as they are, and return the answer. Raises Error with what papad says.

        Not for commands that begin to watch: these answer with more than an answer.
        """
        if not any(words):
            raise Error("no command")
        self._sock.sendall(wire.join_words(words))
        return self._answer()

    def _answer(self) -> str:
        while not self._data.endswith(b"\n" + wire.PROMPT):
            try:
                more = self._sock.recv(65536)
            except TimeoutError:
                raise ConnectionLost(f"no answer from {describe(self.address)} in time") from None
            except ConnectionError:
                more = b""
            if not more and self._data.startswith((b"ok\n", b"Exiting")):
                break
            if not more:
                raise ConnectionLost(f"{describe(self.address)} ended the connection")
            self._data += more
        text = self._data.decode("utf-8", "replace").removesuffix("> ").removesuffix("\n")
        self._data = b""
        if text.startswith("Error: "):
            raise Error(text.removeprefix("Error: "))
        return text


def describe(address: str | int) -> str:
    """An address for people."""
    return address if isinstance(address, str) else f"127.0.0.1:{address}"


def find() -> str | int:
    """Where papad is: $PAPAD_SOCKET, the user's own socket, the system's, or else the port of old."""
    given = os.environ.get("PAPAD_SOCKET")
    if given:
        return int(given) if given.isdecimal() else given
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    for path in ([f"{runtime}/papad.sock"] if runtime else []) + ["/run/papad/papad.sock"]:
        if os.path.exists(path):
            return path
    return DEFAULT_PORT
