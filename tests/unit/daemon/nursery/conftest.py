"""A running nursery, which has to end by itself."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.nurseries import Nursery


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    try:
        made.end()
    except subprocess.TimeoutExpired:
        made.popen.kill()
        made.popen.wait()
        pytest.fail("the nursery stays, though papad is gone, no child is left and nothing is held")
    assert made.popen.returncode in (0, -signal.SIGKILL)
