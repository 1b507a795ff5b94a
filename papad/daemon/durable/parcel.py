"""Parcels: a message and its descriptors in one datagram, for the nursery's channel.

A message is a JSON object. One that is too large for a datagram travels in a memfd, which is passed
as the first descriptor, so the default socket buffer of an unprivileged user is always enough; the
datagram says which one it is. Lone surrogates (bytes that are not UTF-8) survive.
"""

from __future__ import annotations

import array
import json
import os
import socket

TYPE_CHECKING = False  # as in typing, which is large
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

MAX_FDS = 240
"""The most descriptors in one parcel; the kernel's limit is 253 (SCM_MAX_FD, unix(7))."""

_INLINE = 16 * 1024
_SPILLED = b"#"
_HEAD = ("do", "what", "id")  # what a datagram says of a message that is in a memfd
_BUFFER = _INLINE + 1024
_ANCILLARY = socket.CMSG_SPACE((MAX_FDS + 1) * array.array("i").itemsize)

Record = dict[str, "Any"]

encode = json.JSONEncoder(separators=(",", ":")).encode
"""Returns JSON without spaces."""


class Lost(ValueError):
    """A large message came without its memfd: the receiver has no descriptor left. `record` is its beginning."""

    def __init__(self, record: Record) -> None:
        super().__init__(f"a large message came without its memfd: {record}")
        self.record = record


def send(sock: socket.socket, record: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    """Send `record` with duplicates of `fds`, which stay the caller's.

    Raises BlockingIOError if the socket is full, or another OSError; then nothing was sent.
    """
    data = encode(record).encode("ascii")
    if len(data) <= _INLINE:
        socket.send_fds(sock, [data], list(fds))
        return
    memfd = os.memfd_create("papad-record", os.MFD_CLOEXEC)
    try:
        write_all(memfd, data)
        head = {key: record[key] for key in _HEAD if key in record}
        socket.send_fds(sock, [_SPILLED + json.dumps(head).encode("ascii")], [memfd, *fds])
    finally:
        os.close(memfd)


def receive(sock: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
    """Receive a raw parcel: its bytes (empty at end of file) and its descriptors.

    The descriptors become the caller's. Fewer than were sent come if we have no room for them
    (RLIMIT_NOFILE; cmsg(3)). This calls recvmsg because socket.recv_fds ignores its flags in
    CPython 3.11.
    """
    data, ancillary, _, _ = sock.recvmsg(_BUFFER, _ANCILLARY, flags | socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, list(fds)


def unpack(data: bytes, fds: list[int]) -> Record:
    """Return the message of a raw parcel.

    The memfd of a large message is removed from `fds` and closed. Raises Lost if it did not come,
    and another ValueError if the parcel is damaged.
    """
    if data[:1] == _SPILLED:
        if not fds:
            raise Lost(json.loads(data[1:]))
        memfd = fds.pop(0)
        try:
            data = read_all(memfd)
        finally:
            os.close(memfd)
    record = json.loads(data)
    if not isinstance(record, dict):
        raise ValueError("a record is not an object")
    return record


def write_all(fd: int, data: bytes, offset: int = 0) -> None:
    """Write all of `data` at `offset`. On OSError (ENOSPC, ENOMEM) part of it may be written."""
    while (written := os.pwrite(fd, data, offset)) < len(data):
        data, offset = data[written:], offset + written


def read_all(fd: int) -> bytes:
    """Return the contents of the file."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def close_all(fds: Sequence[int]) -> None:
    """Close all of `fds`."""
    for fd in fds:
        os.close(fd)
