"""Assembles lines from pieces of captured output, selects them, and writes them in each format."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from papad.ctl.render import DIM, PLAIN, RED, safe
from papad.ctl.stamps import stamp
from papad.protocol.exits import abnormal, exit_text
from papad.protocol.responses import Frame

MAX_LINE = 1024 * 1024
"""The limit of a line, in bytes. A longer one is cut."""
STREAMS = ("out", "err")
_LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")  # of syslog(3)


class Line(NamedTuple):
    """One line of a process, or a note that bytes were lost or that the process has ended.

    A line has no newline, and the time of its last byte.
    """

    kind: str  # out, err, lost, closed or exited
    name: str
    id: int
    timestamp: float
    position: int
    data: bytes
    number: int = 0  # the number of lost bytes, or the exit code
    partial: bool = False  # its newline has not arrived
    host: str = ""  # set if there are several hosts


def priority(line: Line) -> int:
    """Return the priority of a line as in syslog(3): that of an abnormal end is err, as that of standard error."""
    if line.kind in ("closed", "exited"):
        return 3 if abnormal(line.number) else 6
    return {"out": 6, "err": 3, "lost": 4}[line.kind]


class Assembler:
    """Joins frames into lines. An incomplete line is kept until its end arrives or `flush`."""

    def __init__(self) -> None:
        self._begun: dict[tuple[int, str], Line] = {}
        self._parts: dict[tuple[int, str], list[bytes]] = {}

    def feed(self, frame: Frame) -> Iterator[Line]:
        """Yield the lines that a frame completes."""
        time = round(frame.timestamp, 6)  # rounded as it is shown, so that it works with --since
        if not isinstance(frame.data, bytes):
            if frame.kind != "exited":  # after which lines may go on
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

    def begun(self, id: int, stream: str) -> int | None:
        """Return the position of the incomplete line of a stream, or None if there is none."""
        first = self._begun.get((id, stream))
        return None if first is None else first.position

    def flush(self, id: int | None = None) -> list[Line]:
        """Return the incomplete lines of one process, or of all."""
        keys = [key for key in self._begun if id is None or key[0] == id]
        return sorted((self._unfinished(key) for key in keys), key=lambda line: line.timestamp)


class Choice(NamedTuple):
    """Selects the lines to show."""

    since: float = 0.0
    until: float = float("inf")
    grep: re.Pattern[str] | None = None
    priorities: range = range(8)

    def wants(self, line: Line) -> bool:
        """Return whether to show this line. In the time range, lost bytes are always reported."""
        if not self.since <= line.timestamp <= self.until:
            return False
        if line.kind == "lost":
            return True
        if priority(line) not in self.priorities:
            return False
        if self.grep is None:
            return True
        return line.kind in STREAMS and self.grep.search(line.data.decode("utf-8", "surrogateescape")) is not None


def priorities(text: str) -> range:
    """Parse priorities such as `err`, `3` or `warning..debug`. Raises ValueError."""
    first, dots, last = text.partition("..")
    levels = [
        (_LEVELS if each in _LEVELS else tuple("01234567")).index(each) for each in (first, last if dots else first)
    ]
    return range(min(levels) if dots else 0, max(levels) + 1)


def newest_lines(lines: Iterable[Line], count: int | None) -> list[Line]:
    """Return the last `count` lines of output, with the notes among and right before them.

    Incomplete lines arrive last; they are sorted in by time.
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
    """Do the same if `lines` are only the newest lines.

    The first line of each stream may lack its beginning. Return None if the newest `count` lines
    cannot be determined from them.
    """
    kept = newest_lines(_marked(lines), count)
    unsure = max((number for number, line in enumerate(kept) if line.kind == "unsure"), default=-1)
    known = kept[unsure + 1 :]
    return known if sum(line.kind in STREAMS for line in known) == count else None


def _marked(lines: Iterable[Line]) -> Iterator[Line]:
    """Yield the lines, with the kind `unsure` while they may be incomplete."""
    sure: set[tuple[int, str]] = set()
    for line in lines:
        key = line.id, line.kind
        yield line if key in sure or line.kind not in STREAMS else line._replace(kind="unsure")
        if not line.partial:
            sure.add(key)


def oldest_lines(lines: Iterable[Line], count: int) -> Iterator[Line]:
    """Yield the first `count` lines of output, and the notes before, among and right after them."""
    for line in lines:
        if line.kind in STREAMS:
            count -= 1
        if count < 0:
            return
        yield line


def note(line: Line) -> str:
    """Return the text of a line that is not output."""
    if line.kind == "lost":
        return f"{line.number} bytes lost"
    return exit_text(line.number) + ("; a child of it still holds its output" if line.kind == "exited" else "")


class Look(NamedTuple):
    """Formats lines."""

    style: str = "short"
    utc: bool = False
    raw: bool = False  # do not escape control characters
    colour: bool = False
    host: str | None = None

    def format(self, line: Line) -> bytes:
        """Format a line, including its newline. Return b"" if this style does not show it."""
        if self.style == "export":
            return _export(line, self.host)
        if self.style == "json":
            return _json(line, self.host)
        head = b"" if self.style == "cat" else self.head(line).encode("utf-8", "replace")
        if line.kind not in STREAMS:
            colour = RED if line.kind != "lost" and abnormal(line.number) else DIM
            return head and head + self._painted(f"-- {note(line)} --".encode(), colour) + b"\n"
        text = line.data if self.raw else safe(line.data.removesuffix(b"\r")).encode()
        return head + (self._painted(text, RED) if line.kind == "err" else text) + b"\n"

    def head(self, line: Line) -> str:
        """Return the time and name that precede a line."""
        return (
            f"{stamp(line.timestamp, self.style, utc=self.utc)} {safe(line.name.encode('utf-8', 'surrogateescape'))}: "
        )

    def _painted(self, data: bytes, colour: str) -> bytes:
        return colour.encode() + data + PLAIN.encode() if self.colour else data


def _fields(line: Line, host: str | None) -> dict[str, bytes]:
    """Return a line as the fields of a journal entry."""
    fields = {
        "__CURSOR": f"id={line.id};position={line.position}",
        "__REALTIME_TIMESTAMP": str(round(line.timestamp * 1e6)),
        "_HOSTNAME": host or "",
        "PAPAD_NAME": line.name,
        "SYSLOG_IDENTIFIER": line.name,
        "PRIORITY": str(priority(line)),
        "PAPAD_STREAM": line.kind if line.kind in STREAMS else "",
        "PAPAD_LOST": str(line.number) if line.kind == "lost" else "",
        "PAPAD_EXIT_CODE": str(line.number) if line.kind in ("closed", "exited") else "",
        "PAPAD_HELD": "1" if line.kind == "exited" else "",
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
    """Encode a line in the Journal Export Format.

    Text is written as `KEY=value`, other data with its length before it.
    """
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
