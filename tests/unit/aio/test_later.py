"""A watch that goes on with later processes, for asyncio: as the blocking one."""

from __future__ import annotations

from pathlib import Path

import pytest

from papad import Error, TimedOut, aio
from tests.support.peer import Peer
from tests.support.twins import LATERS, REFUSING, data, outcome
from tests.unit.aio.test_connection import run


@pytest.mark.parametrize("name", LATERS)
def test_every_record_comes_once(tmp_path: Path, name: str) -> None:
    case = LATERS[name]

    async def main() -> None:
        async with aio.Papa(peer.path, 20, timeout=20, autostart=False) as p:
            with outcome(case.expected) as found:
                async with await p.watch_processes(case.pattern, later=True) as watcher:
                    found.append([data(await watcher.read() or ()) for _ in case.expected])  # type: ignore[attr-defined]
            assert not watcher
            assert watcher.exit_code == case.exit_code
            assert await watcher.read() is None

    with Peer(tmp_path / "s", case.answers) as peer:
        run(main)
    heard = [line for line in peer.heard if line != b"\n"]
    assert sorted(heard) == sorted(line for line, said in case.answers.items() for _ in said if line != b"\n")


def test_it_is_closed_where_it_cannot_begin(tmp_path: Path) -> None:
    async def main() -> None:
        async with aio.Papa(peer.path, 20, autostart=False) as p:
            with pytest.raises(Error, match="no such thing"):
                await p.watch_processes("x*", later=True)

    with Peer(tmp_path / "s", {b"%describe processes x*\n": [b"Error: no such thing\n> "]}) as peer:
        run(main)


def test_what_papad_refuses_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with aio.Papa(peer.path, 20, autostart=False) as p, await p.watch_processes("x*", later=True) as watcher:
            with pytest.raises(Error, match="not that"):
                await watcher.read(timeout=10)

    with Peer(tmp_path / "s", REFUSING) as peer:
        run(main)


def test_it_waits_no_longer_than_it_is_told(tmp_path: Path) -> None:
    case = LATERS["of nothing"]

    async def main() -> None:
        async with aio.Papa(peer.path, 20, autostart=False) as p, await p.watch_processes("x*", later=True) as watcher:
            with pytest.raises(TimedOut, match="in time"):
                await watcher.read(timeout=0.05)

    with Peer(tmp_path / "s", case.answers) as peer:
        run(main)
