"""A stream over a socket, with somebody at the other end who reads little, ends early or is gone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from papad.daemon.loop import Loop
from papad.daemon.stream import Stream


class User:
    def __init__(self) -> None:
        self.heard: list[object] = []
        self.lost = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.heard.append(data)

    def eof_received(self) -> None:
        self.heard.append("eof")

    def pause_writing(self) -> None:
        self.heard.append("full")

    def resume_writing(self) -> None:
        self.heard.append("room")

    def connection_lost(self) -> None:
        self.lost.set_result(None)

    async def until(self, *heard: object) -> None:
        while self.heard != list(heard):  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def talk(kind: type[User] = User) -> AsyncIterator[tuple[Stream, User, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    user = kind()
    stream = Stream(ours, user)
    with theirs:
        yield stream, user, theirs
        stream.abort()
        await user.lost
    assert ours.fileno() == -1


@pytest.fixture(params=[Loop, asyncio.SelectorEventLoop])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
    def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(main(), 20))

    return run


Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


def test_bytes_go_both_ways_and_after_the_end_of_one_the_other(run: Run) -> None:
    async def main() -> None:
        async with talk() as (stream, user, theirs):
            theirs.send(b"question")
            await user.until(b"question")
            theirs.shutdown(socket.SHUT_WR)
            await user.until(b"question", "eof")
            stream.write(b"answer")
            assert theirs.recv(100) == b"answer"

    run(main)


def test_nothing_is_read_while_reading_is_paused(run: Run) -> None:
    async def main() -> None:
        async with talk() as (stream, user, theirs):
            stream.pause_reading()
            stream.pause_reading()
            theirs.send(b"x")
            await asyncio.sleep(0.01)
            assert user.heard == []
            stream.resume_reading()
            stream.resume_reading()
            await user.until(b"x")

    run(main)


def test_what_the_peer_does_not_take_waits_and_comes_in_order_even_after_close(run: Run) -> None:
    wanted = b"".join(struct.pack("=I", number) for number in range(300_000))

    async def main() -> None:
        async with talk() as (stream, user, theirs):
            for at in range(0, len(wanted), 50_000):
                stream.write(wanted[at : at + 50_000])
            assert user.heard == ["full"]
            assert stream.unsent > 64 * 1024
            stream.close()
            stream.write(b"never sent")
            assert stream.closing
            got = b""
            while more := await asyncio.get_running_loop().sock_recv(theirs, 100_000):
                got += more
            assert got == wanted
            await user.lost
            assert user.heard == ["full"]

    run(main)


def test_one_who_reads_again_is_told_to_once(run: Run) -> None:
    async def main() -> None:
        async with talk() as (stream, user, theirs):
            stream.write(bytes(1 << 20))
            await user.until("full")
            left = 1 << 20
            while left:
                left -= len(await asyncio.get_running_loop().sock_recv(theirs, 1 << 16))
            await user.until("full", "room")
            assert stream.unsent == 0

    run(main)


@pytest.mark.parametrize("act", ["reads", "writes", "has unsent"])
def test_the_stream_of_one_who_is_gone_ends(run: Run, act: str) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
        ours.setblocking(False)
        user = User()
        stream = Stream(ours, user)
        if act == "writes":
            stream.pause_reading()
        if act == "has unsent":
            stream.write(bytes(1 << 24))
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        theirs.close()  # with a reset
        while act == "writes" and not stream.closing:
            stream.write(b"x")
            await asyncio.sleep(0)
        await user.lost
        assert ours.fileno() == -1
        stream.write(b"x")
        stream.close()
        stream.abort()
        await asyncio.sleep(0)

    run(main)


def test_a_bug_of_who_reads_ends_the_stream(run: Run) -> None:
    class Broken(User):
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError

    async def main() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        async with talk(Broken) as (_, user, theirs):
            theirs.send(b"x")
            await user.lost
            assert [type(error) for error in told] == [ZeroDivisionError]

    run(main)
