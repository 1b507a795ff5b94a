"""Forward output to the journal line by line, without blocking.

Lines are read back from the ring after capture. The ring's header records how far each stream has
been forwarded, so a SIGKILL skips no line; it may repeat the one being sent. While journald is
busy, lines wait in the ring, which counts those that are acknowledged or overwritten before they
are forwarded. The format is systemd's native journal protocol. systemd-python could send it too,
but would block while journald is stuck.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary

from papad.daemon.output.ring import STREAMS, Ring

_SOCKET = "/run/systemd/journal/socket"
_PRIORITIES = (b"6", b"3")  # info and err of syslog(3)
_PIECE = 16 * 1024  # bytes read at once
_LONGEST = 48 * 1024  # bytes per line, as for services (LineMax= in journald.conf(5))


class Source(Protocol):
    """The part of a process that forwarding needs."""

    name: str
    pid: int
    ring: Ring | None
    pipes: dict[int, int]


def encoded(fields: Mapping[str, bytes]) -> bytes:
    """Return the fields as an entry for journald, or as a part of one."""
    return b"".join(
        name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n" for name, value in fields.items()
    )


class Journald:
    """A connection to journald."""

    def __init__(self, path: str = _SOCKET) -> None:
        self._path = path
        # The same socket is reconnected after a restart of journald, so pollers keep their fd.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def fileno(self) -> int:
        """Return the socket's fd, which is writable when journald accepts more."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, entry: bytes) -> bool:
        """Send one entry, encoded. Return False if journald does not take it now.

        Raises OSError if there is no journald, or if the entry is too long for it.
        """
        for last in (False, True):
            try:
                self._socket.send(entry)
            except BlockingIOError:
                return False
            except OSError:  # not connected yet, journald has restarted, or there is no journald
                if last:
                    raise
                self._socket.connect(self._path)
            else:
                break
        return True


class _Partial(NamedTuple):
    """The beginning of a line of a stream, perhaps nothing yet, the rest of which is still to come."""

    begin: int
    """How far the stream was forwarded when it was read."""
    end: int
    """How far the ring has been read."""
    data: bytes


class Journal:
    """Forwards what processes write."""

    def __init__(self, path: str = _SOCKET) -> None:
        self._journald = Journald(path)
        # By ring and stream, so that what is in the ring need not be read again at each write.
        self._partial: WeakKeyDictionary[Ring, dict[int, _Partial]] = WeakKeyDictionary()
        # By ring, and in it by stream: the fields that are the same in all entries, encoded.
        self._fixed: WeakKeyDictionary[Ring, list[bytes]] = WeakKeyDictionary()

    def fileno(self) -> int:
        """Return the fd that is writable when journald accepts more."""
        return self._journald.fileno()

    def close(self) -> None:
        """Close the connection."""
        self._journald.close()

    def forward(self, process: Source) -> bool:
        """Forward all complete lines, and the rest of each stream that has ended.

        Return False if journald did not accept everything; then call again when the socket is
        writable.
        """
        ring = process.ring
        return ring is None or all(self._forward_stream(process, ring, stream) for stream in range(len(STREAMS)))

    def _forward_stream(self, process: Source, ring: Ring, stream: int) -> bool:
        partials = self._partial.setdefault(ring, {})
        partial = partials.pop(stream, None)
        begin = ring.forwarded(stream)
        pending, end = (partial.data, partial.end) if partial and partial.begin == begin else (b"", begin)
        while end < ring.state.tail:
            chunk = next(ring.read(end, _PIECE, stream), None)
            if chunk is None:
                end = ring.state.tail
                break
            end = chunk.position + len(chunk.data)
            *lines, rest = (pending + chunk.data).split(b"\n")
            if len(rest) >= _LONGEST:
                lines.append(rest)
                rest = b""
            left = sum(map(len, lines)) + len(lines) + len(rest)
            for line in lines:
                if not self._send(process, stream, line):
                    return False
                left -= len(line) + 1
                ring.note_forwarded(stream, end - max(left, 0))
            pending = rest
        if stream in process.pipes and (pending or end - ring.forwarded(stream) < ring.capacity // 4):
            # Where there is no line, the ring is told only now and then, for that takes a write.
            partials[stream] = _Partial(ring.forwarded(stream), end, pending)
            return True
        if pending and not self._send(process, stream, pending):
            return False
        ring.note_forwarded(stream, ring.state.tail)
        return True

    def _send(self, process: Source, stream: int, line: bytes) -> bool:
        """Send one line to the journal. Return False if it must be sent again later.

        A line that cannot be sent because there is no journal counts as missed, and returns True.
        """
        assert process.ring is not None
        fixed = self._fixed.get(process.ring)
        if fixed is None:
            fixed = self._fixed[process.ring] = [_fixed_fields(process, each) for each in range(len(STREAMS))]
        try:
            return self._journald.send(encoded({"MESSAGE": line}) + fixed[stream])
        except OSError:
            process.ring.note_forwarded(stream, process.ring.forwarded(stream), missed=1)
            return True


def _fixed_fields(process: Source, stream: int) -> bytes:
    name = process.name.encode("utf-8", "replace")
    return encoded(
        {
            "PRIORITY": _PRIORITIES[stream],
            "SYSLOG_IDENTIFIER": name,
            "SYSLOG_PID": b"%d" % process.pid,
            "OBJECT_PID": b"%d" % process.pid,
            "PAPAD_NAME": name,
            "PAPAD_STREAM": STREAMS[stream].encode(),
        }
    )
