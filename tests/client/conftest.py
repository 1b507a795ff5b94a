"""The client, and a relay between it and the running papad."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from papad import Papa
from tests.client.relay import Relay
from tests.support.papad import Daemon


@pytest.fixture
def relay(papad: Daemon, tmp_path: Path) -> Iterator[Relay]:
    """A way to the papad that can be cut."""
    with Relay(tmp_path / "relay", papad.path) as relay:
        yield relay


@pytest.fixture
def p(papad: Daemon) -> Iterator[Papa]:
    with Papa(papad.path, 5, timeout=10, autostart=False) as p:
        yield p
