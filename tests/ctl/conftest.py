"""papactl as a real program that finds the running papad."""

from __future__ import annotations

import pytest

from tests.ctl.support import Papactl
from tests.support.papad import Daemon


@pytest.fixture
def ctl(papad: Daemon) -> Papactl:
    return Papactl(papad)
