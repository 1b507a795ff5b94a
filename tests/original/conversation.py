"""One connection to a server, read strictly: replies end with the prompt, watch batches obey their grammar."""

from __future__ import annotations

import re
import socket
from collections import defaultdict
from dataclasses import dataclass, field

PROMPT = b"> "
OUTPUT = re.compile(rb"(out|err):([^:\n]+):(\d+(?:\.\d+)?):(\d+)")
CLOSED = re.compile(rb"closed:([^:\n]+):(\d+(?:\.\d+)?):(-?\d+|unknown)")


class Closed(Exception):
    """The server closed the connection; `received` is what came before that."""

    def __init__(self, received: bytes) -> None:
        super().__init__(received)
        self.received = received


@dataclass
class Delivered:
    """What a watch has delivered so far, joined for each process and stream."""

    streams: dict[tuple[str, str], bytes] = field(default_factory=lambda: defaultdict(bytes))
    closed: dict[str, int | None] = field(default_factory=dict)

    def lines(self) -> list[str]:
        names = sorted({name for name, _ in self.streams} | set(self.closed))
        shown = []
        for name in names:
            for stream in ("out", "err"):
                if (name, stream) in self.streams:
                    text = self.streams[name, stream].decode("utf-8", "backslashreplace")
                    shown.append(
                        f"{name} {stream} {text!r}" if len(text) < 2000 else f"{name} {stream} {len(text)} bytes"
                    )
            if name in self.closed:
                shown.append(f"{name} closed {self.closed[name]}")
        return shown

    def contains(self, text: bytes) -> bool:
        return any(text in data for data in self.streams.values())


class Conversation:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = b""

    def send(self, line: bytes) -> None:
        self.sock.sendall(line + b"\n")

    def close(self) -> None:
        self.sock.close()

    def _more(self) -> None:
        try:
            new = self.sock.recv(65536)
        except ConnectionResetError:
            new = b""
        if not new:
            raise Closed(self.data)
        self.data += new

    def reply(self) -> bytes:
        """One reply with its prompt. Nothing may follow: one command was sent."""
        while not (self.data == PROMPT or self.data.endswith(b"\n" + PROMPT)):
            self._more()
        reply, self.data = self.data, b""
        return reply

    def line(self) -> bytes:
        while b"\n" not in self.data:
            self._more()
        line, _, self.data = self.data.partition(b"\n")
        return line

    def exactly(self, size: int) -> bytes:
        while len(self.data) < size:
            self._more()
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def batch(self, delivered: Delivered) -> bytes | None:
        """Read records up to `] ` and answer None, or the line that ended the watch, its prompt included."""
        while True:
            while b"\n" not in self.data and self.data != b"] ":
                self._more()
            if self.data == b"] ":
                self.data = b""
                return None
            line = self.line()
            if found := OUTPUT.fullmatch(line):
                stream, name, _, size = found.groups()
                data = self.exactly(int(size) + 1)
                assert data.endswith(b"\n"), f"no newline after the {int(size)} bytes of {line!r}"
                assert int(size) > 0, f"an empty record: {line!r}"
                delivered.streams[name.decode(), stream.decode()] += data[:-1]
            elif found := CLOSED.fullmatch(line):
                delivered.closed[found[1].decode()] = int(found[3])
            else:
                assert not line.startswith((b"out:", b"err:", b"closed:", b"] ")), f"a malformed record: {line!r}"
                return line + b"\n" + self.reply()
