"""Batches: each after the acknowledgement of the one before, the first not before the client has read the first line."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import select
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from papad.daemon.delivery import batches as module
from papad.daemon.delivery.batches import Batches
from papad.daemon.delivery.channel import Mode
from papad.daemon.delivery.watch import Watch
from papad.daemon.tables.process import Process
from papad.errors import Error
from tests.support.channels import MemoryChannel, turns
from tests.support.lives import until
from tests.support.papad import Daemon, Talk
from tests.support.tables import TablesHome as Home
from tests.support.talks import codes, make, shell, text, watch
from tests.support.waiting import wait_until

ONE = b"out:a:1000.0:3\none\n"
TWO = b"out:a:1000.0:3\ntwo\n"


class Watcher:
    """A client in memory that watches one process, `a`."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.a: Process = home.add("a")
        self.channel = MemoryChannel()
        self.batches = Batches("Watching 1", Watch(home.processes, [self.a]), self.channel)

    def write(self, data: bytes) -> None:
        self.home.write(self.a, data, when=1000.0)

    async def got(self) -> bytes:
        """All that comes in a few turns of the event loop."""
        await turns()
        return self.channel.got()

    async def silence(self) -> float:
        """Acknowledge; the seconds until the empty batch comes."""
        began = time.monotonic()
        self.channel.take("-")
        await until(lambda: self.channel.waiting, "the empty batch")
        assert self.channel.got() == b"] "
        return time.monotonic() - began

    async def begun(self) -> bytes:
        """Begin, and read the first line; what comes after it."""
        self.channel.begin(self.batches)
        await until(lambda: self.channel.mode is not Mode.OPENING, "the first batch, or nothing to deliver")
        line, _, rest = (await self.got()).partition(b"\n")
        assert line == b"Watching 1"
        return rest


@pytest.fixture
def watching(home: Home) -> Callable[[Callable[[Watcher], Awaitable[None]]], None]:
    """Run a test that is a coroutine."""

    def run(test: Callable[[Watcher], Awaitable[None]]) -> None:
        async def main() -> None:
            await test(Watcher(home))

        asyncio.run(asyncio.wait_for(main(), 20))

    return run


Run = Callable[[Callable[[Watcher], Awaitable[None]]], None]


def test_each_batch_waits_for_the_acknowledgement_of_the_one_before(watching: Run) -> None:
    async def test(its: Watcher) -> None:
        its.write(b"one")
        assert await its.begun() == ONE + b"] "
        its.write(b"two")
        assert await its.got() == b""
        its.channel.take("-")
        assert await its.got() == TWO + b"] "
        assert its.channel.mode is Mode.UNACKNOWLEDGED
        its.channel.take("-")
        assert (await its.got(), its.channel.mode) == (b"", Mode.WATCHING)
        its.write(b"one")
        assert await its.got() == ONE + b"] "
        assert its.channel.proceeded == 3, "a line that was kept can be taken after each batch"

    watching(test)


def test_the_first_batch_waits_until_the_first_line_is_read(watching: Run) -> None:
    async def test(its: Watcher) -> None:
        its.write(b"one")
        its.channel.reads = False
        its.channel.begin(its.batches)
        asked: list[int] = []
        its.channel.has_read_all = lambda: asked.append(1) or its.channel.reads  # type: ignore[method-assign,func-returns-value]
        await until(lambda: len(asked) > 3, "it has asked a few times")
        assert (its.channel.got(), its.channel.mode) == (b"Watching 1\n", Mode.OPENING)
        its.channel.reads = True
        await until(lambda: its.channel.mode is Mode.UNACKNOWLEDGED, "the first batch")
        assert its.channel.got() == ONE + b"] "

    watching(test)


@pytest.mark.parametrize("removed", [False, True], ids=["acknowledged", "removed"])
def test_when_nothing_is_left_the_conversation_goes_on(watching: Run, removed: bool) -> None:
    async def test(its: Watcher) -> None:
        assert await its.begun() == b""
        if removed:
            its.home.processes.remove(["a"])
        else:
            its.home.end(its.a, 3, 1000.0)
            assert await its.got() == b"closed:a:1000.0:3\n] "
            its.channel.take("-")
        assert (await its.got(), its.channel.mode) == (b"Nothing left to watch\n> ", Mode.COMMANDS)

    watching(test)


def test_nothing_left_while_a_batch_is_out_is_told_at_its_acknowledgement(watching: Run) -> None:
    async def test(its: Watcher) -> None:
        its.write(b"one")
        assert await its.begun() == ONE + b"] "
        its.home.processes.remove(["a"])
        assert await its.got() == b""
        its.channel.take("q")
        assert its.channel.got() == b"Nothing left to watch\n> "

    watching(test)


@pytest.mark.parametrize("line", ["q", "Q"])
def test_q_acknowledges_and_stops(watching: Run, line: str) -> None:
    async def test(its: Watcher) -> None:
        its.write(b"one")
        await its.begun()
        its.channel.take(line)
        its.write(b"two")
        assert (await its.got(), its.channel.mode) == (b"Stopped watching\n> ", Mode.COMMANDS)
        assert its.a.observers == set()
        assert Watch(its.home.processes, [its.a]).batch() == [TWO]

    watching(test)


def test_the_loss_of_the_connection_leaves_the_batch_to_the_next_watch(watching: Run) -> None:
    async def test(its: Watcher) -> None:
        its.write(b"one")
        await its.begun()
        its.channel.closing = True
        its.channel.end_delivery()
        its.write(b"two")
        assert await its.got() == b""
        assert Watch(its.home.processes, [its.a]).batch() == [ONE, TWO]

    watching(test)


def test_a_connection_that_is_lost_before_it_has_read_the_first_line_gets_no_batch(watching: Run) -> None:
    async def test(its: Watcher) -> None:
        its.write(b"one")
        its.channel.reads = False
        its.channel.begin(its.batches)
        its.channel.closing = True
        its.channel.end_delivery()
        await until(lambda: not its.channel._tasks, "it has given up")
        assert its.channel.got() == b"Watching 1\n"

    watching(test)


def test_after_a_silence_comes_an_empty_batch_and_not_another_before_it_is_acknowledged(
    watching: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EMPTY_BATCH_AFTER", 0.2)

    async def test(its: Watcher) -> None:
        assert await its.begun() == b""
        for _ in range(2):
            await until(lambda: its.channel.waiting, "the empty batch")
            assert (its.channel.got(), its.channel.mode) == (b"] ", Mode.UNACKNOWLEDGED)
            its.channel.take("-")
        await asyncio.sleep(0.1)
        its.write(b"one")
        assert await its.got() == ONE + b"] "
        await asyncio.sleep(0.3)
        assert its.channel.got() == b"", "no empty batch is due before the acknowledgement"
        assert await its.silence() >= 0.2

    watching(test)


def test_a_silence_that_output_has_broken_begins_anew(watching: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EMPTY_BATCH_AFTER", 0.2)

    async def test(its: Watcher) -> None:
        assert await its.begun() == b""
        for number in range(8):
            if number:
                its.channel.take("-")
            await asyncio.sleep(0.05)
            its.write(b"one")
            await until(lambda: its.channel.waiting, "the batch")
            assert its.channel.got() == ONE + b"] "
        assert await its.silence() >= 0.2

    watching(test)


def test_no_empty_batch_comes_after_the_end(watching: Run) -> None:
    async def test(its: Watcher) -> None:
        await its.begun()
        timer = its.batches._idle
        assert timer is not None
        its.channel.end_delivery()
        assert timer.cancelled()

    watching(test)


def test_the_memory_of_what_was_acknowledged_is_given_back_after_a_while_even_if_the_watch_has_ended(
    watching: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TRIM_AFTER", 0.1)

    async def test(its: Watcher) -> None:
        def memory() -> int:
            return os.fstat(its.home.store.fd).st_blocks * 512

        before = memory()
        await its.begun()
        for line in ("-", "q"):
            its.write(b"x" * 50_000)
            await until(lambda: its.channel.waiting, "the batch")
            its.channel.got()
            its.channel.take(line)
            assert memory() - before > 50_000
            await until(lambda: memory() - before < 10_000, "the memory is given back")

    watching(test)


def test_a_client_that_does_not_read_gets_no_more_than_one_batch(watching: Run) -> None:
    async def test(its: Watcher) -> None:
        its.write(b"one")
        await its.begun()
        its.channel.full = True
        its.write(b"two")
        assert await its.got() == b""
        its.channel.full = False
        its.batches.resume()
        assert await its.got() == b"", "that it reads again is no acknowledgement"

    watching(test)


def test_while_papad_drains_an_acknowledgement_counts_and_no_batch_follows(watching: Run) -> None:
    async def test(its: Watcher) -> None:
        its.write(b"one")
        await its.begun()
        its.channel.draining = True
        its.channel.take("-")
        its.write(b"two")
        assert await its.got() == b""
        assert Watch(its.home.processes, [its.a]).batch() == [TWO]

    watching(test)


def test_an_acknowledgement_that_cannot_be_recorded_is_logged_and_its_output_comes_again(
    watching: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(its: Watcher) -> None:
        def refuse(key: str) -> None:
            raise Error("the store is full")

        its.home.end(its.a, 3, 1000.0)
        closed = b"closed:a:1000.0:3\n] "
        assert await its.begun() == closed
        with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "papad"):
            patch.setattr(its.home.store, "erase", refuse)
            its.channel.take("-")
        assert "cannot record an acknowledgement; its output will be sent again: the store is full" in caplog.text
        assert await its.got() == closed

    watching(test)


def test_removing_ends_a_watch_of_a_client(papad: Daemon, talk: Talk) -> None:
    pid = make(talk, "x", "", "/bin/sleep", "60")
    with papad.connect() as watcher:
        assert watcher.ask_line("watch processes x") == "Watching 1"
        talk.ask("remove processes x")
        assert watcher.until(b"\n> ") == b"Nothing left to watch\n> "
        assert watcher.ask("get x") == ""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: talk.ask("list processes x") == "", "it is forgotten")


def test_what_was_not_acknowledged_comes_again_to_the_next_watcher(papad: Daemon, talk: Talk) -> None:
    shell(talk, "x", "echo hello; echo oops >&2; exit 4")
    wait_until(lambda: "running=False" in talk.ask("list processes x"), "it has ended")
    with papad.connect() as first:
        first.ask_line("watch processes x")
        delivered = first.records()
        assert codes(delivered) == {"x": 4}
    assert watch(talk, "x") == delivered


def test_what_comes_after_q_is_for_the_next_watch(talk: Talk, tmp_path: Path) -> None:
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    shell(talk, "x", f"echo one; read x < {fifo}; echo two")
    talk.ask_line("watch processes x")
    assert text(talk.records(), "out") == b"one\n"
    talk.send("q\n")
    assert talk.until(b"\n> ") == b"Stopped watching\n> "
    fifo.write_text("go\n")
    assert text(watch(talk, "x"), "out") == b"two\n"


def test_with_nothing_to_deliver_an_empty_batch_comes_after_two_seconds(talk: Talk) -> None:
    pid = make(talk, "x", "", "/bin/sleep", "60")
    talk.ask_line("watch processes x")
    begin = time.monotonic()
    assert talk.records() == []
    assert 1.5 < time.monotonic() - begin < 4
    os.kill(pid, signal.SIGKILL)
    talk.send("-\n")
    assert codes(talk.watch_to_end()) == {"x": -9}


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_the_first_batch_never_leaves_before_the_client_has_taken_the_first_line(papad: Daemon, tcp: bool) -> None:
    with papad.connect(tcp=tcp) as talk:
        for number in range(100):
            talk.send(f"make process x{number} watch=1 /bin/echo hello\n")
            select.select([talk.sock], [], [], 5)
            if number % 10 == 0:
                time.sleep(0.02)  # a slow client: all the more would the batch be there by now
            line = talk.sock.recv(1024)
            assert re.fullmatch(rb"x\d+ pid=\d+ [^\n]*\n", line)
            assert select.select([talk.sock], [], [], 5)[0]
            assert codes(talk.watch_to_end()) == {f"x{number}": 0}


def test_a_large_output_arrives_whole_in_several_batches(talk: Talk) -> None:
    make(talk, "x", "bufsize=16m", "/usr/bin/head", "-c", "10000000", "/dev/zero")
    wait_until(lambda: "running=False" in talk.ask("list processes x"), "it has ended")
    talk.ask_line("watch processes x")
    first = talk.records()
    assert 0 < len(text(first, "out")) < 10_000_000
    talk.send("-\n")
    assert text(first + talk.watch_to_end(), "out") == bytes(10_000_000)
