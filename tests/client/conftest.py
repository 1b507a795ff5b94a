"""A real papad for each module of tests, emptied after each test; and a relay before it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from papad import Papa
from papad.client.connection import Client
from tests.client.relay import Relay
from tests.support.papad import Daemon, no_new_fds, running_papad
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_papad(tmp_path_factory.mktemp("papad"), tcp=True) as daemon:
        yield daemon


@pytest.fixture
def papad(daemon: Daemon) -> Iterator[Daemon]:
    """An empty papad. Afterwards its processes are ended, and nothing of the test's own is left open."""
    with no_new_fds():
        yield daemon
    with Client(daemon.path) as client:
        for process in client.describe("processes"):
            if process["running"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process["pid"], signal.SIGKILL)
        client.plain("remove", "processes")
        client.plain("remove", "sockets")
        for value in client.describe("values"):
            client.command("set", value["name"])
        wait_until(lambda: not client.command("list", "processes"), "no process is left")


@pytest.fixture
def relay(papad: Daemon, tmp_path: Path) -> Iterator[Relay]:
    """A way to the papad that can be cut."""
    with Relay(tmp_path / "relay", papad.path) as relay:
        yield relay


@pytest.fixture
def p(papad: Daemon) -> Iterator[Papa]:
    with Papa(papad.path, 5, timeout=10, autostart=False) as p:
        yield p
