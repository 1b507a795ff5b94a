"""A watch, for asyncio: as the blocking one, and how it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from papad import Unreachable, aio
from tests.support.peer import Last, Peer
from tests.support.twins import BEGIN, LIST, LISTED, NO_MORE, ONE, TWO, WATCH, WATCHERS, data, outcome, timeout
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


@pytest.mark.parametrize("how", ["cancelled", "unreachable"])
def test_a_watch_that_could_not_go_on_is_not_at_its_end(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What went wrong while it connected again may be tried again."""

    async def nobody() -> None:
        raise Unreachable("papad does not answer")

    async def main() -> None:
        async with aio.Papa(peer.path, 20, autostart=False) as p:
            watcher = await p.watch_processes("x")
            assert await watcher.read() is not None
            with monkeypatch.context() as patch:
                if how == "unreachable":
                    patch.setattr(p, "list_processes", nobody)
                with pytest.raises(TimeoutError if how == "cancelled" else Unreachable):
                    async with asyncio.timeout(0.2):
                        await watcher.read()
            assert watcher
            batch = await watcher.read()
            assert batch is not None
            assert data(batch) == [b"two"]
            assert await watcher.read() is None
            assert not watcher

    listed = [b"x pid", LISTED] if how == "cancelled" else [LISTED]
    answers = {WATCH: [BEGIN, b"Watching 1\n" + ONE + TWO + b"] "], LIST: listed, b"\n": [Last(b""), NO_MORE]}
    with Peer(tmp_path / "s", answers) as peer:
        run(main)
    assert len(peer.heard) == sum(map(len, answers.values()))


def test_commands_go_on_beside_a_watch(tmp_path: Path) -> None:
    async def main() -> None:
        async with aio.Papa(peer.path, 20, autostart=False) as p, await p.watch_processes("x"):
            assert list(await p.list_processes()) == ["x"]
            assert peer.connections == 2

    with Peer(tmp_path / "s", {WATCH: [BEGIN], LIST: [LISTED]}) as peer:
        run(main)
