"""Cursors as text, and what they have passed. With a papad, and kills: tests/ctl/test_cursor.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from papad.ctl.cursor import Cursor, CursorFile, Reached, replace_file
from papad.ctl.lines import Assembler
from papad.protocol.responses import Frame

FRAMES = [
    Frame("out", "p", 1.0, b"one\nbeg", 5, 10),
    Frame("err", "p", 2.0, b"bad\nal", 5, 17),
    Frame("out", "p", 3.0, b"un\n", 5, 23),
    Frame("err", "p", 4.0, b"so\n", 5, 26),
    Frame("exited", "p", 4.5, 0, 5, 29),
    Frame("out", "p", 5.0, b"no end", 5, 29),
    Frame("closed", "p", 6.0, 0, 5, 35),
]


def test_wherever_it_stops_every_line_comes_once() -> None:
    """The second reading has all frames again from where the cursor says, as papad would send them."""
    for stop in range(len(FRAMES) + 1):
        cursor, lines = Cursor(), []
        for part in (FRAMES[:stop], FRAMES):
            assembler, cursor = Assembler(), Cursor(str(cursor))
            for frame in part:
                rest = cursor.rest(frame)
                if rest is not None:
                    lines += [line.data for line in assembler.feed(rest) if line.kind != "closed"]
                    cursor.advance(rest, assembler)
        assert sorted(lines) == [b"", b"also", b"bad", b"begun", b"no end", b"one"], stop
        assert cursor.reached == {5: Reached(35, 35, closed=True)}


@pytest.mark.parametrize("text", ["", "5=1/2", "5=1/2,6=0/9/closed", "5=1/2/exited"])
def test_a_cursor_is_text(text: str) -> None:
    assert str(Cursor(text + "\n")) == text


@pytest.mark.parametrize("text", ["5", "5=1", "5=1/2/", "5=1/2;6=1/2", "5=1/2,", "x=1/2", "5=-1/2", "5=1/²"])
def test_anything_else_is_not(text: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor(text)


def test_a_file_is_whole_at_any_time(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    replace_file(path, b"old")
    with open(path, "rb") as reader:
        replace_file(path, b"new")
        assert reader.read() == b"old"
    assert Path(path).read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    file = CursorFile(str(tmp_path / "link"), list)
    file.cursor.reached[5] = Reached(1, 2)
    file.save()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "5=1/2\n"
