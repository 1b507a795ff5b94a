"""Lines of output: put together from the pieces in which they were captured, chosen, and written in each format."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from papad.ctl.render import DIM, PLAIN, RED, safe
from papad.ctl.times import stamp
from papad.incoming import Frame

MAX_LINE = 1024 * 1024
"""Bytes of one line; a longer one is cut."""


class Line(NamedTuple):
    """One line of a process without its newline, stamped with the time of its end; or a note that bytes are lost or that it ended."""

    kind: str  # out, err, lost or closed
    name: str
    id: int
    timestamp: float
    position: int
    data: bytes
    number: int = 0  # of lost bytes; the exit code
    partial: bool = False  # it has not come to its newline


class Assembler:
    """Joins what chunk borders have cut. The beginning of a line waits for its end; `flush` gives what there is of it."""

    def __init__(self) -> None:
        self._begun: dict[tuple[int, str], Line] = {}
        self._parts: dict[tuple[int, str], list[bytes]] = {}

    def feed(self, frame: Frame) -> Iterator[Line]:
        """The lines that a frame completes."""
        if not isinstance(frame.data, bytes):
            yield from self.flush(frame.id)
            yield Line(frame.kind, frame.name, frame.id, frame.timestamp, frame.position, b"", frame.data)
            return
        key = frame.id, frame.kind
        position = frame.position
        *complete, rest = frame.data.split(b"\n")
        for data in complete:
            line = Line(frame.kind, frame.name, frame.id, frame.timestamp, position, data)
            yield self._joined(key, line)
            position += len(data) + 1
        if rest:
            self._parts.setdefault(key, []).append(rest)
            begun = Line(frame.kind, frame.name, frame.id, frame.timestamp, position, b"", partial=True)
            first = self._begun.get(key, begun)
            size = first.number + len(rest)
            self._begun[key] = first._replace(timestamp=frame.timestamp, number=size)
            if size >= MAX_LINE:
                yield self._unfinished(key)

    def _joined(self, key: tuple[int, str], line: Line) -> Line:
        first = self._begun.pop(key, None)
        if first is None:
            return line
        return line._replace(position=first.position, data=b"".join(self._parts.pop(key)) + line.data)

    def _unfinished(self, key: tuple[int, str]) -> Line:
        return self._begun.pop(key)._replace(data=b"".join(self._parts.pop(key)), number=0)

    def flush(self, id: int | None = None) -> list[Line]:
        """The lines that have begun, of one process or of all, as far as they have come."""
        keys = [key for key in self._begun if id is None or key[0] == id]
        return sorted((self._unfinished(key) for key in keys), key=lambda line: line.timestamp)


class Choice(NamedTuple):
    """Which lines to show."""

    since: float = 0.0
    until: float = float("inf")
    grep: re.Pattern[str] | None = None

    def wants(self, line: Line) -> bool:
        """Whether to show this line. What was lost is always said."""
        if not self.since <= line.timestamp <= self.until:
            return False
        if self.grep is None or line.kind == "lost":
            return True
        return line.kind != "closed" and self.grep.search(line.data.decode("utf-8", "surrogateescape")) is not None


def exit_text(code: int) -> str:
    """How a process has ended, for people."""
    if code == 256:
        return "ended, exit code unknown"
    if code >= 0:
        return f"ended with exit code {code}"
    import signal

    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def note(line: Line) -> str:
    """What to say about a `lost` or `closed` line."""
    return f"{line.number} bytes lost" if line.kind == "lost" else exit_text(line.number)


class Look(NamedTuple):
    """How to show lines."""

    style: str = "short"
    utc: bool = False
    raw: bool = False  # control characters as they are
    colour: bool = False
    host: str | None = None

    def format(self, line: Line) -> bytes:
        """A line as it is printed, its newline included; empty where this style does not show it."""
        if self.style == "json":
            return _json(line, self.host)
        if self.style == "export":
            return _export(line, self.host)
        if self.style == "cat" and line.kind not in ("out", "err"):
            return b""
        data = line.data.removesuffix(b"\r")
        if self.style == "cat":
            return (line.data if self.raw else safe(data).encode()) + b"\n"
        head = self.head(line).encode("utf-8", "replace")
        if line.kind in ("lost", "closed"):
            return self._painted(head + b"-- " + note(line).encode() + b" --", DIM) + b"\n"
        text = data if self.raw else safe(data).encode()
        return head + (self._painted(text, RED) if line.kind == "err" else text) + b"\n"

    def head(self, line: Line) -> str:
        """What stands before a line."""
        return f"{stamp(line.timestamp, self.style, self.utc)} {safe(line.name.encode('utf-8', 'surrogateescape'))}: "

    def _painted(self, data: bytes, colour: str) -> bytes:
        return colour.encode() + data + PLAIN.encode() if self.colour else data


def _fields(line: Line, host: str | None) -> dict[str, bytes]:
    """A line as an entry of the journal."""
    fields = {
        "__CURSOR": f"id={line.id};position={line.position}",
        "__REALTIME_TIMESTAMP": str(round(line.timestamp * 1e6)),
        "_HOSTNAME": host or "",
        "PAPAD_NAME": line.name,
        "SYSLOG_IDENTIFIER": line.name,
        "PRIORITY": {"out": "6", "err": "3", "lost": "4", "closed": "6"}[line.kind],
        "PAPAD_STREAM": line.kind if line.kind in ("out", "err") else "",
        "PAPAD_LOST": str(line.number) if line.kind == "lost" else "",
        "PAPAD_EXIT_CODE": str(line.number) if line.kind == "closed" else "",
        "_LINE_BREAK": "eof" if line.partial else "",
    }
    found = {key: text.encode("utf-8", "surrogateescape") for key, text in fields.items() if text}
    return found | {"MESSAGE": line.data if line.kind in ("out", "err") else note(line).encode()}


def _json(line: Line, host: str | None) -> bytes:
    import json

    return json.dumps({key: _json_value(data) for key, data in _fields(line, host).items()}).encode() + b"\n"


def _json_value(data: bytes) -> str | list[int]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


def _export(line: Line, host: str | None) -> bytes:
    """The Journal Export Format: text as `KEY=value`, other bytes with their length before them."""
    entry = b""
    for key, data in _fields(line, host).items():
        if key.startswith("__") or _is_text(data):
            entry += key.encode() + b"=" + data + b"\n"
        else:
            entry += key.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return entry + b"\n"


def _is_text(data: bytes) -> bool:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return all(char == "\t" or char >= " " for char in text)
