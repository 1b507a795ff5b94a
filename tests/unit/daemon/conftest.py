"""Fixtures of the tests that talk to a real papad about processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.papad import Daemon, Talk


@pytest.fixture
def talk(papad: Daemon) -> Iterator[Talk]:
    with papad.connect() as talk:
        yield talk
    left = papad.ask("list processes")
    assert left == "", "a test must see its processes to their end"
