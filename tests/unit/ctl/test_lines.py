"""Lines put together from pieces, chosen and written."""

from __future__ import annotations

import json
import re
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papad.ctl.lines import (
    MAX_LINE,
    Assembler,
    Choice,
    Line,
    Look,
    newest_known,
    newest_lines,
    oldest_lines,
    priorities,
)
from papad.protocol.responses import Frame
from tests.support.export import read_export


def assembled(*frames: Frame) -> list[Line]:
    assembler = Assembler()
    return [line for frame in frames for line in assembler.feed(frame)] + assembler.flush()


def out(data: bytes, position: int = 0, *, kind: str = "out", id: int = 1, time: float = 1.0) -> Frame:
    return Frame(kind, f"p{id}", time, data, id, position)  # type: ignore[arg-type]


def test_a_line_cut_by_chunk_borders_is_one_line_at_the_time_of_its_end() -> None:
    lines = assembled(
        out(b"one\ntw", 0, time=1), out(b"", 6, time=2), out(b"o\nthr", 6, time=3), out(b"ee", 11, time=4)
    )
    assert [(line.data, line.timestamp, line.position, line.partial) for line in lines] == [
        (b"one", 1, 0, False),
        (b"two", 3, 4, False),
        (b"three", 4, 8, True),
    ]


def test_streams_and_processes_do_not_mix() -> None:
    lines = assembled(
        out(b"a", 0),
        out(b"b", 1, kind="err"),
        out(b"c", 0, id=2),
        out(b"A\n", 2),
        out(b"B\n", 4, kind="err"),
        out(b"C\n", 1, id=2),
    )
    assert [line.data for line in lines] == [b"aA", b"bB", b"cC"]


def test_what_is_lost_ends_the_line_before_it() -> None:
    lines = assembled(
        out(b"be", 0), Frame("lost", "p1", 2.0, 100, 1, 102), out(b"end\n", 102), Frame("closed", "p1", 3.0, -9, 1, 106)
    )
    assert [(line.kind, line.data, line.number) for line in lines] == [
        ("out", b"be", 0),
        ("lost", b"", 100),
        ("out", b"end", 0),
        ("closed", b"", -9),
    ]


def test_a_line_without_end_is_cut_before_it_fills_the_memory() -> None:
    lines = assembled(*(out(b"x" * 65536, n * 65536) for n in range(2 * MAX_LINE // 65536 + 1)))
    assert [len(line.data) for line in lines] == [MAX_LINE, MAX_LINE, 65536]


def test_a_character_cut_by_a_chunk_border_is_whole_again() -> None:
    data = "é😀e\u0301\n".encode()
    for cut in range(1, len(data)):
        (found,) = assembled(out(data[:cut]), out(data[cut:], cut))
        assert Look("cat").format(found) == data


Byte = tuple[int, str, int]  # process, stream, and a byte; or process, lost or closed, and 0


@st.composite
def histories(draw: st.DrawFn) -> list[Byte]:
    """What two processes do, byte by byte: write to two streams, lose something, end."""
    events: list[Byte] = []
    live = {1, 2}
    for _ in range(draw(st.integers(0, 40))):
        id = draw(st.sampled_from(sorted(live)))
        kind = draw(st.sampled_from(("out", "out", "out", "err", "err", "lost")))
        data = draw(st.sampled_from((b"a", b"bc", b"\n", b"\n\n", b"d\n", "é".encode(), b"\xff")))
        events += [(id, kind, byte) for byte in data] if kind != "lost" else [(id, kind, 0)]
        if draw(st.integers(0, 15)) == 0:
            live.remove(id)
            events.append((id, "closed", 0))
        if not live:
            break
    return events


def frames_of(history: list[Byte], cuts: set[int]) -> list[Frame]:
    """How papad would send it: bytes of one stream together, but for `cuts`. The time is the number of the last event."""
    frames: list[Frame] = []
    at = dict.fromkeys((1, 2), 0)
    numbered = [
        (event, sum(cut <= n for cut in cuts) if event[1] in ("out", "err") else -n) for n, event in enumerate(history)
    ]
    end = 0
    for (id, kind, _), together in groupby(numbered, lambda each: (*each[0][:2], each[1])):
        data = bytes(event[2] for event, _ in together)
        end += len(data)
        if kind in ("out", "err"):
            frames.append(Frame(kind, f"p{id}", end, data, id, at[id]))  # type: ignore[arg-type]
            at[id] += len(data)
        else:
            frames.append(Frame(kind, f"p{id}", end, 0, id, at[id]))  # type: ignore[arg-type]
    return frames


def expected(history: list[Byte]) -> list[tuple[int, str, bytes]]:
    """The lines, put together byte by byte."""
    found: list[tuple[int, str, bytes]] = []
    open_lines: dict[tuple[int, str], tuple[int, bytes]] = {}  # to when the last byte came, and what there is

    def end(*ids: int) -> None:
        keys = sorted((key for key in open_lines if key[0] in ids), key=lambda key: open_lines[key][0])
        found.extend((*key, open_lines.pop(key)[1]) for key in keys)

    for number, (id, kind, byte) in enumerate(history):
        if kind in ("lost", "closed"):
            end(id)
            found.append((id, kind, b""))
        elif byte == 10:
            found.append((id, kind, open_lines.pop((id, kind), (0, b""))[1]))
        else:
            open_lines[id, kind] = number, open_lines.get((id, kind), (0, b""))[1] + bytes([byte])
    end(1, 2)
    return found


@given(histories(), st.sets(st.integers(0, 80)))
def test_whatever_the_pieces_the_lines_are_the_same_in_the_same_order(history: list[Byte], cuts: set[int]) -> None:
    lines = assembled(*frames_of(history, cuts))
    assert [(line.id, line.kind, line.data) for line in lines] == expected(history)


@given(histories(), st.sets(st.integers(0, 80)), st.integers(0, 80), st.integers(0, 6))
def test_the_newest_of_the_newest_bytes_are_the_newest_of_all(
    history: list[Byte], cuts: set[int], size: int, count: int
) -> None:
    """With `bytes=` the first record is cut, and every end is told, but not what was lost before."""
    history = [event for event in history if event[1] != "lost"]
    frames = frames_of(history, cuts)
    known: list[Frame] = []
    for frame in reversed(frames):
        if isinstance(frame.data, bytes):
            data, size = frame.data[max(0, len(frame.data) - size) :], max(0, size - len(frame.data))
            frame = frame._replace(data=data, position=frame.position + len(frame.data) - len(data))
        if frame.data != b"":
            known.insert(0, frame)
    found = newest_known(assembled(*known), count)
    assert found is None or found == newest_lines(assembled(*frames), count)


def test_pieces_of_a_line_that_was_cut_are_not_taken_for_the_newest() -> None:
    frames = [out(b"x" * 65536, n * 65536) for n in range(3 * MAX_LINE // 65536)] + [out(b"end\n", 3 * MAX_LINE)]
    known = [newest_known(assembled(*frames[at:]), 2) for at in range(1, len(frames))]
    assert set(map(repr, known)) <= {repr(None), repr(newest_lines(assembled(*frames), 2))}


def line(data: bytes = b"hello", kind: str = "out", number: int = 0, *, name: str = "p", partial: bool = False) -> Line:
    return Line(kind, name, 7, 1795460637.25, 3, data, number, partial)


@pytest.mark.parametrize(
    ("style", "shown"),
    [
        ("short", b"Nov 23 19:03:57 p: hello\n"),
        ("short-iso", b"2026-11-23T19:03:57+00:00 p: hello\n"),
        ("short-precise", b"Nov 23 19:03:57.250000 p: hello\n"),
        ("cat", b"hello\n"),
        ("short-iso-precise", b"2026-11-23T19:03:57.250000+00:00 p: hello\n"),
        ("short-full", b"Mon 2026-11-23 19:03:57 UTC p: hello\n"),
        ("short-unix", b"1795460637.250000 p: hello\n"),
    ],
)
def test_styles(style: str, shown: bytes) -> None:
    assert Look(style, utc=True).format(line()) == shown


def test_what_a_terminal_would_obey_is_escaped() -> None:
    nasty = line(b"\x1b[31mred\x07 \xff \xc2\x9b tab\t\xc3\xa9 \xe2\x80\xae\r")
    assert Look(utc=True).format(nasty) == "Nov 23 19:03:57 p: \\x1b[31mred\\x07 \\xff \\x9b tab\té \\u202e\n".encode()
    assert Look(utc=True, raw=True).format(nasty) == b"Nov 23 19:03:57 p: " + nasty.data + b"\n"
    assert (
        Look(utc=True)
        .format(line(name="a\x1b[2J\ud8ff".replace("\ud8ff", "\udcff")))
        .startswith(b"Nov 23 19:03:57 a\\x1b[2J\\xff: ")
    )


def test_notes_and_colour() -> None:
    plain, colourful = Look(utc=True), Look(utc=True, colour=True)
    assert plain.format(line(b"", "lost", 12)) == b"Nov 23 19:03:57 p: -- 12 bytes lost --\n"
    assert plain.format(line(b"", "closed", 3)) == b"Nov 23 19:03:57 p: -- ended with exit code 3 --\n"
    assert plain.format(line(b"", "closed", -9)) == b"Nov 23 19:03:57 p: -- killed by SIGKILL --\n"
    assert plain.format(line(b"", "closed", -63)) == b"Nov 23 19:03:57 p: -- killed by signal 63 --\n"
    assert plain.format(line(b"", "closed", 256)) == b"Nov 23 19:03:57 p: -- ended, exit code unknown --\n"
    told = b"Nov 23 19:03:57 p: -- ended with exit code 3; a child of it still holds its output --\n"
    assert plain.format(line(b"", "exited", 3)) == told
    assert b"\x1b[31m-- killed by SIGSEGV --" in colourful.format(line(b"", "closed", -11))
    assert b"\x1b[2m-- killed by SIGTERM --" in colourful.format(line(b"", "closed", -15))
    assert Look("cat").format(line(b"", "closed", 3)) == b""
    assert colourful.format(line(kind="err")) == b"Nov 23 19:03:57 p: \x1b[31mhello\x1b[0m\n"
    assert Look("cat", colour=True).format(line(kind="err")) == b"\x1b[31mhello\x1b[0m\n"
    assert colourful.format(line()) == plain.format(line()) == plain.format(line(kind="err"))


def test_json_holds_every_byte() -> None:
    found = json.loads(Look("json").format(line(b"a\x1bb")))
    assert found == {
        "__CURSOR": "id=7;position=3",
        "__REALTIME_TIMESTAMP": "1795460637250000",
        "PAPAD_NAME": "p",
        "SYSLOG_IDENTIFIER": "p",
        "PRIORITY": "6",
        "PAPAD_STREAM": "out",
        "MESSAGE": "a\x1bb",
    }
    found = json.loads(Look("json", host="far").format(line(b"\xff\0", "err", partial=True)))
    assert (found["MESSAGE"], found["PRIORITY"], found["_LINE_BREAK"], found["_HOSTNAME"]) == (
        [255, 0],
        "3",
        "eof",
        "far",
    )
    assert json.loads(Look("json").format(line(b"", "lost", 5)))["PAPAD_LOST"] == "5"


@given(st.lists(st.binary(max_size=20), min_size=1))
def test_export_holds_every_byte(messages: list[bytes]) -> None:
    exported = b"".join(Look("export").format(line(each)) for each in messages)
    assert [entry["MESSAGE"] for entry in read_export(exported)] == messages


def test_choices() -> None:
    assert Choice(since=1795460637).wants(line())
    assert not Choice(since=1795460638).wants(line())
    assert not Choice(until=1795460637).wants(line())
    pattern = Choice(grep=re.compile("l+o"))
    assert pattern.wants(line())
    assert not pattern.wants(line(b"other"))
    assert pattern.wants(line(b"", "lost", 4))
    assert not pattern.wants(line(b"", "closed", 4))
    errors = Choice(priorities=priorities("err"))
    assert [kind for kind in ("out", "err", "lost", "closed") if errors.wants(line(kind=kind))] == ["err", "lost"]
    ends = [(kind, code) for kind in ("closed", "exited") for code in (0, 1, -15, -11)]
    assert [end for end in ends if errors.wants(line(b"", *end))] == [
        (kind, code) for kind in ("closed", "exited") for code in (1, -11)
    ]


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("err", [0, 1, 2, 3]),
        ("3", [0, 1, 2, 3]),
        ("debug", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("warning..info", [4, 5, 6]),
        ("6..4", [4, 5, 6]),
        ("err..err", [3]),
    ],
)
def test_priorities(text: str, levels: list[int]) -> None:
    assert list(priorities(text)) == levels


@pytest.mark.parametrize("text", ["", "8", "-1", "error", "err..", "..err", "1..2..3", "٣"])
def test_what_is_no_priority(text: str) -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        priorities(text)


def test_a_time_that_is_shown_is_found_again() -> None:
    """A double holds the time of today to a quarter of a microsecond only."""
    (found,) = assembled(out(b"x\n", time=1795465958.1415079))
    shown = Look("short-unix").format(found).split()[0].decode()
    assert shown == "1795465958.141508"
    assert Choice(since=float(shown), until=float(shown)).wants(found)


def test_the_newest_lines_and_the_notes_before_and_among_them() -> None:
    lines = [line(b"1"), line(b"", "lost", 9), line(b"2"), line(b"3"), line(b"", "closed")]
    assert newest_lines(lines, 2) == lines[1:]
    assert newest_lines(lines, 1) == lines[3:]
    assert newest_lines(lines, 9) == lines
    assert newest_lines(lines, 0) == []


def test_an_unfinished_line_has_its_place_among_the_newest() -> None:
    """It is told of last, however long ago it was begun."""
    lines = [line(b"%d" % n)._replace(timestamp=float(n)) for n in range(5)]
    prompt = line(b"name: ", partial=True)._replace(timestamp=2.5)
    assert newest_lines([*lines, prompt], None) == [*lines[:3], prompt, *lines[3:]]
    assert newest_lines([*lines, prompt], 3) == [prompt, *lines[3:]]
    assert newest_lines([*lines, prompt], 2) == lines[3:]


def test_the_oldest_lines_and_the_notes_around_them() -> None:
    lines = [line(b"", "lost", 9), line(b"1"), line(b"", "closed"), line(b"2"), line(b"", "closed")]
    assert list(oldest_lines(lines, 1)) == lines[:3]
    assert list(oldest_lines(lines, 2)) == lines
    assert list(oldest_lines(lines, 9)) == lines
