"""Fixtures of the unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lives import Lives, everything_killed


@pytest.fixture
def lives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Lives]:
    monkeypatch.setenv("PATH", str(tmp_path))  # no systemd-run: the nursery is our child's child
    made = Lives()
    yield made
    try:
        made.report(everything_killed)
        assert [name for name in made.store.kept if name.startswith("socket")] == []
    finally:
        made.store.close()
