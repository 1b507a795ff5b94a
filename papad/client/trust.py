"""Asks the kernel who serves a port of this machine, before anything is said to it.

Anybody can listen at a port that papad does not. Who takes that for papad would tell them the
environment of its processes.
"""

from __future__ import annotations

import os
import pwd
import socket
import struct

from papad.errors import ConnectionLost, Refused

VARIABLE = "PAPAD_SERVER_USER"
"""Names one more user who may serve the port, or `any`."""

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG: sock_diag(7), Linux 3.3
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST = struct.Struct("=IHHII BBBxI 2s2s 16s16s IQ")  # nlmsghdr, inet_diag_req_v2
_UID_AND_INODE = struct.Struct("=II")
_UID_AT = 16 + 4 + 48 + 12  # behind nlmsghdr, states, inet_diag_sockid, expires, rqueue, wqueue


def check(sock: socket.socket, port: int) -> None:
    """Make sure that a connection to a port of 127.0.0.1 leads to root, to us, or to whom PAPAD_SERVER_USER names.

    Raises Refused if it leads to somebody else, ConnectionLost if the other end is closed already.
    Where the kernel cannot be asked, everybody is believed.
    """
    trusted = os.environ.get(VARIABLE, "")
    if trusted == "any":
        return
    try:
        uid, inode = _server(sock)
    except OSError:
        return
    if not inode:  # then the uid is that of nobody
        raise ConnectionLost(f"127.0.0.1:{port} closed the connection")
    if uid not in (0, os.getuid()) and trusted not in (str(uid), name_of(uid)):
        raise Refused(
            f"127.0.0.1:{port} is served by {name_of(uid)}, not by root or you, so nothing was sent; "
            f"to trust them, set {VARIABLE}={name_of(uid)}"
        )


def _server(sock: socket.socket) -> tuple[int, int]:
    """Return the uid and the inode of the socket at the other end. Raises OSError."""
    (ours, our_port), (theirs, their_port) = sock.getsockname(), sock.getpeername()
    addresses = (socket.inet_aton(host).ljust(16, b"\0") for host in (theirs, ours))
    ports = (number.to_bytes(2, "big") for number in (their_port, our_port))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as netlink:
        netlink.settimeout(1.0)
        header = (_REQUEST.size, _BY_FAMILY, 1, 1, 0)  # 1 is NLM_F_REQUEST, and the sequence number
        anything = 0xFFFFFFFF  # of states
        netlink.send(
            _REQUEST.pack(
                *header, socket.AF_INET, socket.IPPROTO_TCP, 0, anything, *ports, *addresses, 0, (1 << 64) - 1
            )
        )
        answer = netlink.recv(8192)
    _, kind = struct.unpack_from("=IH", answer)
    if kind != _BY_FAMILY:
        raise OSError("no such connection, or no such module in the kernel")
    uid, inode = _UID_AND_INODE.unpack_from(answer, _UID_AT)
    return uid, inode


def name_of(uid: int) -> str:
    """Return the name of a user, or the number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
