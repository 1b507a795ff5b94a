"""A watch, for asyncio: as the blocking one, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from papad import aio
from tests.support.peer import Peer
from tests.support.twins import BEGIN, LIST, LISTED, WATCH, WATCHERS, data, outcome, timeout
from tests.unit.aio.test_connection import run


@pytest.mark.parametrize("name", WATCHERS)
def test_every_record_comes_once(tmp_path: Path, name: str) -> None:
    case = WATCHERS[name]

    async def main() -> None:
        async with aio.Papa(peer.path, 20, timeout=timeout(case.expected), autostart=False) as p:
            with outcome(case.expected) as found:
                async with await p.watch_processes(case.pattern) as watcher:
                    found.append([data(batch) async for batch in watcher])
            assert not watcher
            assert watcher.exit_code == case.exit_code
            assert await watcher.read() is None

    with Peer(tmp_path / "s", case.answers) as peer:
        run(main)
    assert len(peer.heard) == sum(map(len, case.answers.values()))


@pytest.mark.parametrize(("acknowledge", "heard"), [(True, [WATCH, b"\n"]), (False, [WATCH])])
def test_closing_acknowledges_if_told_so(tmp_path: Path, acknowledge: bool, heard: list[bytes]) -> None:
    async def main() -> None:
        async with aio.Papa(peer.path, 20, autostart=False) as p:
            watcher = await p.watch_processes("x")
            assert len(watcher) == 1
            assert await watcher.read() is not None
            await watcher.close(acknowledge=acknowledge)
            assert peer.heard == heard
            await watcher.close()
            assert len(watcher) == 0

    with Peer(tmp_path / "s", {WATCH: [BEGIN], b"\n": [b""]}) as peer:
        run(main)
    assert peer.heard == heard


def test_commands_go_on_beside_a_watch(tmp_path: Path) -> None:
    async def main() -> None:
        async with aio.Papa(peer.path, 20, autostart=False) as p, await p.watch_processes("x"):
            assert list(await p.list_processes()) == ["x"]
            assert peer.connections == 2

    with Peer(tmp_path / "s", {WATCH: [BEGIN], LIST: [LISTED]}) as peer:
        run(main)
