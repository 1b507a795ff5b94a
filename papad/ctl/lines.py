"""Lines of output: put together from the pieces in which they were captured, chosen, and written in each format."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from papad.ctl.render import DIM, PLAIN, RED, safe
from papad.ctl.times import stamp
from papad.protocol.responses import Frame

MAX_LINE = 1024 * 1024
"""Bytes of one line; a longer one is cut."""
STREAMS = ("out", "err")
PRIORITY = {"out": 6, "err": 3, "lost": 4, "closed": 6}
_LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")  # of syslog(3)


class Line(NamedTuple):
    """One line of a process without its newline, stamped with the time of its last byte; or a note that bytes are lost or that it ended."""

    kind: str  # out, err, lost or closed
    name: str
    id: int
    timestamp: float
    position: int
    data: bytes
    number: int = 0  # of lost bytes; the exit code
    partial: bool = False  # it has not come to its newline
    host: str = ""  # where there are several


class Assembler:
    """Joins what chunk borders have cut. The beginning of a line waits for its end; `flush` gives what there is of it."""

    def __init__(self) -> None:
        self._begun: dict[tuple[int, str], Line] = {}
        self._parts: dict[tuple[int, str], list[bytes]] = {}

    def feed(self, frame: Frame) -> Iterator[Line]:
        """The lines that a frame completes."""
        time = round(frame.timestamp, 6)  # as it is shown, so that it can be typed after --since
        if not isinstance(frame.data, bytes):
            yield from self.flush(frame.id)
            yield Line(frame.kind, frame.name, frame.id, time, frame.position, b"", frame.data)
            return
        key = frame.id, frame.kind
        position = frame.position
        *complete, rest = frame.data.split(b"\n")
        for data in complete:
            yield self._joined(key, Line(frame.kind, frame.name, frame.id, time, position, data))
            position += len(data) + 1
        if rest:
            self._parts.setdefault(key, []).append(rest)
            begun = Line(frame.kind, frame.name, frame.id, time, position, b"", partial=True)
            first = self._begun.get(key, begun)
            size = first.number + len(rest)
            self._begun[key] = first._replace(timestamp=time, number=size)
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
    priorities: range = range(8)

    def wants(self, line: Line) -> bool:
        """Whether to show this line. What was lost is always said."""
        if not self.since <= line.timestamp <= self.until:
            return False
        if line.kind == "lost":
            return True
        if PRIORITY[line.kind] not in self.priorities:
            return False
        if self.grep is None:
            return True
        return line.kind != "closed" and self.grep.search(line.data.decode("utf-8", "surrogateescape")) is not None


def priorities(text: str) -> range:
    """The priorities that `err`, `3` or `warning..debug` means. Raises ValueError."""
    first, dots, last = text.partition("..")
    levels = [
        (_LEVELS if each in _LEVELS else tuple("01234567")).index(each) for each in (first, last if dots else first)
    ]
    return range(min(levels) if dots else 0, max(levels) + 1)


def newest_lines(lines: Iterable[Line], count: int | None) -> list[Line]:
    """The last `count` lines of output, and the notes among them and right before them.

    A line that has not come to its newline is told of last. Here it gets its place by time.
    """
    kept: deque[Line] = deque()
    held = 0
    for line in lines:
        place = len(kept)
        while line.partial and place and kept[place - 1].timestamp > line.timestamp:
            place -= 1
        kept.insert(place, line)
        held += line.kind in STREAMS
        while count is not None and held > count:
            held -= kept.popleft().kind in STREAMS
    return list(kept) if count != 0 else []


def newest_known(lines: Iterable[Line], count: int) -> list[Line] | None:
    """The same where these are only the newest lines, and the first of each stream may lack its beginning.

    None where they do not tell which lines are the newest.
    """
    kept = newest_lines(_marked(lines), count)
    unsure = max((number for number, line in enumerate(kept) if line.kind == "unsure"), default=-1)
    known = kept[unsure + 1 :]
    return known if sum(line.kind in STREAMS for line in known) == count else None


def _marked(lines: Iterable[Line]) -> Iterator[Line]:
    """The lines, of the kind `unsure` as long as they may lack something."""
    sure: set[tuple[int, str]] = set()
    for line in lines:
        key = line.id, line.kind
        yield line if key in sure or line.kind not in STREAMS else line._replace(kind="unsure")
        if not line.partial:
            sure.add(key)


def oldest_lines(lines: Iterable[Line], count: int) -> Iterator[Line]:
    """The first `count` lines of output, and the notes before, among and right after them."""
    for line in lines:
        if line.kind in STREAMS:
            count -= 1
        if count < 0:
            return
        yield line


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
        if self.style == "export":
            return _export(line, self.host)
        if self.style == "json":
            return _json(line, self.host)
        head = b"" if self.style == "cat" else self.head(line).encode("utf-8", "replace")
        if line.kind not in STREAMS:
            return head and head + self._painted(f"-- {note(line)} --".encode(), DIM) + b"\n"
        text = line.data if self.raw else safe(line.data.removesuffix(b"\r")).encode()
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
        "PRIORITY": str(PRIORITY[line.kind]),
        "PAPAD_STREAM": line.kind if line.kind in STREAMS else "",
        "PAPAD_LOST": str(line.number) if line.kind == "lost" else "",
        "PAPAD_EXIT_CODE": str(line.number) if line.kind == "closed" else "",
        "_LINE_BREAK": "eof" if line.partial else "",
    }
    found = {key: text.encode("utf-8", "surrogateescape") for key, text in fields.items() if text}
    return found | {"MESSAGE": line.data if line.kind in STREAMS else note(line).encode()}


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
