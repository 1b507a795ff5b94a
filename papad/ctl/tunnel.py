"""Connections to the papad of another machine: an ssh each, with `papactl stdio-bridge` at its far end.

The client library talks to it through a socket pair, as to any other papad.
"""

from __future__ import annotations

import socket
import subprocess
from shlex import quote

from papad.ctl.parser import Usage
from papad.errors import Unreachable


class Tunnel:
    """Makes connections to the papad of `host`; each is an ssh. Its owner closes it, after the connections."""

    def __init__(self, host: str, address: str | int | None) -> None:
        if not host or host.startswith("-"):
            raise Usage(f"not a host: {host!r}")
        self._command = ["ssh", "-xT", "--", host, _far_command(address)]
        self._running: list[subprocess.Popen[bytes]] = []

    def connect(self) -> socket.socket:
        """A new connection, the caller's. What is wrong with it shows when nothing comes."""
        near, far = socket.socketpair()
        with far:
            try:
                self._running.append(subprocess.Popen(self._command, stdin=far.fileno(), stdout=far.fileno()))
            except OSError as error:
                near.close()
                raise Unreachable(f"-H needs ssh: {error.strerror}") from None
        return near

    def close(self) -> None:
        """Wait for each ssh to end, as it does with its connection."""
        for ssh in self._running:
            try:
                ssh.wait(2)
            except subprocess.TimeoutExpired:
                ssh.terminate()
                ssh.wait()


def _far_command(address: str | int | None) -> str:
    option = (
        "" if address is None else f"--port {address}" if isinstance(address, int) else f"--socket {quote(address)}"
    )
    return " ".join(filter(None, ["papactl", option, "stdio-bridge"]))
