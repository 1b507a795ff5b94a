"""Frames: sent as fast as the client reads them, until the end, or until it sends a line."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from papad.daemon.delivery.channel import FLUSH_SIZE, Mode
from papad.daemon.delivery.frames import Frames
from papad.daemon.delivery.reader import Query, Reading
from papad.daemon.tables.process import Process
from tests.support.channels import MemoryChannel, turns
from tests.support.lives import until
from tests.support.papad import Daemon
from tests.support.tables import TablesHome as Home
from tests.support.talks import ended, frames

LARGE = FLUSH_SIZE * 3
ONE = b"out:a:1000.0:3:1:0\none\n"


class Reader:
    """A client in memory that reads the output of one process, `a`."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.a: Process = home.add("a", capacity=LARGE)
        self.channel = MemoryChannel()

    def write(self, data: bytes) -> None:
        self.home.write(self.a, data, when=1000.0)

    def begin(self, **query: Any) -> Reading:
        reading = Reading(self.home.processes, Query([], **query))
        self.channel.begin(Frames(reading, self.channel))
        return reading

    async def got(self) -> bytes:
        """All that comes in a few turns of the event loop."""
        await turns(20)
        return self.channel.got()


Run = Callable[[Callable[[Reader], Awaitable[None]]], None]


@pytest.fixture
def reading(home: Home) -> Run:
    """Run a test that is a coroutine."""

    def run(test: Callable[[Reader], Awaitable[None]]) -> None:
        async def main() -> None:
            await test(Reader(home))

        asyncio.run(asyncio.wait_for(main(), 20))

    return run


def test_all_frames_come_and_then_the_prompt(reading: Run) -> None:
    async def test(its: Reader) -> None:
        its.write(b"one")
        its.home.end(its.a, 3, 1001.0)
        its.begin()
        assert (its.channel.got(), its.channel.mode) == (b"", Mode.READING), "not before the next turn"
        assert await its.got() == ONE + b"closed:a:1001.0:3:1:3\n> "
        assert (its.channel.mode, its.channel.proceeded) == (Mode.COMMANDS, 1)

    reading(test)


@pytest.mark.parametrize("query", [{}, {"stream": "err"}])
def test_without_a_frame_the_answer_is_an_empty_line(reading: Run, query: dict[str, Any]) -> None:
    async def test(its: Reader) -> None:
        if query:
            its.write(b"one")
        its.begin(**query)
        assert (await its.got(), its.channel.mode) == (b"\n> ", Mode.COMMANDS)

    reading(test)


def test_following_goes_on_with_what_comes_until_a_line_is_sent(reading: Run) -> None:
    async def test(its: Reader) -> None:
        found = its.begin(follow=True)
        assert (await its.got(), its.channel.mode) == (b"", Mode.FOLLOWING)
        its.write(b"one")
        assert await its.got() == ONE
        its.write(b"two")
        its.write(b"three")
        assert await its.got() == b"out:a:1000.0:3:1:3\ntwo\nout:a:1000.0:5:1:6\nthree\n"
        its.channel.take("")
        its.write(b"four")
        assert (await its.got(), its.channel.mode) == (b"> ", Mode.COMMANDS)
        assert found not in its.home.processes.followers

    reading(test)


@pytest.mark.parametrize("follow", [False, True])
def test_a_client_that_does_not_read_is_waited_for(reading: Run, follow: bool) -> None:
    async def test(its: Reader) -> None:
        its.write(bytes(LARGE))
        its.begin(follow=follow)
        its.channel.full = True
        first = await its.got()
        assert FLUSH_SIZE < len(first) < FLUSH_SIZE + 20_000
        assert its.channel.mode is Mode.READING, "it is not at its end"
        assert await its.got() == b""
        its.channel.full = False
        its.channel._delivery.resume()  # type: ignore[union-attr]
        rest = await its.got()
        assert (first + rest).count(b"\0") == LARGE
        assert its.channel.mode is (Mode.FOLLOWING if follow else Mode.COMMANDS)

    reading(test)


def test_news_for_a_follower_that_does_not_read_waits_in_the_ring(reading: Run) -> None:
    async def test(its: Reader) -> None:
        its.begin(follow=True)
        await its.got()
        its.channel.full = True
        its.write(b"one")
        assert await its.got() == b""
        its.channel.full = False
        its.channel._delivery.resume()  # type: ignore[union-attr]
        assert await its.got() == ONE

    reading(test)


@pytest.mark.parametrize("follow", [False, True])
def test_the_loss_of_the_connection_ends_it(reading: Run, follow: bool) -> None:
    async def test(its: Reader) -> None:
        its.write(b"one")
        found = its.begin(follow=follow)
        its.channel.closing = True
        assert await its.got() == b""
        its.channel.end_delivery()
        its.write(b"two")
        assert await its.got() == b""
        assert found not in its.home.processes.followers

    reading(test)


def test_while_papad_drains_output_still_comes_whole(reading: Run) -> None:
    async def test(its: Reader) -> None:
        its.write(bytes(LARGE))
        its.channel.draining = True
        its.begin()
        await until(lambda: its.channel.mode is Mode.COMMANDS, "all is written")
        assert its.channel.got().count(b"\0") == LARGE

    reading(test)


def test_a_reader_that_is_slow_misses_nothing_that_is_still_there(papad: Daemon) -> None:
    """More than all buffers on the way hold is waiting when it begins to read."""
    size = 30_000_000
    papad.ask(f"make process a bufsize=40m /usr/bin/head -c {size} /dev/zero")
    with papad.connect() as talk:
        talk.send("output follow=1\n")
        assert ended(papad, "a")["captured"] == size
        got = 0
        while True:
            ((kind, _, data, position),) = frames(talk, 1)
            if kind == "closed":
                break
            assert position == got
            got += len(data)
        assert got == size
