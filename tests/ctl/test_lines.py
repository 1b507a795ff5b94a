"""Lines put together from pieces, chosen and written."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papad.ctl.lines import MAX_LINE, Assembler, Choice, Line, Look
from papad.ctl.output import newest_lines
from papad.incoming import Frame


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


@given(st.binary(max_size=40).map(lambda data: data.replace(b"0", b"\n")), st.lists(st.integers(0, 40)))
def test_whatever_the_pieces_the_lines_are_the_same(data: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [out(data[a:b], a) for a, b in pairwise(edges)]
    lines = assembled(*pieces)
    assert b"".join(line.data + (b"" if line.partial else b"\n") for line in lines) == data
    assert all(data[line.position :].startswith(line.data) for line in lines)


def line(data: bytes = b"hello", kind: str = "out", number: int = 0, *, name: str = "p", partial: bool = False) -> Line:
    return Line(kind, name, 7, 1795460637.25, 3, data, number, partial)


@pytest.mark.parametrize(
    ("style", "shown"),
    [
        ("short", b"Nov 23 19:03:57 p: hello\n"),
        ("short-iso", b"2026-11-23T19:03:57+00:00 p: hello\n"),
        ("short-precise", b"Nov 23 19:03:57.250000 p: hello\n"),
        ("cat", b"hello\n"),
    ],
)
def test_styles(style: str, shown: bytes) -> None:
    assert Look(style, utc=True).format(line()) == shown


def test_what_a_terminal_would_obey_is_escaped() -> None:
    nasty = line(b"\x1b[31mred\x07 \xff \xc2\x9b tab\t\xc3\xa9 \xe2\x80\xae\r")
    assert Look(utc=True).format(nasty) == "Nov 23 19:03:57 p: \\x1b[31mred\\x07 \\xff \\x9b tab\té \\u202e\n".encode()
    assert (
        Look(utc=True, raw=True)
        .format(nasty)
        .endswith(b"p: \x1b[31mred\x07 \xff \xc2\x9b tab\t\xc3\xa9 \xe2\x80\xae\n")
    )
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
    assert Look("cat").format(line(b"", "closed", 3)) == b""
    assert colourful.format(line(kind="err")) == b"Nov 23 19:03:57 p: \x1b[31mhello\x1b[0m\n"
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


def read_export(data: bytes) -> list[dict[str, bytes]]:
    """Entries of the Journal Export Format."""
    entries: list[dict[str, bytes]] = [{}]
    while data:
        head, _, data = data.partition(b"\n")
        key, equals, value = head.partition(b"=")
        if not head:
            entries.append({})
        elif equals:
            entries[-1][key.decode()] = value
        else:
            size = int.from_bytes(data[:8], "little")
            entries[-1][key.decode()] = data[8 : 8 + size]
            assert data[8 + size : 9 + size] == b"\n"
            data = data[9 + size :]
    assert not entries.pop()
    return entries


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


def test_the_newest_lines_and_the_notes_before_and_among_them() -> None:
    lines = [line(b"1"), line(b"", "lost", 9), line(b"2"), line(b"3"), line(b"", "closed")]
    assert newest_lines(lines, 2) == lines[1:]
    assert newest_lines(lines, 1) == lines[3:]
    assert newest_lines(lines, 9) == lines
    assert newest_lines(lines, 0) == []
