"""The papads of the soak: two started by hand, with their keeper, and one under a small service manager."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from papad.client.papa import Papa
from papad.errors import ConnectionLost, NotFound
from tests.support.manager import Manager
from tests.support.papad import running_papad

PATIENCE = 120.0  # seconds


@dataclass
class Papad:
    """Where a papad is, and what is done to it now and then."""

    name: str
    path: str
    port: int
    blow: Callable[[int], None] | None
    """Gets the pid of the daemon; the next one answers soon. None: it is left alone."""

    def client(self, *, tcp: bool = False) -> Papa:
        """A new client, which waits for long: a machine that has much else to do starts a daemon late."""
        return Papa(self.port if tcp else self.path, PATIENCE, timeout=PATIENCE, autostart=False)


@contextlib.contextmanager
def managed(folder: Path, nursery: Callable[[], int]) -> Iterator[Papad]:
    """A papad under a service manager, told to end now and then; `nursery` says whom to end at last."""
    manager = Manager(folder)
    try:
        yield Papad("restarted", manager.path, manager.port, lambda pid: os.kill(pid, signal.SIGTERM))
    finally:
        manager.end(nursery())
    assert "Traceback" not in (folder / "log").read_text()


@contextlib.contextmanager
def by_hand(folder: Path, name: str, blow: Callable[[int], None] | None) -> Iterator[Papad]:
    with running_papad(folder, tcp=True) as daemon:
        yield Papad(name, daemon.path, daemon.port, blow)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def surely(remove: Callable[[str], object], listing: Callable[[str], object], name: str) -> None:
    """Remove by a name. Clients do not send that twice by themselves: another may have got the name meanwhile."""
    while listing(name):
        with contextlib.suppress(ConnectionLost, NotFound):
            remove(name)
