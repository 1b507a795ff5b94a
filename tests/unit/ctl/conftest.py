"""papactl's modules in this process, with a real papad."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from papad.ctl.connect import Session
from tests.support.papad import Daemon
from tests.unit.ctl.support import Here


@pytest.fixture
def session(papad: Daemon) -> Iterator[Session]:
    """One session with the running papad."""
    with Session(papad.path) as made:
        yield made


@pytest.fixture
def here(session: Session, papad: Daemon, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(session, papad, capsys)
