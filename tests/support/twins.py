"""What the blocking client and the one for asyncio do alike: the same cases for the tests of both.

Each says what a `Peer` answers, what the client is asked, and what comes of it. What is expected of
an exception is its type, and what its message contains.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from papad.errors import ConnectionLost, Error, NotFound, TimedOut
from papad.protocol.responses import Frame, ProcessOutput
from tests.support.peer import Last

Answers = dict[bytes, list[bytes]]
OUT = Frame("out", "x", 1.0, b"one", 5, 0)
CLOSED = Frame("closed", "x", 2.0, 0, 5, 3)
OUT_BYTES, CLOSED_BYTES = b"out:x:1.0:3:5:0\none\n", b"closed:x:2.0:0:5:3\n"


def timeout(expected: object) -> float:
    """How long to wait: not at all long where the wait is to end in vain."""
    return 0.2 if isinstance(expected, TimedOut) else 20.0


@contextlib.contextmanager
def outcome(expected: object) -> Iterator[list[Any]]:
    """Fail unless what the body puts into the list, or else raises, is as expected."""
    found: list[Any] = []
    raised = None
    begun = time.monotonic()
    try:
        yield found
    except Error as error:
        raised = error
    if not isinstance(expected, Error):
        assert (found, raised) == ([expected], None)
    else:
        assert type(raised) is type(expected)
        assert str(expected) in str(raised)
        assert not isinstance(expected, TimedOut) or time.monotonic() - begun > 0.1


@dataclass
class ForClient:
    """A call of a method of `Client` with a line, which is answered `says`."""

    method: str
    says: bytes
    expected: object
    fresh: bool
    """Whether the next command may be sent on the connection afterwards."""


CLIENTS = {
    "an answer": ForClient("ask", b"two\nlines\n> ", "two\nlines", fresh=True),
    "an answer with which the session ends": ForClient("ask", Last(b"ok\n"), "ok", fresh=False),
    "an error": ForClient("ask", b"Error: no such thing\n> ", Error("no such thing"), fresh=True),
    "no answer": ForClient("ask", Last(b""), ConnectionLost("closed the connection"), fresh=False),
    "half an answer": ForClient("ask", Last(b"half"), ConnectionLost("closed the connection"), fresh=False),
    "half an answer, and silence": ForClient("ask", b"half", TimedOut("in time"), fresh=False),
    "a watch": ForClient("begin_watch", b"Watching 1\n", "Watching 1", fresh=True),
    "a watch of nothing": ForClient("begin_watch", b"Error: x not found\n> ", NotFound("x not found"), fresh=True),
    "half a watch": ForClient("begin_watch", Last(b"Watchi"), ConnectionLost("closed"), fresh=False),
    "half a watch, and silence": ForClient("begin_watch", b"Watchi", TimedOut("in time"), fresh=False),
    "frames": ForClient("frames", OUT_BYTES + CLOSED_BYTES + b"> ", [OUT, CLOSED], fresh=True),
    "no frames": ForClient("frames", b"\n> ", [], fresh=True),
    "an error in place of frames": ForClient("frames", b"Error: x not found\n> ", NotFound("x not found"), fresh=True),
    "half a frame": ForClient("frames", Last(OUT_BYTES[:-2]), ConnectionLost("closed"), fresh=False),
    "half a frame, and silence": ForClient("frames", OUT_BYTES[:-2], TimedOut("in time"), fresh=False),
}


@dataclass
class ForPapa:
    """A call of a method of `Papa`. What comes by and by is expected as a list."""

    method: str
    args: tuple[object, ...]
    answers: Answers
    expected: object
    options: dict[str, Any] = field(default_factory=dict)


GET, REMOVE, WATCH, OUTPUT = b"%describe values a\n", b"%remove sockets s\n", b"%watch processes x\n", b"%output x\n"
LIST, DESCRIBE, AGAIN = b"%list processes\n", b"%describe processes x\n", b"%output after.5=3 x\n"
LISTED = b"x pid=7 running=True started=1.5 args=/bin/x\n> "
DESCRIBED = b'{"id": 5, "captured": 3}\n> '
PAPAS = {
    "an answer that is lost is asked for again": ForPapa(
        "get", ("a",), {GET: [Last(b'{"na'), Last(b""), b'{"name": "a", "value": "1"}\n> ']}, "1"
    ),
    "what may do harm twice is not sent twice": ForPapa(
        "remove_sockets", ("s",), {REMOVE: [Last(b"")]}, ConnectionLost("closed the connection")
    ),
    "what is not answered in time is not asked for again": ForPapa(
        "list_processes", (), {LIST: [b"half an answer"]}, TimedOut("in time")
    ),
    "a watch that does not begin in time": ForPapa(
        "watch_processes", ("x",), {WATCH: [b"Watchi"]}, TimedOut("in time")
    ),
    "a watch of nothing": ForPapa(
        "watch_processes", ("x",), {WATCH: [Last(b""), b"Error: x not found\n> "]}, NotFound("x not found")
    ),
    "an error": ForPapa("remove_sockets", ("s",), {REMOVE: [b"Error: s not found\n> "]}, NotFound("s not found")),
    "the end of papad": ForPapa("exit_if_idle", (), {b"%exit-if-idle\n": [Last(b"Exiting papad\n")]}, True),
    "output goes on where it was cut": ForPapa(
        "output",
        ("x",),
        {OUTPUT: [Last(OUT_BYTES + b"clo")], DESCRIBE: [DESCRIBED], AGAIN: [CLOSED_BYTES + b"> "]},
        [OUT, CLOSED],
    ),
    "the newest output comes in one piece, or again": ForPapa(
        "output",
        ("x",),
        {b"%output last=2 x\n": [Last(OUT_BYTES), OUT_BYTES + CLOSED_BYTES + b"> "]},
        [OUT, CLOSED],
        {"last": 2},
    ),
    "an end that comes again is told once": ForPapa(
        "output",
        ("x",),
        {OUTPUT: [Last(OUT_BYTES + CLOSED_BYTES)], DESCRIBE: [DESCRIBED], AGAIN: [CLOSED_BYTES + b"> "]},
        [OUT, CLOSED],
    ),
}


@dataclass
class ForWatcher:
    """A watch that is read to its end: the data of each batch, and the exit codes."""

    pattern: str
    answers: Answers
    expected: object
    exit_code: dict[str, int] = field(default_factory=dict)


ONE, TWO, END = b"out:x:1.0:3\none\n", b"err:x:2.0:3\ntwo\n", b"closed:x:3.0:4\n"
BEGIN, NO_MORE = b"Watching 1\n" + ONE + b"] ", b"Nothing left to watch\n> "
WATCHERS = {
    "to its end": ForWatcher(
        "x", {WATCH: [BEGIN], b"\n": [TWO + END + b"] ", NO_MORE]}, [[b"one"], [b"two", 4]], {"x": 4}
    ),
    "with an empty batch": ForWatcher("x", {WATCH: [BEGIN], b"\n": [b"] ", NO_MORE]}, [[b"one"], []]),
    "over a restart before papad heard of an acknowledgement": ForWatcher(
        "x",
        {WATCH: [BEGIN, b"Watching 1\n" + ONE + TWO + b"] "], LIST: [LISTED], b"\n": [Last(b""), NO_MORE]},
        [[b"one"], [b"two"]],
    ),
    "over two restarts": ForWatcher(
        "x",
        {WATCH: [BEGIN, Last(b"Watch"), BEGIN], LIST: [LISTED, LISTED], b"\n": [Last(b"ou"), NO_MORE]},
        [[b"one"], []],
    ),
    "over a restart after which nothing is left": ForWatcher(
        "x", {WATCH: [BEGIN], LIST: [b"\n> "], b"\n": [Last(b"")]}, [[b"one"]]
    ),
    "over a restart after which a wildcard matches nothing": ForWatcher(
        "x*",
        {
            b"%watch processes x*\n": [BEGIN, *[b"Error: Nothing to watch\n> "] * 2],
            LIST: [b"\n> "] * 2,
            b"\n": [Last(b"")],
        },
        [[b"one"]],
    ),
    "that is not answered in time": ForWatcher("x", {WATCH: [BEGIN], b"\n": [TWO[:-2]]}, TimedOut("in time")),
}


FOLLOW = b"%output follow=1 after.5=1000000000000000000 x\n"
FIRST = b'{"id": 5, "name": "x", "pid": 7}\n> '
BOTH = b'{"id": 5, "name": "x", "pid": 7}\n{"id": 6, "name": "xy", "pid": 8}\n> '
LATERS = {
    "of nothing": ForWatcher("x*", {b"%describe processes x*\n": [b"\n> "], b"%output follow=1 x*\n": [b""]}, []),
    "with one that is made later": ForWatcher(
        "x*",
        {
            b"%describe processes x*\n": [FIRST, BOTH],
            FOLLOW.replace(b" x\n", b" x*\n"): [b"closed:x:3.0:4:5:3\nout:xy:2.0:3:6:0\ntwo\n"],
            b"%output follow=1 after.5=1000000000000000000 after.6=1000000000000000000 x*\n": [b""],
            b"%watch processes x*\n": [b"Watching 1\n", b"Watching 2\n" + ONE + b"out:xy:2.0:3\ntwo\n] "],
            b"\n": [b""],
        },
        [[b"one", b"two"]],
    ),
    "over a restart": ForWatcher(
        "x",
        {
            DESCRIBE: [FIRST, Last(b'{"id'), FIRST],
            FOLLOW: [b"", b""],
            WATCH: [BEGIN, b"Watching 1\n" + ONE + TWO + b"] "],
            b"\n": [Last(b"ou"), END + b"] ", b""],
        },
        [[b"one"], [b"two"], [4]],
        {"x": 4},
    ),
    "with one that is gone as the watch begins": ForWatcher(
        "x",
        {
            DESCRIBE: [FIRST, FIRST],
            FOLLOW: [b"", b""],
            WATCH: [b"Error: x not found\n> ", BEGIN],
            b"\n": [b""],
        },
        [[b"one"]],
    ),
    "past the end of what is watched": ForWatcher(
        "x*",
        {
            b"%describe processes x*\n": [FIRST, FIRST.replace(b"5", b"6")],
            FOLLOW.replace(b" x\n", b" x*\n"): [b"out:x:2.0:3:6:0\ntwo\n"],
            b"%output follow=1 after.6=1000000000000000000 x*\n": [b""],
            b"%watch processes x*\n": [BEGIN, b"Watching 1\n" + TWO + b"] "],
            b"\n": [NO_MORE, b""],
        },
        [[b"one"], [b"two"]],
    ),
}
REFUSING = {b"%describe processes x*\n": [b"\n> "] * 9, b"%output follow=1 x*\n": [b"Error: not that\n> "] * 9}
"""What papad answers to a watch of later processes that it refuses to follow."""


def data(batch: tuple[list[ProcessOutput[Any]], ...]) -> list[object]:
    return [item.data for items in batch for item in items]
