"""`papactl output`: what processes have printed, as users of journalctl expect it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import BinaryIO

from papad.client.connection import Client, connect, read
from papad.ctl.connect import Session
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
from papad.ctl.times import parse
from papad.errors import ConnectionLost
from papad.protocol.reading import Reading
from papad.protocol.responses import Frame

# Records and bytes, at most, that are asked for where a few lines are wanted, before everything is read.
_NEWEST = ((1000, 64 << 10), (20_000, 2 << 20))
_PAGER_END = 1000  # lines for a pager that is to begin at their end


def run(call: Call, session: Session) -> int:
    """Show it, and with -f what comes. Like grep, 1 where nothing matches --grep."""
    look = look_of(call, session, style_of(call))
    if call.flag("follow"):
        if call.flag("reverse"):
            raise Usage("--reverse or --follow, not both")
        with output_stream(pager=False) as stream:
            _follow(call, session, _choice(call), count_of(call)[0], look, stream)
        return 0
    return show(call, lines_of(call, session), look.format)


def show(call: Call, found_lines: Iterable[Line], format: Callable[[Line], bytes]) -> int:
    """Print lines as the options of a command line want it; 1 where nothing matches --grep."""
    lines = iter(found_lines)
    lines = chain(list(islice(lines, 1)), lines)  # what is wrong shows now, before there is a pager
    shown = found = False
    with output_stream(pager=not call.flag("no_pager"), at_end=call.flag("pager_end")) as stream:
        for line in lines:
            shown = bool(stream.write(format(line))) or shown
            found = found or line.kind in STREAMS
        if not shown and style_of(call).startswith("short") and not call.flag("quiet"):
            stream.write(b"-- No entries --\n")
    return int(call.text("grep") is not None and not found)


def style_of(call: Call) -> str:
    """The format that a command line asks for."""
    return "json" if call.flag("json") else call.text("output") or "short"


def look_of(call: Call, session: Session, style: str) -> Look:
    """How the options of a command line want lines to look."""
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
            raise Usage(f"--grep: not a regular expression: {pattern!r}: {error}") from None
    if level is not None:
        try:
            choice = choice._replace(priorities=priorities(level))
        except ValueError:
            raise Usage(f"--priority: not a level, or two with .. between: {level!r}", "Try: err, or 3") from None
    return choice


def count_of(call: Call) -> tuple[int | None, bool]:
    """How many lines to show, None for all; and whether the oldest are meant."""
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
        raise Usage("--lines=+N goes with neither --reverse nor --follow")
    return int(text), oldest


def newest_first(call: Call) -> bool:
    """Whether the newest line comes first: with -r, and as journalctl has it where a few lines are wanted that match."""
    count, oldest = count_of(call)
    return call.flag("reverse") or (call.text("grep") is not None and count is not None and not oldest)


def lines_of(call: Call, session: Session) -> Iterable[Line]:
    """What there is, chosen, in the order in which it is shown."""
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
    """The newest lines without reading everything; None where the newest bytes do not tell."""
    for records, size in _NEWEST:
        frames = client.output(*call.words, last=records, bytes=size, stream=call.text("stream"))
        newest = newest_known(_assembled(frames), count)
        if newest is not None:
            return newest
    return None


def _follow(call: Call, session: Session, choice: Choice, count: int | None, look: Look, stream: BinaryIO) -> None:
    """Show the newest lines, then what comes, over restarts of papad, until somebody interrupts or nobody reads it."""
    leave_with_reader()
    client = session.client()
    session.keep()  # it is closed here
    reading, assembler = _reading(call), Assembler()

    def show(lines: Iterable[Line]) -> None:
        stream.writelines(look.format(line) for line in lines if choice.wants(line))
        stream.flush()

    while count is not None:
        try:
            before = _so_far(client, call, reading, assembler)
            show(newest_lines(filter(choice.wants, before), count))
            break
        except ConnectionLost:  # nothing is shown yet
            reading, assembler, client = _reading(call), Assembler(), connect(client.address)
    try:
        for frame in read(reading, _beginning_with(client), None):
            show(assembler.feed(frame))
    finally:
        show(assembler.flush())


def _reading(call: Call) -> Reading:
    return Reading(tuple(call.words), stream=call.text("stream"), follow=True)


def _so_far(client: Client, call: Call, reading: Reading, assembler: Assembler) -> Iterator[Line]:
    """The lines that there are already; notes in `reading` where they end. A name that is still to come is no error."""
    known = [each for each in call.words if each.endswith("*") or client.describe("processes", each)]
    if call.words and not known:
        return
    for frame in client.output(*known, stream=call.text("stream")):
        reading.take(frame)
        yield from assembler.feed(frame)


def _beginning_with(client: Client) -> Callable[[], Client]:
    """Gives this connection, and from then on new ones to the same papad."""
    connections = iter([client])
    return lambda: next(connections, None) or connect(client.address)
