"""Which files `papactl archive` has open. All else, as a program: tests/ctl/test_archive.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from papad.ctl import archive
from papad.ctl.lines import Assembler, Look
from papad.protocol.responses import Frame
from tests.support.papad import no_new_fds
from tests.unit.ctl.support import Here


def test_very_many_processes_need_few_descriptors(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_OPEN", 3)
    for n in range(8):
        here.runs(f"p.{n}", "echo one; echo two >&2")
    here.session.drop()
    with no_new_fds():
        assert here.out("archive", str(tmp_path), "--once", "-o", "cat") == ""
        assert here.out("archive", str(tmp_path), "--once", "-o", "cat") == ""
        here.session.drop()
    for n in range(8):
        assert sorted((tmp_path / f"p.{n}.log").read_text().splitlines()) == ["one", "two"]


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("2k", 2048), ("3M", 3 << 20), ("1g", 1 << 30)])
def test_sizes_have_units(text: str, size: int) -> None:
    assert archive._bytes(text) == size


def test_lines_alone_are_the_same_however_they_come() -> None:
    """Without time and name there is a quicker way; it has to make of any pieces what the other makes."""
    data, look = b"one\n\ntwo\nthree\nfour", Look("cat", raw=True)
    for size in range(1, len(data) + 1):
        quick, slow, texts = Assembler(), Assembler(), [b"", b""]
        for at in range(0, len(data), size):
            frame = Frame("out", "p", 1.0, data[at : at + size], 5, at)
            texts[0] += archive._text(frame, quick, look)
            texts[1] += b"".join(map(look.format, slow.feed(frame)))
            assert texts[0] == texts[1]
            assert quick.begun(5, "out") == slow.begun(5, "out")
        assert texts[0] == b"one\n\ntwo\nthree\n"
