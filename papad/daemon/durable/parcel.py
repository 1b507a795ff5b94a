"""One record and its descriptors in one datagram: the unit of the vault and of the nursery's channel.

A record is JSON. One too large for a datagram travels in a memfd that goes along as the last descriptor, so that the
default socket buffer of an unprivileged user is always enough. Lone surrogates (bytes that are not UTF-8) survive.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

MAX_FDS = 240
"""Descriptors in one parcel; the kernel's own limit is 253 (SCM_MAX_FD, unix(7))."""

_INLINE = 16 * 1024
_SPILLED = b"#"
_BUFFER = _INLINE + 1024
_ANCILLARY = socket.CMSG_SPACE((MAX_FDS + 1) * array.array("i").itemsize)

Record = dict[str, Any]


def send(sock: socket.socket, record: Mapping[str, Any], fds: Sequence[int] = ()) -> int | None:
    """Send `record` with duplicates of `fds`, which stay the caller's.

    Returns the memfd that a large record went into, which is then the caller's to close, or None.
    Raises BlockingIOError when the socket is full, OSError otherwise; then nothing was sent.
    """
    data = json.dumps(record, separators=(",", ":")).encode("ascii")
    if len(data) <= _INLINE:
        socket.send_fds(sock, [data], list(fds))
        return None
    memfd = os.memfd_create("papad-record", os.MFD_CLOEXEC)
    try:
        write_all(memfd, data)
        socket.send_fds(sock, [_SPILLED], [*fds, memfd])
    except BaseException:
        os.close(memfd)
        raise
    return memfd


def receive(sock: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
    """The next raw parcel: its bytes (empty at end of file) and its descriptors, which are the caller's from now on.

    recvmsg itself rather than socket.recv_fds, which ignores its flags in CPython 3.11.
    """
    data, ancillary, _, _ = sock.recvmsg(_BUFFER, _ANCILLARY, flags | socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, list(fds)


def unpack(data: bytes, fds: list[int]) -> Record:
    """The record of a raw parcel; empty where its memfd has been emptied, for it was erased since.

    A memfd that carried it is taken off `fds` and closed. Raises ValueError if damaged.
    """
    if data == _SPILLED:
        if not fds:
            raise ValueError("a large record came without its memfd")
        memfd = fds.pop()
        try:
            data = read_all(memfd) or b"{}"
        finally:
            os.close(memfd)
    record = json.loads(data)
    if not isinstance(record, dict):
        raise ValueError("a record is not an object")
    return record


def write_all(fd: int, data: bytes, offset: int = 0) -> None:
    """Write all of `data` at `offset`. Raises OSError (ENOSPC, ENOMEM) with part of it written."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def read_all(fd: int) -> bytes:
    """All that the file holds."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that nothing else will."""
    for fd in fds:
        os.close(fd)
