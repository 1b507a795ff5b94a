"""One connection, for asyncio: as the blocking one, and what else may happen to a task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from papad.aio.connection import Client
from papad.client import connection as blocking
from papad.errors import ConnectionLost
from tests.support.lives import until
from tests.support.peer import Last, Peer
from tests.support.twins import CLIENTS, outcome, timeout
from tests.support.waiting import wait_until


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await main()
        await asyncio.sleep(0)  # what was closed is closed in the next round of the loop

    asyncio.run(limited(), debug=True)


@asynccontextmanager
async def connected(peer: Peer, seconds: float = 20) -> AsyncIterator[Client]:
    connection = blocking.Client(peer.path)
    connection.timeout = seconds
    client = await Client.of(connection)
    try:
        yield client
    finally:
        client.close()


@pytest.mark.parametrize("name", CLIENTS)
def test_what_comes_of_an_answer(tmp_path: Path, name: str) -> None:
    case = CLIENTS[name]

    async def main() -> None:
        async with connected(peer, timeout(case.expected)) as client:
            with outcome(case.expected) as found:
                later: Any = getattr(client, case.method)(b"line\n")
                found.append([frame async for frame in later] if case.method == "frames" else await later)
            assert client.fresh is case.fresh

    with Peer(tmp_path / "s", {b"line\n": [case.says]}) as peer:
        run(main)


def test_a_cancelled_command_ends_the_connection(tmp_path: Path) -> None:
    """Its answer would be taken for that to the next."""

    async def main() -> None:
        async with connected(peer) as client:
            task = asyncio.create_task(client.ask(b"line\n"))
            await until(lambda: peer.heard, "the command has come")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not client.fresh

    with Peer(tmp_path / "s", {b"line\n": [b""]}) as peer:
        run(main)


def test_an_end_that_the_event_loop_has_not_heard_of_shows(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(peer) as client:
            assert await client.ask(b"line\n") == ""
            wait_until(lambda: peer.left, "the other side has ended the connection")
            assert not client.fresh
            with pytest.raises(ConnectionLost):
                await client.ask(b"another\n")

    with Peer(tmp_path / "s", {b"line\n": [Last(b"\n> ")]}) as peer:
        run(main)


def test_a_wait_for_a_batch_that_is_cut_short_loses_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(peer) as client:
            assert await client.begin_watch(b"watch\n") == "Watching 1"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.batch()
            client.send(b"go on\n")
            assert [item.data for item in (await client.batch()).records] == [b"hi"]

    with Peer(tmp_path / "s", {b"watch\n": [b"Watching 1\nout:x:1.0:2\nh"], b"go on\n": [b"i\n] "]}) as peer:
        run(main)


def test_a_connection_closes_once_all_was_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(peer) as client:
            for _ in range(1000):
                client.send(b"line\n")
            await client.drain()
            assert len(peer.heard) == 1000

    with Peer(tmp_path / "s", {b"line\n": [b"x"] * 1000}) as peer:
        run(main)
