"""Fixtures: a real papad for each module, and papactl as a real program that finds it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.ctl.support import Papactl
from tests.support.papad import Daemon, running_papad
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_papad(tmp_path_factory.mktemp("papad"), tcp=True) as found:
        yield found


@pytest.fixture
def papad(daemon: Daemon) -> Iterator[Daemon]:
    """It holds nothing at the beginning of a test."""
    yield daemon
    with daemon.connect() as talk:
        for line in talk.ask("list processes").splitlines():
            name = line.partition(" pid=")[0].replace(" ", "\\ ")
            talk.ask(f"remove processes {name}")
            if " running=True " in line:
                os.kill(int(line.partition(" pid=")[2].split()[0]), signal.SIGKILL)
        wait_until(lambda: not talk.ask("list processes"), "no processes")
        talk.ask("remove sockets")
        for line in talk.ask("list values").splitlines():
            talk.ask(f"remove values {line.split(' ')[0]}")


@pytest.fixture
def ctl(papad: Daemon) -> Papactl:
    return Papactl(papad)
