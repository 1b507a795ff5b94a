"""`papactl output`: shows the output of processes, in the manner of journalctl."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import BinaryIO

from papad.client.connection import Client, connect, read
from papad.ctl.connect import Session
from papad.ctl.cursor import Cursor, CursorFile
from papad.ctl.lines import (
    STREAMS,
    Assembler,
    Choice,
    Line,
    Look,
    newest_known,
    newest_lines,
    oldest_lines,
    priorities,
)
from papad.ctl.parser import Call, Usage
from papad.ctl.render import colourful, leave_with_reader, on_terminal, output_stream
from papad.ctl.run import complain
from papad.ctl.times import parse
from papad.errors import ConnectionLost
from papad.protocol.reading import Reading
from papad.protocol.responses import Frame

# To show a few lines, ask for at most this many of the newest frames and bytes, in this order,
# before reading everything.
_NEWEST = ((1000, 64 << 10), (20_000, 2 << 20))
_PAGER_END = 1000  # lines to show with --pager-end
CONSUMED = (
    "what a watcher has acknowledged is gone from here. Look where that writes: "
    "for a unit with --watch, journalctl -u UNIT"
)


def run(call: Call, session: Session) -> int:
    """Show captured output, and with -f follow it. Like grep, return 1 if nothing matches."""
    look = look_of(call, session, style_of(call))
    if call.flag("follow") and call.flag("reverse"):
        raise Usage("use either --reverse or --follow, not both")
    if with_cursor(call):
        return _from_cursor(call, session, look)
    if call.flag("follow"):
        with output_stream(pager=False) as stream:
            _follow(call, session, _choice(call), count_of(call)[0], look, stream)
        return 0
    return show(call, lines_of(call, session), look.format, session)


def show(
    call: Call, found_lines: Iterable[Line], format: Callable[[Line], bytes], session: Session | None = None
) -> int:
    """Print lines according to the options. Return 1 if nothing matches --grep.

    If there are none, and a watcher had some of this session's papad, report that.
    """
    lines = iter(found_lines)
    lines = chain(list(islice(lines, 1)), lines)  # raise errors before the pager starts
    shown = found = none = False
    with output_stream(pager=not call.flag("no_pager"), at_end=call.flag("pager_end")) as stream:
        for line in lines:
            shown = bool(stream.write(format(line))) or shown
            found = found or line.kind in STREAMS
        none = not shown and style_of(call).startswith("short") and not call.flag("quiet")
        if none:
            stream.write(b"-- No entries --\n")
    if none and session and any(each["acknowledged"] for each in session.client().describe("processes", *call.words)):
        complain(CONSUMED)
    return int(call.text("grep") is not None and not found)


def with_cursor(call: Call) -> bool:
    """Return whether an option about cursors is given. Raises Usage if another one does not go with it."""
    given = [each for each in ("cursor-file", "after-cursor", "show-cursor") if call.flag(each.replace("-", "_"))]
    if not given:
        return False
    for other in ("reverse", "lines", "until", "pager-end"):
        if call.flag(other.replace("-", "_")):
            raise Usage(f"--{given[0]} cannot be combined with --{other}")
    if call.flag("cursor_file") and call.flag("after_cursor"):
        raise Usage("use either --cursor-file or --after-cursor, not both")
    if call.flag("show_cursor") and call.flag("follow"):
        raise Usage("--show-cursor cannot be combined with --follow; use --cursor-file")
    return True


def _from_cursor(call: Call, session: Session, look: Look) -> int:
    """Show what comes after a cursor, and keep the cursor up to date if it is in a file."""
    client, path, choice = session.client(), call.text("cursor_file"), _choice(call)
    file = None if path is None else CursorFile(path, lambda: _ids(client))
    try:
        cursor = file.cursor if file else Cursor(call.text("after_cursor") or "")
    except ValueError:
        raise Usage(f"--after-cursor: not a cursor: {call.text('after_cursor')!r}", "--show-cursor shows one") from None
    if call.flag("follow"):
        with output_stream(pager=False) as stream:
            _follow_cursor(call, session, choice, cursor, file, look, stream)
        return 0
    frames = client.output(*call.words, after=cursor.after, stream=call.text("stream"))
    call = call._replace(options={**call.options, "no_pager": "1"})  # a pager may be left before all is shown
    status = show(call, filter(choice.wants, _passed(frames, cursor)), look.format)
    if file:
        sys.stdout.flush()
        file.save()
    if call.flag("show_cursor"):
        print(f"-- cursor: {cursor}")
    return status


def _ids(client: Client) -> list[int]:
    with connect(client.address) as beside:
        return [each["id"] for each in beside.describe("processes")]


def _passed(frames: Iterable[Frame], cursor: Cursor) -> Iterator[Line]:
    """Yield the complete lines after the cursor, and advance it."""
    assembler = Assembler()
    for frame in frames:
        rest = cursor.rest(frame)
        if rest is not None:
            yield from assembler.feed(rest)
            cursor.advance(rest, assembler)


def style_of(call: Call) -> str:
    """Return the output format of a command line."""
    return "json" if call.flag("json") else call.text("output") or "short"


def look_of(call: Call, session: Session, style: str) -> Look:
    """Return the Look for the options of a command line."""
    raw = call.flag("all") or (style == "cat" and not on_terminal())
    return Look(style, call.flag("utc"), raw, colourful(), session.host)


def _choice(call: Call) -> Choice:
    since, until, pattern, level = (call.text(key) for key in ("since", "until", "grep", "priority"))
    choice = Choice(0.0 if since is None else parse(since), float("inf") if until is None else parse(until))
    if choice.since > choice.until:
        raise Usage("--since must be before --until")
    if pattern is not None:
        try:
            choice = choice._replace(grep=re.compile(pattern, re.IGNORECASE if pattern == pattern.lower() else 0))
        except re.error as error:
            raise Usage(f"--grep: invalid regular expression {pattern!r}: {error}") from None
    if level is not None:
        try:
            choice = choice._replace(priorities=priorities(level))
        except ValueError:
            raise Usage(f"--priority must be a level or FROM..TO, not {level!r}", "Try: err, or 3") from None
    return choice


def count_of(call: Call) -> tuple[int | None, bool]:
    """Return how many lines to show, None for all, and whether these are the oldest."""
    text = call.text("lines")
    if text is None:
        if call.flag("pager_end"):
            return _PAGER_END, False
        return 10 if call.flag("follow") and not call.flag("since") else None, False
    if text == "all":
        return None, False
    if not re.fullmatch(r"\+?\d{1,18}", text, re.ASCII):
        raise Usage(f"--lines must be a number or all, not {text!r}")
    oldest = text.startswith("+")
    if oldest and (call.flag("reverse") or call.flag("follow")):
        raise Usage("--lines=+N cannot be combined with --reverse or --follow")
    return int(text), oldest


def newest_first(call: Call) -> bool:
    """Return whether the newest line comes first: with -r, or with -g and -n as in journalctl."""
    count, oldest = count_of(call)
    return call.flag("reverse") or (call.text("grep") is not None and count is not None and not oldest)


def lines_of(call: Call, session: Session) -> Iterable[Line]:
    """Return the selected lines in the order in which to show them."""
    choice, (count, oldest) = _choice(call), count_of(call)
    client, reverse = session.client(), newest_first(call)
    if count is not None and not oldest and choice == Choice():
        newest = _newest_of_few(client, call, count)
        if newest is not None:
            return reversed(newest) if reverse else newest
    lines = filter(choice.wants, _assembled(client.output(*call.words, stream=call.text("stream"))))
    if oldest:
        return oldest_lines(lines, count or 0)
    if count is None and not reverse:
        return lines
    newest = newest_lines(lines, count)
    return reversed(newest) if reverse else newest


def _assembled(frames: Iterable[Frame]) -> Iterator[Line]:
    assembler = Assembler()
    for frame in frames:
        yield from assembler.feed(frame)
    yield from assembler.flush()


def _newest_of_few(client: Client, call: Call, count: int) -> list[Line] | None:
    """Return the newest lines without reading everything, or None if that is not possible."""
    for records, size in _NEWEST:
        frames = client.output(*call.words, last=records, bytes=size, stream=call.text("stream"))
        newest = newest_known(_assembled(frames), count)
        if newest is not None:
            return newest
    return None


def _follow(call: Call, session: Session, choice: Choice, count: int | None, look: Look, stream: BinaryIO) -> None:
    """Show the newest lines, then follow, across restarts of papad.

    This ends when it is interrupted or when the reader of standard output goes away.
    """
    leave_with_reader()
    client = session.client()
    session.keep()  # this function closes it
    reading, assembler = _reading(call), Assembler()

    def show(lines: Iterable[Line]) -> None:
        stream.writelines(look.format(line) for line in lines if choice.wants(line))
        stream.flush()

    while count is not None:
        try:
            before = _so_far(client, call, reading, assembler)
            show(newest_lines(filter(choice.wants, before), count))
            break
        except ConnectionLost:  # nothing has been shown yet, so start again
            reading, assembler, client = _reading(call), Assembler(), connect(client.address)
    try:
        for frame in read(reading, beginning_with(client), None):
            show(assembler.feed(frame))
    finally:
        show(assembler.flush())


def _follow_cursor(
    call: Call, session: Session, choice: Choice, cursor: Cursor, file: CursorFile | None, look: Look, stream: BinaryIO
) -> None:
    """Follow from a cursor on, across restarts of papad. A line is shown once it is complete."""
    leave_with_reader()
    connections: list[Client] = []
    first = beginning_with(session.client())
    session.keep()
    if file:
        file.save()  # an error shows at once

    def connection() -> Client:
        connections[:] = [first()]
        return connections[0]

    def frames() -> Iterator[Frame]:
        """Yield the frames; save the cursor when it is not known that more will come at once."""
        for frame in read(_reading(call, cursor), connection, None):
            yield frame
            if file:
                file.save_sometimes() if connections[0].ready else file.save()

    for line in _passed(frames(), cursor):
        if choice.wants(line):
            stream.write(look.format(line))
            stream.flush()


def _reading(call: Call, cursor: Cursor | None = None) -> Reading:
    return Reading(tuple(call.words), stream=call.text("stream"), follow=True, after=cursor.after if cursor else None)


def _so_far(client: Client, call: Call, reading: Reading, assembler: Assembler) -> Iterator[Line]:
    """Yield the existing lines, and advance `reading` to their end.

    A name that does not exist yet is not an error.
    """
    known = [each for each in call.words if each.endswith("*") or client.describe("processes", each)]
    if call.words and not known:
        return
    for frame in client.output(*known, stream=call.text("stream")):
        reading.take(frame)
        yield from assembler.feed(frame)


def beginning_with(client: Client) -> Callable[[], Client]:
    """Return a function that returns this connection first, then new ones to the same papad."""
    connections = iter([client])
    return lambda: next(connections, None) or connect(client.address)
