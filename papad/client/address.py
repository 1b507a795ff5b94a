"""Where papad is: addresses, how they are found, and a socket that is connected to one."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from papad.errors import ConnectionLost, Refused, Unreachable

DEFAULT_PORT = 20202

Address = str | int | Callable[[], socket.socket]
"""A Unix socket's path; a port of 127.0.0.1; or a function that gives a connected stream socket, each time it is called."""


def for_people(address: Address) -> str:
    """An address for people."""
    return address if isinstance(address, str) else f"127.0.0.1:{address}" if isinstance(address, int) else "papad"


def find() -> str | int:
    """Where papad is: $PAPAD_SOCKET, the user's own socket, the system's, or else the port of old."""
    given = os.environ.get("PAPAD_SOCKET")
    if given:
        return int(given) if given.isdecimal() else given
    return next(filter(os.path.exists, usual_paths()), DEFAULT_PORT)


def usual_paths() -> list[str]:
    """Where the sockets of the user's own papad and of the system's are. Under sudo and cron XDG_RUNTIME_DIR is not set."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return [f"{runtime}/papad.sock", "/run/papad/papad.sock"]


def connected(address: Address, timeout: float | None) -> socket.socket:
    """A connected socket. Raises Unreachable."""
    if not isinstance(address, str | int):
        return address()
    unix = isinstance(address, str)
    sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(address if isinstance(address, str) else ("127.0.0.1", address))
    except PermissionError:
        sock.close()
        raise Refused(f"no permission to talk to papad at {address}; the group papad has it") from None
    except (BlockingIOError, TimeoutError):  # the queue is full: somebody is there
        sock.close()
        raise ConnectionLost(f"{for_people(address)} is too busy to take a connection") from None
    except (OSError, OverflowError) as error:
        sock.close()
        reason = getattr(error, "strerror", None) or error
        raise Unreachable(f"nobody answers at {for_people(address)}: {reason}") from None
    if not unix:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
