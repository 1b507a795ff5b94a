"""Forward output to the journal line by line, without blocking.

Lines are read back from the ring after capture. The ring's header records how far each stream has
been forwarded, so a SIGKILL skips no line; it may repeat the one being sent. While journald is
busy, lines wait in the ring, which counts those that are acknowledged or overwritten before they
are forwarded. The format is systemd's native journal protocol. systemd-python could send it too,
but would block while journald is stuck.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
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
    return b"".join(_field(name.encode(), value) for name, value in fields.items())


def _field(name: bytes, value: bytes) -> bytes:
    return b"%b\n%b%b\n" % (name, len(value).to_bytes(8, "little"), value)


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


class _Forwarding:
    """What is known of a process, so that it need not be found out at each write."""

    def __init__(self, process: Source) -> None:
        name, pid = process.name.encode("utf-8", "replace"), b"%d" % process.pid
        self.fields = [
            encoded(
                {
                    "PRIORITY": priority,
                    "SYSLOG_IDENTIFIER": name,
                    "SYSLOG_PID": pid,
                    "OBJECT_PID": pid,
                    "PAPAD_NAME": name,
                    "PAPAD_STREAM": stream.encode(),
                }
            )
            for stream, priority in zip(STREAMS, _PRIORITIES, strict=True)
        ]
        """By stream: what all its entries have in common."""
        self.partial: dict[int, _Partial] = {}
        """By stream: what is in the ring and need not be read again."""


class Journal:
    """Forwards what processes write."""

    def __init__(self, path: str = _SOCKET) -> None:
        self._journald = Journald(path)
        self._forwarding: WeakKeyDictionary[Ring, _Forwarding] = WeakKeyDictionary()

    def fileno(self) -> int:
        """Return the fd that is writable when journald accepts more."""
        return self._journald.fileno()

    def close(self) -> None:
        """Close the connection."""
        self._journald.close()

    def forward(self, process: Source, streams: Iterable[int] = range(len(STREAMS))) -> bool:
        """Forward all complete lines of `streams`, and the rest of each that has ended.

        Return False if journald did not accept everything; then call again when the socket is
        writable.
        """
        ring = process.ring
        if ring is None:
            return True
        known = self._forwarding.get(ring)
        if known is None:
            known = self._forwarding[ring] = _Forwarding(process)
        return all(self._forward_stream(process, ring, known, stream) for stream in streams)

    def _forward_stream(self, process: Source, ring: Ring, known: _Forwarding, stream: int) -> bool:
        partial = known.partial.pop(stream, None)
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
                if not self._send(ring, known, stream, line):
                    return False
                left -= len(line) + 1
                ring.note_forwarded(stream, end - max(left, 0))
            pending = rest
        if stream in process.pipes and (pending or end - ring.forwarded(stream) < ring.capacity // 4):
            # Where there is no line, the ring is told only now and then, for that takes a write.
            known.partial[stream] = _Partial(ring.forwarded(stream), end, pending)
            return True
        if pending and not self._send(ring, known, stream, pending):
            return False
        ring.note_forwarded(stream, ring.state.tail)
        return True

    def _send(self, ring: Ring, known: _Forwarding, stream: int, line: bytes) -> bool:
        """Send one line to the journal. Return False if it must be sent again later.

        A line that cannot be sent because there is no journal counts as missed, and returns True.
        """
        try:
            return self._journald.send(_field(b"MESSAGE", line) + known.fields[stream])
        except OSError:
            ring.note_forwarded(stream, ring.forwarded(stream), missed=1)
            return True
