"""The event loop calls who waits for a descriptor, and does all else that an event loop of asyncio does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from papad.daemon.loop import Loop, running


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(asyncio.wait_for(main(), 20))


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def test_who_waits_is_called_with_its_arguments_until_it_is_removed() -> None:
    async def main() -> None:
        loop, got = asyncio.get_running_loop(), asyncio.Queue[bytes]()
        with pair() as (ours, theirs):
            loop.add_reader(ours, lambda size: got.put_nowait(ours.recv(size)), 2)
            theirs.send(b"abc")
            assert [await got.get(), await got.get()] == [b"ab", b"c"]
            assert loop.remove_reader(ours)
            assert not loop.remove_reader(ours)
            theirs.send(b"d")
            await asyncio.sleep(0.01)
            assert got.empty()

    run(main)


def test_one_descriptor_may_have_a_reader_and_a_writer() -> None:
    async def main() -> None:
        loop, calls = asyncio.get_running_loop(), list[str]()
        with pair() as (ours, theirs):
            read, written = loop.create_future(), loop.create_future()

            def reader() -> None:
                calls.append(ours.recv(10).decode())
                loop.remove_reader(ours)
                read.set_result(None)

            def writer() -> None:
                calls.append("written")
                loop.remove_writer(ours.fileno())
                written.set_result(None)

            loop.add_reader(ours.fileno(), reader)
            loop.add_writer(ours, writer)
            await written
            assert calls == ["written"]
            theirs.send(b"read")
            await read
            assert calls == ["written", "read"]
            assert not loop.remove_reader(ours)
            assert not loop.remove_writer(ours)

    run(main)


def test_the_end_of_the_other_side_wakes_reader_and_writer() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while os.write(writer, bytes(1 << 16)):
                pass
        broken = loop.create_future()
        loop.add_writer(writer, lambda: broken.done() or broken.set_result(None))
        os.close(reader)
        await broken
        loop.remove_writer(writer)
        os.close(writer)

    run(main)


def test_what_one_of_them_closes_is_not_called_any_more_nor_is_who_gets_its_number() -> None:
    async def main() -> None:
        loop, called = asyncio.get_running_loop(), list[int]()
        with pair() as (one, other), pair() as (another, last), pair() as (new, _):
            ends = {one: another, another: one}

            def first(mine: socket.socket) -> None:
                """Both are ready: whoever is called closes the other, whose number a new one gets at once."""
                called.append(mine.fileno())
                victim = ends[mine]
                number = victim.fileno()
                loop.remove_reader(mine)
                loop.remove_reader(victim)
                victim.close()
                os.dup2(new.fileno(), number)
                loop.add_reader(number, called.append, -1)
                loop.call_later(0.02, ended.set_result, number)

            ended = loop.create_future()
            for each in ends:
                loop.add_reader(each, first, each)
            other.send(b"x")
            last.send(b"x")
            number = await ended
            assert len(called) == 1
            assert -1 not in called
            loop.remove_reader(number)
            os.close(number)

    run(main)


def test_a_bug_in_one_is_told_and_the_others_go_on() -> None:
    async def main() -> None:
        loop, told, got = asyncio.get_running_loop(), list[Any](), asyncio.Queue[bytes]()
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        with pair() as (bad, theirs), pair() as (good, others):

            def fail() -> None:
                bad.recv(10)
                raise ZeroDivisionError

            loop.add_reader(bad, fail)
            loop.add_reader(good, lambda: got.put_nowait(good.recv(10)))
            theirs.send(b"x")
            others.send(b"y")
            assert await got.get() == b"y"
            await asyncio.sleep(0)
            assert [type(error) for error in told] == [ZeroDivisionError]

    run(main)


@pytest.mark.parametrize("kind", ["timer", "future", "thread", "signal", "asyncio's own", "timer set meanwhile"])
def test_somebody_who_is_always_ready_holds_up_nobody(kind: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        turns = iter(range(1 << 30))

        def again() -> None:
            if next(turns) == 10 and kind == "timer set meanwhile":
                loop.call_later(0.01, done.set_result, None)
            if next(turns) == 21 and kind == "future":
                done.set_result(None)

        with pair() as (ready, theirs), pair() as (ours, others):
            theirs.send(b"x")
            loop.add_reader(ready, again)
            match kind:
                case "timer":
                    await asyncio.sleep(0.02)
                case "future" | "timer set meanwhile":
                    await done
                case "thread":
                    assert await asyncio.to_thread(divmod, 7, 3) == (2, 1)
                case "signal":
                    loop.add_signal_handler(signal.SIGUSR1, done.set_result, None)
                    os.kill(os.getpid(), signal.SIGUSR1)
                    await done
                case "asyncio's own":
                    receiving = asyncio.ensure_future(loop.sock_recv(ours, 10))
                    await asyncio.sleep(0)
                    others.send(b"y")
                    assert await receiving == b"y"
            loop.remove_reader(ready)
        assert next(turns) > 2

    run(main)


def test_it_ends_when_it_is_stopped_and_closes_what_it_has_opened() -> None:
    before = len(os.listdir("/proc/self/fd"))
    loop = Loop()
    with pair() as (ready, theirs):
        theirs.send(b"x")
        loop.add_reader(ready, loop.stop)
        loop.run_forever()
        loop.remove_reader(ready)
    loop.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_who_comes_soon_is_called_after_all_that_are_ready_and_before_the_loop_waits_again() -> None:
    async def main() -> None:
        loop, calls = running(), list[str]()
        done = loop.create_future()
        with pair() as (ours, theirs), pair() as (others, another):

            def ready(name: str, sock: socket.socket) -> None:
                calls.append(name)
                sock.recv(10)
                loop.soon(lambda: later(name))

            def later(name: str) -> None:
                calls.append(f"after {name}")
                if len(calls) == 4:
                    loop.soon(lambda: done.set_result(None))
                if name == "first":
                    loop.soon(lambda: calls.append("the next turn"))
                    raise ValueError("reported, and the others are called")

            reported: list[object] = []
            loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
            loop.add_reader(ours, ready, "first", ours)
            loop.add_reader(others, ready, "second", others)
            theirs.send(b"x")
            another.send(b"x")
            await done
            assert sorted(calls[:2]) == ["first", "second"]
            assert sorted(calls[2:4]) == ["after first", "after second"]
            assert calls[4:] == ["the next turn"]
            assert [type(each) for each in reported] == [ValueError]
            loop.remove_reader(ours)
            loop.remove_reader(others)

    run(main)


def test_what_is_to_come_soon_does_not_wait_for_a_descriptor() -> None:
    async def main() -> None:
        done = asyncio.get_running_loop().create_future()
        running().soon(lambda: done.set_result(None))
        await done

    run(main)
