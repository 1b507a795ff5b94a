"""Asks the kernel who serves a port of this machine, before anything is said to it.

Anybody can listen at a port that papad does not. Who takes that for papad would tell them the
environment of its processes.
"""

from __future__ import annotations

import os
import pwd
import socket

from papad.errors import ConnectionLost, Refused
from papad.protocol.sockdiag import SockDiag

VARIABLE = "PAPAD_SERVER_USER"
"""Names one more user who may serve the port, or `any`."""


def check(sock: socket.socket, port: int) -> None:
    """Make sure that a connection to a port of 127.0.0.1 leads to root, to us, or to whom PAPAD_SERVER_USER names.

    Raises Refused if it leads to somebody else, ConnectionLost if the other end is closed already.
    Where the kernel cannot be asked, everybody is believed.
    """
    trusted = os.environ.get(VARIABLE, "")
    if trusted == "any":
        return
    try:
        with SockDiag() as diag:
            end = diag.other_end(sock)
    except OSError:
        return
    if end is None or not end.inode:
        raise ConnectionLost(f"127.0.0.1:{port} closed the connection")
    if end.uid not in (0, os.getuid()) and trusted not in (str(end.uid), name_of(end.uid)):
        raise Refused(
            f"127.0.0.1:{port} is served by {name_of(end.uid)}, not by root or you, so nothing was sent; "
            f"to trust them, set {VARIABLE}={name_of(end.uid)}"
        )


def name_of(uid: int) -> str:
    """Return the name of a user, or the number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
