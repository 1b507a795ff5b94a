"""select() on a watcher of the unmodified client fires every time.

The client reads up to 1,024 bytes to get the line that answers `watch`. A batch that arrives with it stays inside the
client, where select() cannot see it. So here output waits before the watch begins, 1,000 times.
"""

from __future__ import annotations

import select
from types import ModuleType
from typing import Any

import pytest

from tests.original.client import CLIENT_LEAKS, wait_ended

pytestmark = CLIENT_LEAKS

ROUNDS = 1000
DEADLINE = 5.0


@pytest.fixture
def papa(unmodified: ModuleType) -> ModuleType:
    return unmodified


def fires(watcher: Any) -> bool:
    return bool(select.select([watcher], [], [], DEADLINE)[0])


def test_output_was_waiting(papa: ModuleType, address: int | str) -> None:
    """Closing without acknowledging keeps the output for the next round."""
    with papa.Papa(address) as p:
        p.make_process("a", "/bin/echo", ["hi"])
        wait_ended(p, "a")
        for round_ in range(ROUNDS):
            watcher = p.watch_processes("a")
            assert fires(watcher), f"silent in round {round_}"
            if round_ % 10 == 0:
                out, _, closed = watcher.read()
                assert [item.data for item in out + closed] == [b"hi\n", 0]
                watcher._need_ack = False
            watcher.close()
        assert p.list_processes("a")


def test_output_was_waiting_and_is_acknowledged(papa: ModuleType, address: int | str) -> None:
    """The connection goes back to its owner each time, and is used for the next process."""
    with papa.Papa(address) as p:
        for round_ in range(ROUNDS // 5):
            p.make_process("a", "/bin/echo", [str(round_)])
            wait_ended(p, "a")
            watcher = p.watch_processes("a")
            assert fires(watcher), f"silent in round {round_}"
            out, _, closed = watcher.read()
            assert [item.data for item in out + closed] == [b"%d\n" % round_, 0]
            assert watcher.read() is None


def test_output_comes_while_the_watch_begins(papa: ModuleType, address: int | str) -> None:
    with papa.Papa(address) as p:
        for round_ in range(ROUNDS // 5):
            watcher = p.make_process("a", "/bin/echo", [str(round_)], watch_immediately=True)
            assert fires(watcher), f"silent in round {round_}"
            out = b""
            while (batch := watcher.read()) is not None:
                out += b"".join(item.data for item in batch[0])
            assert out == b"%d\n" % round_


def test_many_watchers_at_once(papa: ModuleType, address: int | str) -> None:
    with papa.Papa(address) as p:
        p.make_process("a", "/bin/echo", ["hi"])
        wait_ended(p, "a")
        for _ in range(10):
            owners = [papa.Papa(address) for _ in range(20)]
            watchers = [owner.watch_processes("a") for owner in owners]
            assert all(fires(watcher) for watcher in watchers)
            for watcher in watchers:
                watcher.close()
