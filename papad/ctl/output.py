"""`papactl output`: what processes have printed, as users of journalctl expect it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from papad.client import Client, connect, read
from papad.ctl.connect import Session
from papad.ctl.lines import Assembler, Choice, Line, Look
from papad.ctl.parser import Call, Usage
from papad.ctl.render import colourful, on_terminal, output_stream
from papad.ctl.times import parse
from papad.incoming import Frame
from papad.requests import Reading

_FIRST_ASK = 64  # records, the fewest that are asked for when some lines are wanted


def run(call: Call, session: Session) -> int:
    """Show it, and with -f what comes."""
    follow = call.flag("follow")
    if follow and call.flag("reverse"):
        raise Usage("--reverse or --follow, not both")
    choice, count = _choice(call), _count(call)
    look = look_of(call, session, "json" if call.flag("json") else call.text("output") or "short")
    pager = not follow and not call.flag("no_pager")
    with output_stream(pager=pager) as stream:
        if follow:
            _follow(call, session, choice, count, look, stream)
            return 0
        shown = False
        for line in _lines(call, session, choice, count):
            shown = bool(stream.write(look.format(line))) or shown
    if not shown and on_terminal():
        print("-- No entries --")
    return 0


def look_of(call: Call, session: Session, style: str) -> Look:
    """How the options of a command line want lines to look."""
    raw = call.flag("all") or (style == "cat" and not on_terminal())
    return Look(style, call.flag("utc"), raw, colourful(), session.host)


def _choice(call: Call) -> Choice:
    since, until, pattern = call.text("since"), call.text("until"), call.text("grep")
    grep = None
    if pattern is not None:
        try:
            grep = re.compile(pattern, re.IGNORECASE if pattern == pattern.lower() else 0)
        except re.error as error:
            raise Usage(f"--grep: not a regular expression: {pattern!r}: {error}") from None
    return Choice(parse(since) if since else 0.0, parse(until) if until else float("inf"), grep)


def _count(call: Call) -> int | None:
    """How many lines to show, None for all."""
    text = call.text("lines")
    if text is None:
        return 10 if call.flag("follow") and not call.flag("since") else None
    if text != "all" and not text.isdecimal():
        raise Usage(f"--lines must be a number or all, not {text!r}")
    return None if text == "all" else int(text)


def _lines(call: Call, session: Session, choice: Choice, count: int | None) -> Iterable[Line]:
    """What there is, chosen, in the order in which it is shown."""
    client, stream = session.client(), call.text("stream")
    if count is None:
        lines: Iterable[Line] = filter(choice.wants, _assembled(client, call.words, stream))
        return reversed(list(lines)) if call.flag("reverse") else lines
    newest = _newest_of_few(client, call, count) if choice == Choice() else None
    if newest is None:
        newest = newest_lines(filter(choice.wants, _assembled(client, call.words, stream)), count)
    return reversed(newest) if call.flag("reverse") else newest


def _assembled(client: Client, patterns: list[str], stream: str | None) -> Iterator[Line]:
    assembler = Assembler()
    for frame in client.output(*patterns, stream=stream):
        yield from assembler.feed(frame)
    yield from assembler.flush()


def newest_lines(lines: Iterable[Line], count: int) -> list[Line]:
    """The last `count` lines of output, and the notes among them and right before them."""
    kept: deque[Line] = deque()
    held = 0
    for line in lines:
        kept.append(line)
        held += line.kind in ("out", "err")
        while held > count:
            held -= kept.popleft().kind in ("out", "err")
    return list(kept) if count else []


def _newest_of_few(client: Client, call: Call, count: int) -> list[Line] | None:
    """The same without reading everything; None where the newest records do not tell.

    The first line of each stream may lack its beginning then, so it must not be among those wanted.
    """
    ask = max(_FIRST_ASK, 4 * count)
    assembler, lines = Assembler(), []
    frames = list(client.output(*call.words, last=ask, stream=call.text("stream")))
    for frame in frames:
        lines += list(assembler.feed(frame))
    lines += assembler.flush()
    if sum(frame.kind in ("out", "err") for frame in frames) < ask:
        return None
    first: dict[tuple[int, str], int] = {}
    for number, line in enumerate(lines):
        first.setdefault((line.id, line.kind), number)
    unsure = max((number for (_, kind), number in first.items() if kind in ("out", "err")), default=-1)
    whole = [line for line in lines[unsure + 1 :] if line.kind in ("out", "err")]
    return newest_lines(lines, count) if len(whole) >= count else None


def _follow(call: Call, session: Session, choice: Choice, count: int | None, look: Look, stream: BinaryIO) -> None:
    """Show the newest lines, then what comes, over restarts of papad, until somebody interrupts."""
    client = session.client()
    reading = Reading(tuple(call.words), stream=call.text("stream"), follow=True)
    assembler = Assembler()

    def before() -> Iterator[Line]:
        for frame in _frames_so_far(client, call.words, call.text("stream")):
            reading.take(frame)
            yield from assembler.feed(frame)

    lines = filter(choice.wants, before())
    stream.writelines(look.format(line) for line in (lines if count is None else newest_lines(lines, count)))
    stream.flush()
    dial = client.address
    connections = iter([client])
    session.keep()

    def connected() -> Client:
        return next(connections, None) or connect(dial)

    try:
        for frame in read(reading, connected, None):
            stream.writelines(look.format(line) for line in filter(choice.wants, assembler.feed(frame)))
            stream.flush()
    finally:
        stream.writelines(look.format(line) for line in filter(choice.wants, assembler.flush()))
        stream.flush()


def _frames_so_far(client: Client, patterns: list[str], stream: str | None) -> Iterator[Frame]:
    """What there is already. A name that is still to come is no error."""
    names = [each["name"] for each in client.describe("processes", *patterns)]
    return client.output(*names, stream=stream) if names else iter(())
