"""Forwarding output to the journal, line by line, without ever waiting for it.

Lines are read back from the ring after they were captured. How far each stream has been forwarded is in the ring's header, so a papad that
is killed leaves no line out; the one that it was just sending may come twice. While journald is busy, lines wait in the ring, which
counts those that are acknowledged or overwritten before their turn. The format is that of systemd's native journal protocol; the
sender of systemd-python would block while journald is stuck.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from typing import Protocol

from papad.daemon.output.ring import STREAMS, Ring

_SOCKET = "/run/systemd/journal/socket"
_PRIORITIES = (b"6", b"3")  # info and err of syslog(3)
_PIECE = 16 * 1024  # bytes read at once
_LONGEST = 48 * 1024  # bytes of one line, as journald has it for services (LineMax= of journald.conf(5))


class Source(Protocol):
    """A process, as far as it concerns the journal."""

    name: str
    pid: int
    ring: Ring | None
    pipes: dict[int, int]


class Journal:
    """The way to the journal."""

    def __init__(self, path: str = _SOCKET) -> None:
        self._path = path
        # One socket for good: when journald has been started anew it is connected once more, and whoever polls it need not know.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def fileno(self) -> int:
        """The socket; it is writable when journald takes more."""
        return self._socket.fileno()

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()

    def forward(self, process: Source) -> bool:
        """Forward all complete lines, and of a stream that has ended what is left; whether journald took all that it could get.

        If not, call again when the socket is writable.
        """
        ring = process.ring
        return ring is None or all(self._forward_stream(process, ring, stream) for stream in range(len(STREAMS)))

    def _forward_stream(self, process: Source, ring: Ring, stream: int) -> bool:
        pending, end = b"", ring.forwarded(stream)
        while chunk := next(ring.read(end, _PIECE), None):
            end = chunk.position + len(chunk.data)
            if chunk.stream != stream:
                continue
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
        if pending and stream in process.pipes:
            return True  # its rest is still to come
        if pending and not self._send(process, stream, pending):
            return False
        ring.note_forwarded(stream, ring.state.tail)
        return True

    def _send(self, process: Source, stream: int, line: bytes) -> bool:
        """Send one line as an entry; whether its turn is over, because it was taken or because there is no journal."""
        name = process.name.encode("utf-8", "replace")
        fields = {
            "MESSAGE": line,
            "PRIORITY": _PRIORITIES[stream],
            "SYSLOG_IDENTIFIER": name,
            "SYSLOG_PID": b"%d" % process.pid,
            "OBJECT_PID": b"%d" % process.pid,
            "PAPAD_NAME": name,
            "PAPAD_STREAM": STREAMS[stream].encode(),
        }
        entry = _entry(fields)
        for _ in range(2):
            try:
                self._socket.send(entry)
            except BlockingIOError:
                return False
            except OSError:  # not connected yet, or journald was started anew, or there is none
                with contextlib.suppress(OSError):
                    self._socket.connect(self._path)
            else:
                return True
        assert process.ring is not None
        process.ring.note_forwarded(stream, process.ring.forwarded(stream), missed=1)
        return True


def _entry(fields: Mapping[str, bytes]) -> bytes:
    return b"".join(
        name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n" for name, value in fields.items()
    )
