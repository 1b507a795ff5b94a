"""`Papa` for asyncio, beside the blocking one. tests/client/test_aio.py has it against a real papad."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

import papad
from papad import aio
from papad.aio.papa import _in_thread
from papad.client.connection import Client
from papad.errors import Refused, Unreachable
from tests.support.lives import until
from tests.support.peer import Last, Peer
from tests.support.twins import GET, PAPAS, outcome, timeout
from tests.unit.aio.test_connection import run


def test_it_has_the_methods_of_the_blocking_one() -> None:
    """But for `fileno`: what it would tell of is read by the event loop."""
    for name, method in inspect.getmembers(papad.Papa, callable):
        if not name.startswith("_") and name != "fileno":
            ours = getattr(aio.Papa, name)
            assert list(inspect.signature(ours).parameters.values()) == list(
                inspect.signature(method).parameters.values()
            )
            later = inspect.iscoroutinefunction(ours) or inspect.ismethod(ours)
            assert later or name in ("output", "follow", "close"), name


@pytest.mark.parametrize("name", PAPAS)
def test_what_comes_of_a_command(tmp_path: Path, name: str) -> None:
    case = PAPAS[name]

    async def main() -> None:
        async with aio.Papa(peer.path, 20, timeout=timeout(case.expected), autostart=False) as p:
            with outcome(case.expected) as found:
                later: Any = getattr(p, case.method)(*case.args, **case.options)
                found.append([frame async for frame in later] if inspect.isasyncgen(later) else await later)

    with Peer(tmp_path / "s", case.answers) as peer:
        run(main)
    assert len(peer.heard) == sum(map(len, case.answers.values()))


def test_it_connects_when_the_first_command_needs_it(tmp_path: Path) -> None:
    later = tmp_path / "later"

    async def main() -> None:
        p = aio.Papa(later, 0.1, autostart=False)
        with pytest.raises(Unreachable, match="does not answer"):
            await p.get("a")
        later.symlink_to(peer.path)
        assert peer.connections == 0
        assert await p.get("a") is None
        assert peer.connections == 1
        p.close()

    with Peer(tmp_path / "s", {GET: [b"\n> "]}) as peer:
        run(main)


def test_who_is_refused_is_told_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(Refused, match="not you"):
            await aio.Papa(peer.path, 20).get("a")

    with Peer(tmp_path / "s", {}, Last(b"Error: not you\n> ")) as peer:
        run(main)


def test_tasks_share_one_connection_and_take_turns(tmp_path: Path) -> None:
    async def main() -> None:
        async with aio.Papa(peer.path, 20, autostart=False) as p:
            first, *others = (asyncio.create_task(p.get("a")) for _ in range(3))
            await until(lambda: peer.heard, "the first command has come")
            assert not first.done()
            first.cancel()
            assert await asyncio.gather(*others) == ["1", "2"]

    said = [b'{"name": "a", "value": "%d"}\n> ' % number for number in (1, 2)]
    with Peer(tmp_path / "s", {GET: [b"", *said]}) as peer:
        run(main)
    assert peer.connections == 2, "one more for the cancelled task"


def test_a_connection_that_nobody_waits_for_any_more_is_closed(tmp_path: Path) -> None:
    go_on, made = threading.Event(), []

    def connect() -> Client:
        assert go_on.wait(20)
        made.append(Client(peer.path))
        return made[0]

    async def main() -> None:
        connecting: Awaitable[Client] = asyncio.ensure_future(_in_thread(connect))
        await asyncio.sleep(0)
        connecting.cancel()  # type: ignore[attr-defined]
        with pytest.raises(asyncio.CancelledError):
            await connecting
        go_on.set()
        await until(lambda: made and made[0].fileno() < 0, "it is made, and closed")

    with Peer(tmp_path / "s", {}) as peer:
        run(main)
