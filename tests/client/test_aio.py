"""The client for asyncio: the same commands, tasks that share a Papa, and tasks that are cancelled."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

import pytest

import papad as package
from papad import Error, aio
from tests.client.relay import Relay
from tests.support.papad import Daemon
from tests.support.waiting import wait_until

Body = Callable[[aio.Papa], Coroutine[Any, Any, None]]


def run(address: str | int, body: Body) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), aio.Papa(address, 5, timeout=10, autostart=False) as p:
            await body(p)

    asyncio.run(main(), debug=True)


def test_watch_immediately(papad: Daemon) -> None:
    async def body(p: aio.Papa) -> None:
        watcher = await p.make_process("x", "/bin/echo", ["hi"], watch_immediately=True)
        assert [item.data async for batch in watcher for item in batch.out] == [b"hi\n"]

    run(papad.path, body)


def test_commands(papad: Daemon) -> None:
    async def body(p: aio.Papa) -> None:
        assert await p.list_sockets() == {}
        made = await p.make_socket("s")
        assert await p.list_sockets("s") == {"s": made}
        assert await p.remove_sockets("s") is True
        await p.set("a", "two\nlines ")
        assert await p.get("a") == "two\nlines "
        assert await p.list_values() == {"a": "two\nlines "}
        assert await p.remove_values("a") is True
        assert await p.get("a") is None
        process = await p.make_process("x", "/bin/sh", ["-c", "echo hi; sleep 60"])
        assert (await p.list_processes())["x"] == process
        assert (await p.describe("processes"))[0]["pid"] == process["pid"]
        assert await p.exit_if_idle() is False
        with pytest.raises(Error, match="nothing not found"):
            await p.remove_processes("nothing")
        assert await p.remove_processes("x") is True

    for address in (papad.path, papad.port):
        run(address, body)
        with package.Papa(papad.path) as p:
            for each in p.describe("processes"):
                os.kill(each["pid"], signal.SIGKILL)
            wait_until(lambda: not p.list_processes(), "nothing is left")


def test_watch_output_and_follow(papad: Daemon) -> None:
    async def body(p: aio.Papa) -> None:
        await p.make_process("x", "/bin/sh", ["-c", "echo one; echo two >&2; exit 3"])
        async with aclosing(p.follow("x")) as frames:  # type: ignore[type-var]
            followed = [await anext(frames) for _ in range(3)]
        assert sorted(frame.kind for frame in followed) == ["closed", "err", "out"]
        assert [frame async for frame in p.output("x")] == followed
        assert [frame async for frame in p.output("x", last=2)] == followed
        watcher = await p.watch_processes("x")
        batches = [batch async for batch in watcher]
        assert [item.data for batch in batches for item in (*batch.out, *batch.err, *batch.closed)] == [
            b"one\n",
            b"two\n",
            3,
        ]
        assert watcher.exit_code == {"x": 3}
        assert not watcher
        assert await p.list_processes() == {}

    run(papad.path, body)


def test_tasks_take_turns(papad: Daemon) -> None:
    async def body(p: aio.Papa) -> None:
        async def use(number: int) -> None:
            await p.set(f"v{number}", str(number))
            assert await p.get(f"v{number}") == str(number)

        await asyncio.gather(*(use(number) for number in range(100)))
        assert len(await p.list_values()) == 100

    run(papad.path, body)


def test_a_cancelled_command_leaves_no_answer_for_the_next(papad: Daemon) -> None:
    async def body(p: aio.Papa) -> None:
        await p.set("a", "1")
        for delay in range(20):
            task = asyncio.create_task(p.list_sockets())
            for _ in range(delay):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await p.get("a") == "1"

    run(papad.path, body)


def test_a_watch_that_was_cut_short_by_a_timeout_goes_on(papad: Daemon) -> None:
    async def body(p: aio.Papa) -> None:
        await p.make_process("x", "/bin/sh", ["-c", "sleep 0.4; echo hi"])
        watcher = await p.watch_processes("x")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await watcher.read()
        with pytest.raises(package.TimedOut):
            await watcher.read(timeout=0.05)
        assert [item.data async for batch in watcher for item in batch.out] == [b"hi\n"]

    run(papad.path, body)


def test_a_follow_waits_as_long_as_it_is_told(papad: Daemon) -> None:
    async def body(p: aio.Papa) -> None:
        with pytest.raises(package.TimedOut):
            await anext(p.follow("x", timeout=0.1))

    run(papad.path, body)


def test_closing_a_watch_acknowledges(papad: Daemon) -> None:
    async def body(p: aio.Papa) -> None:
        for keep in (True, False):
            await p.make_process("x", "/bin/echo", ["hi"])
            watcher = await p.watch_processes("x")
            async for batch in watcher:
                if batch.closed:
                    break
            await watcher.close(acknowledge=not keep)
            assert set(await p.list_processes()) == ({"x"} if keep else set())

    run(papad.path, body)


@pytest.mark.parametrize("failure", [ZeroDivisionError, asyncio.CancelledError])
def test_a_consumer_that_fails_loses_nothing(papad: Daemon, failure: type[BaseException]) -> None:
    async def body(p: aio.Papa) -> None:
        await p.make_process("x", "/bin/echo", ["hi"])
        with pytest.raises(failure):
            async with await p.watch_processes("x") as watcher:
                assert await watcher.read()
                raise failure
        watcher = await p.watch_processes("x")
        assert [item.data async for batch in watcher for item in batch.out] == [b"hi\n"]

    run(papad.path, body)


def test_no_wait_for_an_answer_is_without_end(relay: Relay, papad: Daemon) -> None:
    async def body() -> None:
        async with asyncio.timeout(10), aio.Papa(relay.path, 1, timeout=0.2, autostart=False) as p:
            os.kill(papad.pid, signal.SIGSTOP)
            try:
                with pytest.raises(package.TimedOut):
                    await p.list_sockets()
            finally:
                os.kill(papad.pid, signal.SIGCONT)

    asyncio.run(body())
