"""Finds the address of papad, and connects a socket to it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator

from papad.client import trust
from papad.errors import ConnectionLost, Error, Refused, Unreachable
from papad.protocol.options import number

DEFAULT_PORT = 20202
SYSTEM = "/run/papad/papad.sock"

Address = str | int | Callable[[], socket.socket]
"""The path of a Unix socket, a port of 127.0.0.1, or a function.

The function returns a new connected stream socket at each call; the caller owns it.
"""


def for_people(address: Address) -> str:
    """Format an address for messages."""
    return address if isinstance(address, str) else f"127.0.0.1:{address}" if isinstance(address, int) else "papad"


def is_port(text: str) -> bool:
    """Return whether this is the number of a port to connect to."""
    return 0 < number(text) < 65536


def find() -> str | int:
    """Return the address of papad.

    This is $PAPAD_SOCKET if set, else the first of the usual paths that exists and lets this user
    connect, else the first that exists, else the port of the original papa. Raises Unreachable if
    $PAPAD_SOCKET is a number but no port.
    """
    given = os.environ.get("PAPAD_SOCKET")
    if given and given.isdecimal():
        if not is_port(given):
            raise Unreachable(f"PAPAD_SOCKET must be a path, or a port from 1 to 65535, not {given}")
        return int(given)
    if given:
        return given
    paths = [path for path in usual_paths() if os.path.exists(path)]
    return next((path for path in paths if os.access(path, os.W_OK)), paths[0] if paths else DEFAULT_PORT)


def usual_paths() -> list[str]:
    """Return the usual socket paths: of the user's own papad, of the system's, and of that for who may only look.

    XDG_RUNTIME_DIR is not set under sudo and cron; /run/user/UID then takes its place.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return [f"{runtime}/papad.sock", SYSTEM, "/run/papad/view.sock"]


def connected(address: Address, timeout: float | None) -> socket.socket:
    """Return a connected socket, which the caller owns.

    Raises Unreachable or ConnectionLost, and Error for what cannot be a path.
    """
    if not isinstance(address, str | int):
        return address()
    unix = isinstance(address, str)
    sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(address if isinstance(address, str) else ("127.0.0.1", address))
    except PermissionError:
        sock.close()
        raise _no_permission(address) from None
    except (BlockingIOError, TimeoutError):  # the backlog is full, so something is listening
        sock.close()
        raise ConnectionLost(f"{for_people(address)} is too busy to accept a connection") from None
    except UnicodeError as error:
        sock.close()
        raise Error(f"{address!r} cannot be the path of papad's socket: {error}") from None
    except (OSError, OverflowError) as error:
        sock.close()
        reason = getattr(error, "strerror", None) or error
        raise Unreachable(f"papad does not answer at {for_people(address)}: {reason}") from None
    if not unix:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _no_permission(address: str | int) -> Refused:
    """Return the error that says who could give the permission to connect."""
    message = f"no permission to talk to papad at {for_people(address)}"
    if address == SYSTEM:
        return Refused(f"{message}; members of the group papad have it", membership=True)
    for place in _and_above(address) if isinstance(address, str) else ():
        with contextlib.suppress(OSError):  # in a directory that this user may not search
            return Refused(f"{message}: {place} belongs to {trust.name_of(os.stat(place).st_uid)}")
    return Refused(message)


def _and_above(path: str) -> Iterator[str]:
    """Yield a path, and those of the directories that it is in, from the innermost."""
    yield path
    while (above := os.path.dirname(path)) not in (path, ""):
        yield above
        path = above
