"""Ask the kernel about the other end of a TCP connection within this machine (sock_diag(7), Linux 3.3).

It is one request and one answer of fixed layout (linux/inet_diag.h, linux/tcp.h), and is asked for
each client, so there is no library in between.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import NamedTuple, Self

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_NLM_F_REQUEST = 1
_ALL_STATES = 0xFFFFFFFF
_INFO = 2  # the attribute INET_DIAG_INFO
_ANY_COOKIE = (1 << 64) - 1  # INET_DIAG_NOCOOKIE
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_REQUEST = struct.Struct("=IHHII BBBxI 2s2s 16s16s IQ")  # nlmsghdr, inet_diag_req_v2
_ANSWER = struct.Struct("=16x xBxx 2s2s 16s16s 12x 4x I4xII")  # nlmsghdr, inet_diag_msg
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_COUNT = struct.Struct("=Q")
_BYTES_RECEIVED = 128  # where tcp_info has tcpi_bytes_received, since Linux 4.1


class OtherEnd(NamedTuple):
    """What the kernel tells of the socket at the other end."""

    state: int
    """As numbered in linux/tcp_states.h."""
    unread: int
    """Bytes that have arrived there and were not read."""
    uid: int
    inode: int
    """0 where no process holds it any more: then the uid is nobody's."""
    received: int | None
    """Bytes that have ever arrived there, if that was asked for and can be told."""


class SockDiag:
    """A netlink socket for such questions."""

    def __init__(self) -> None:
        """Open it. Raises OSError."""
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG)
        self._netlink.settimeout(1.0)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._netlink.close()

    def other_end(self, sock: socket.socket, *, received: bool = False) -> OtherEnd | None:
        """Return what is known of the other end of exactly this connection; None if there is none.

        Raises OSError: ENOENT if the connection is gone or the kernel lacks the module tcp_diag,
        TimeoutError if it has not answered within a second.
        """
        (ours, our_port), (theirs, their_port) = sock.getsockname()[:2], sock.getpeername()[:2]
        ports = their_port.to_bytes(2, "big"), our_port.to_bytes(2, "big")
        addresses = socket.inet_pton(sock.family, theirs), socket.inet_pton(sock.family, ours)
        self._sequence += 1
        extensions = 1 << _INFO - 1 if received else 0
        self._netlink.send(
            _REQUEST.pack(
                *(_REQUEST.size, _BY_FAMILY, _NLM_F_REQUEST, self._sequence, 0),
                *(sock.family, socket.IPPROTO_TCP, extensions, _ALL_STATES),
                *(*ports, *addresses, 0, _ANY_COOKIE),
            )
        )
        while True:
            answer = self._netlink.recv(8192)
            length, kind, _, sequence, _ = _HEADER.unpack_from(answer)
            if sequence == self._sequence:
                break
        if kind != _BY_FAMILY:
            (error,) = struct.unpack_from("=i", answer, _HEADER.size)  # nlmsgerr
            raise OSError(-error, os.strerror(-error))
        state, port, other_port, _, _, unread, uid, inode = _ANSWER.unpack_from(answer)
        if (port, other_port) != ports:
            return None  # for a connection that is gone, the kernel may report the listener
        return OtherEnd(state, unread, uid, inode, _received(answer[:length]))


def _received(answer: bytes) -> int | None:
    at = _ANSWER.size
    while at + _ATTRIBUTE.size <= len(answer):
        size, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == _INFO and size >= _ATTRIBUTE.size + _BYTES_RECEIVED + _COUNT.size:
            return int(_COUNT.unpack_from(answer, at + _ATTRIBUTE.size + _BYTES_RECEIVED)[0])
        at += max(_ATTRIBUTE.size, size + 3 & ~3)
    return None
