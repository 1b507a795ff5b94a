"""What all tests share: a running papad, and a home. Other fixtures live beside the tests that use them."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.support.homes import opened
from tests.support.papad import Daemon, empty, no_new_fds, running_papad


def pytest_configure(config: pytest.Config) -> None:
    """A run that is ended by SIGTERM, as .ci/run does after its time, says where it was, and cleans up."""
    pid = os.getpid()

    def leave(number: int, frame: FrameType | None) -> None:
        if os.getpid() != pid:  # a child of a test
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            faulthandler.dump_traceback(all_threads=False)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where two run at a time, all tests on one booted Debian are for one of them, and the others for one, too."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            release = getattr(item, "callspec", None) and item.callspec.params.get("machine")
            item.add_marker(pytest.mark.xdist_group(release or "no machine"))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A running papad for a module of tests, at a Unix path and a port."""
    with running_papad(tmp_path_factory.mktemp("papad"), tcp=True) as found:
        yield found


@pytest.fixture
def papad(daemon: Daemon) -> Iterator[Daemon]:
    """The same, which holds nothing before and after each test, and the test leaves nothing open."""
    with no_new_fds():
        yield daemon
    empty(daemon)


@pytest.fixture
def own_papad(tmp_path: Path) -> Iterator[Daemon]:
    """A running papad for one test, which may end it."""
    with running_papad(tmp_path, tcp=True) as found:
        yield found


@pytest.fixture
def home(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A `Home` of the module of the test: a table, its store, and an FD store that outlives both."""
    with no_new_fds(), opened(request.module.Home) as made:
        yield made
