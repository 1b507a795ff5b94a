"""Fixtures of the unit tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lives import Lives, everything_killed


@pytest.fixture
def lives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lives]:
    monkeypatch.setenv("PATH", str(tmp_path))  # no systemd-run: the nursery is our child's child
    made = Lives(tmp_path_factory.mktemp("r"))
    yield made
    try:
        nursery = made.report(everything_killed)
        assert [name for name in made.store.kept if name.startswith("socket")] == []
        if nursery:  # it would go on for the next papad
            os.kill(nursery, signal.SIGKILL)
    finally:
        made.store.close()
