"""Which files `papactl archive` has open. All else, as a program: tests/ctl/test_archive.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from papad.ctl import archive
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
