"""Connections that end in the middle, as when papad is restarted: nothing is lost, and nothing comes twice."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from papad import ConnectionLost, Papa, aio
from papad.protocol import wire
from papad.protocol.responses import Frame
from tests.client.relay import Relay
from tests.support.papad import Daemon
from tests.support.waiting import wait_until

WELCOME = len(wire.WELCOME)
SLOWLY = "import time\nfor i in range(400):\n print(i, flush=True)\n if i % 10 == 0: time.sleep(.01)"
LINES = b"".join(b"%d\n" % i for i in range(400))


@pytest.fixture
def through(relay: Relay) -> Iterator[Papa]:
    """A Papa whose connections go through the relay."""
    with Papa(relay.path, 5, timeout=10, autostart=False) as p:
        yield p


def lose(relay: Relay, what: bytes) -> None:
    """Lose the next bytes from a client that contain `what`, and its connection."""

    def swallow(data: bytes) -> bool:
        if what in data:
            relay.swallow = lambda data: False
            return True
        return False

    relay.swallow = swallow


def test_a_command_goes_on_over_a_restart_while_idle(through: Papa, relay: Relay) -> None:
    through.make_socket("s")
    relay.cut()
    assert through.remove_sockets("s") is True  # not repeatable, but it was not sent before
    assert relay.connections == 2


def test_a_command_whose_answer_is_lost_is_sent_again(through: Papa, relay: Relay) -> None:
    made = through.make_process("x", "/bin/sleep", ["60"])
    for ask in (
        lambda: through.make_process("x", "/bin/sleep", ["60"]),
        lambda: through.list_processes("x")["x"],
    ):
        relay.cut()
        relay.budgets = [WELCOME, WELCOME + 3]
        assert ask() == made
        assert relay.budgets == []


def test_a_command_that_may_do_harm_twice_is_not(through: Papa, relay: Relay) -> None:
    through.make_socket("s")
    lose(relay, b"remove")
    with pytest.raises(ConnectionLost):
        through.remove_sockets("s")
    assert sum(data.count(b"remove") for data in relay.sent) == 1
    assert "s" in through.list_sockets()


def test_a_watch_whose_acknowledgement_is_lost_hands_nothing_out_twice(
    papad: Daemon, through: Papa, relay: Relay
) -> None:
    with Papa(papad.path, autostart=False) as p:
        p.make_process("x", "/bin/sh", ["-c", "echo one; read line < /dev/null; echo two >&2; exit 3"])
        wait_until(lambda: not p.list_processes("x")["x"]["running"], "it has ended")
    watcher = through.watch_processes("x")
    first = watcher.read()
    assert first is not None
    assert [item.data for item in (*first.out, *first.err, *first.closed)] == [b"one\n", b"two\n", 3]
    lose(relay, b"\n")
    rest = list(iter(watcher.read, None))
    assert rest == [([], [], [])], "once more, with nothing new in it"
    assert watcher.exit_code == {"x": 3}
    assert not watcher
    assert through.list_processes() == {}


def test_a_watch_whose_end_is_lost_ends(through: Papa, relay: Relay) -> None:
    """The last acknowledgement arrived, its answer did not."""
    through.make_process("x", "/bin/echo", ["hi"])
    wait_until(lambda: not through.list_processes("x")["x"]["running"], "it has ended")
    relay.cut()
    relay.budgets = [
        WELCOME + len("Watching 1\nout:x:1795459900.4830532:3\nhi\n\nclosed:x:1795459900.4830532:0\n] ") + 2
    ]
    watcher = through.watch_processes("x")
    batch = watcher.read()
    assert batch is not None
    assert [item.data for item in (*batch.out, *batch.closed)] == [b"hi\n", 0]
    assert list(iter(watcher.read, None)) in ([], [([], [], [])])
    assert through.list_processes() == {}


@pytest.mark.parametrize("step", [1, 7, 40])
def test_a_watch_cut_anywhere_prints_every_line_once(through: Papa, relay: Relay, step: int) -> None:
    through.make_process("x", sys.executable, ["-S", "-c", SLOWLY])
    relay.cut()
    relay.budgets = [WELCOME + len("Watching 1\n") + size for size in range(1, 400, step)]
    out = b""
    with through.watch_processes("x") as watcher:
        while (batch := watcher.read()) is not None:
            out += b"".join(item.data for item in batch.out if isinstance(item.data, bytes))
    assert out == LINES
    assert watcher.exit_code == {"x": 0}
    assert relay.connections > 20 // step


@pytest.mark.parametrize("step", [1, 9])
def test_a_follow_cut_anywhere_prints_every_line_once(through: Papa, relay: Relay, step: int) -> None:
    for name in ("x.1", "x.2"):
        through.make_process(name, sys.executable, ["-S", "-c", SLOWLY])
    relay.cut()
    relay.budgets = [WELCOME + size for size in range(1, 100, step)]
    out = {"x.1": b"", "x.2": b""}
    closed = []
    for frame in through.follow("x.*", timeout=10):
        if frame.kind == "closed":
            closed.append(frame.name)
            if len(closed) == 2:
                break
        else:
            assert isinstance(frame.data, bytes)
            assert frame.kind == "out"
            out[frame.name] += frame.data
    assert out == dict.fromkeys(out, LINES)
    assert sorted(closed) == ["x.1", "x.2"]
    assert relay.connections > 20 // step


def test_a_follow_of_the_newest_goes_on_with_what_is_new(through: Papa, relay: Relay, tmp_path: Path) -> None:
    script = "import sys; print('old', flush=True); sys.stdin = open(sys.argv[1]); print(sys.stdin.read(), end='')"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    through.make_process("quiet", "/bin/echo", ["older"])
    wait_until(lambda: not through.list_processes("quiet")["quiet"]["running"], "it has ended")
    through.make_process("x", sys.executable, ["-S", "-c", script, fifo])
    wait_until(lambda: list(through.output("x")), "it has printed")
    frames = (frame for frame in through.follow(last=1, timeout=10) if frame.kind != "closed")
    first = next(frames)
    assert (first.name, first.data) == ("x", b"old\n")
    relay.cut()
    fifo.write_text("new\n")
    second = next(frames)
    assert (second.name, second.data, second.position) == ("x", b"new\n", 4)
    frames.close()


@pytest.mark.parametrize("blocking", [True, False])
def test_a_follow_of_the_newest_cut_anywhere_has_all_of_it_once(through: Papa, relay: Relay, blocking: bool) -> None:
    for name in ("x", "y"):
        through.make_process(name, "/bin/sh", ["-c", "echo one; echo two >&2; echo three; echo four >&2"])
    wait_until(lambda: not any(each["running"] for each in through.list_processes().values()), "they have ended")
    whole = sorted(through.output(last=5))
    assert {frame.name for frame in whole} == {"x", "y"}

    async def followed(p: aio.Papa) -> list[Frame]:
        async with aclosing(p.follow(last=5)) as frames:  # type: ignore[type-var]
            return [await anext(frames) for _ in whole]

    async def main() -> list[Frame]:
        async with asyncio.timeout(30), aio.Papa(relay.path, 5, autostart=False) as p:
            await p.list_sockets()
            relay.budgets = budgets
            return await followed(p)

    described = len(through.connection.ask(b"%describe processes\n")) + len("\n> ") if through.connection else 0
    for size in (*range(0, 60, 3), 150):
        budgets = [WELCOME + described + size] * 2
        relay.budgets = list(budgets) if blocking else []
        found = itertools.islice(through.follow(last=5), len(whole)) if blocking else asyncio.run(main())
        assert sorted(found) == whole


@pytest.mark.parametrize("last", [None, 3])
def test_output_cut_anywhere_comes_once(through: Papa, relay: Relay, last: int | None) -> None:
    through.make_process("x", "/bin/sh", ["-c", "echo one; echo two >&2; echo three; echo four >&2"])
    wait_until(lambda: not through.list_processes("x")["x"]["running"], "it has ended")
    whole = list(through.output("x", last=last))
    assert whole
    for size in itertools.chain(range(1, 40), (80, 150)):
        relay.budgets = [WELCOME + size]
        assert list(through.output("x", last=last)) == whole


def test_asyncio_goes_on_too(through: Papa, relay: Relay) -> None:
    through.make_process("x", sys.executable, ["-S", "-c", SLOWLY])
    relay.cut()

    async def follow(p: aio.Papa) -> bytes:
        out = b""
        async for frame in p.follow("x"):
            if frame.kind == "closed":
                return out
            assert isinstance(frame.data, bytes)
            out += frame.data
        raise AssertionError

    async def watch(p: aio.Papa) -> bytes:
        out = b""
        async with await p.watch_processes("x") as watcher:
            async for batch in watcher:
                out += b"".join(item.data for item in batch.out if isinstance(item.data, bytes))
        assert watcher.exit_code == {"x": 0}
        return out

    async def main() -> None:
        async with asyncio.timeout(30), aio.Papa(relay.path, 5, autostart=False) as p:
            relay.budgets = [WELCOME + len("Watching 1\n") + size for size in range(1, 300, 20)]
            assert await follow(p) == LINES
            assert len(relay.budgets) < 15
            relay.budgets = [WELCOME + len("Watching 1\n") + size for size in range(100, 1000, 50)]
            assert await watch(p) == LINES
            relay.cut()
            assert await p.list_processes() == {}

    asyncio.run(main())
