"""Records one by one, and watches that see the processes which are made after they have begun; over cut connections, too."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest

from papad import Papa, TimedOut, aio
from papad.protocol.responses import Frame, Record
from papad.protocol.watching import Later
from tests.client.relay import Relay
from tests.support.papad import Daemon
from tests.support.waiting import wait_until

WRITER = """
import os, sys, time
for i in range(int(sys.argv[1])):
    os.write(1 + i % 3 // 2, b"%d\\n" % i)
    if i % 20 == 0: time.sleep(.005)
"""
Gathered = dict[str, dict[str, bytes | int]]


def ended(p: Papa, name: str) -> None:
    wait_until(lambda: not p.list_processes(name)[name]["running"], f"{name} has ended")


def gather(
    records: Iterable[Record], names: set[str], seen: Callable[[Record], object] = lambda record: None
) -> Gathered:
    """What came of each process, until all have ended."""
    found: Gathered = {}
    for record in records:
        _add(found, record)
        seen(record)
        if {name for name, each in found.items() if "closed" in each} == names:
            return found
    raise AssertionError(f"it has ended before all that was expected came: {found.keys()}")


async def gather_later(records: AsyncIterator[Record], names: set[str]) -> Gathered:
    found: Gathered = {}
    async for record in records:
        _add(found, record)
        if {name for name, each in found.items() if "closed" in each} == names:
            return found
    raise AssertionError(f"it has ended before all that was expected came: {found.keys()}")


def _add(found: Gathered, record: Record) -> None:
    of = found.setdefault(record.name, {"out": b"", "err": b""})
    if isinstance(record.data, int):
        assert "closed" not in of
        of["closed"] = record.data
    else:
        of[record.stream] += record.data  # type: ignore[operator]


def written(count: int) -> dict[str, bytes | int]:
    lines: dict[str, bytes | int] = {
        stream: b"".join(b"%d\n" % i for i in range(count) if (i % 3 == 2) == (stream == "err"))
        for stream in ("out", "err")
    }
    return lines | {"closed": 0}


def make(p: Papa, name: str, count: int = 300) -> None:
    p.make_process(name, sys.executable, ["-S", "-c", WRITER, count], bufsize="8m")


# Records


def test_records_come_as_they_were_captured(p: Papa) -> None:
    for name in ("x.1", "x.2"):
        make(p, name, 3000)
    for name in ("x.1", "x.2"):
        ended(p, name)
    frames = [(frame.kind, frame.name, frame.timestamp, frame.data) for frame in p.output("x.*")]
    with p.watch_processes("x.*") as watcher:
        records = list(watcher.records())
    assert [tuple(record) for record in records] == frames
    assert {record.stream for record in records} == {"out", "err", "closed"}
    assert p.list_processes() == {}


@pytest.mark.parametrize("way", ["left", "failed"])
def test_records_that_were_not_taken_come_again(p: Papa, way: str) -> None:
    p.make_process("x", "/bin/sh", ["-c", "echo one; echo two >&2"])
    ended(p, "x")
    try:
        with p.watch_processes("x") as watcher:
            for record in watcher.records():
                assert record.data == b"one\n"
                watcher.acknowledge()  # too early
                if way == "failed":
                    raise ZeroDivisionError
                break
    except ZeroDivisionError:
        pass
    with p.watch_processes("x") as watcher:
        assert next(watcher.records()).data == b"one\n"
        assert watcher.read() == (
            [],
            [("x", pytest.approx(0, abs=1e10), b"two\n")],
            [("x", pytest.approx(0, abs=1e10), 0)],
        )
        assert watcher.read() is None
    assert p.list_processes() == {}


def test_asyncio_yields_records_too(papad: Daemon) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), aio.Papa(papad.path, 5, autostart=False) as p:
            await p.make_process("x", "/bin/sh", ["-c", "echo one; read line < $0; echo two >&2", fifo])
            async with await p.watch_processes("x") as watcher:
                found = []
                async for record in watcher.records():
                    if record.data == b"one\n":
                        await asyncio.to_thread(Path(fifo).write_text, "\n")
                    found.append((record.stream, record.data))
            assert found == [("out", b"one\n"), ("err", b"two\n"), ("closed", 0)]
            await p.make_process("x", "/bin/echo", ["hi"])
            async with await p.watch_processes("x") as watcher:
                async for record in watcher.records():
                    assert record.data == b"hi\n"
                    while (await p.list_processes())["x"]["running"]:
                        pass
                    break
            assert [frame.kind async for frame in p.output("x")][-1] == "closed"

    fifo = papad.path + ".fifo"
    os.mkfifo(fifo)
    asyncio.run(main())
    os.unlink(fifo)


# Later processes


def test_a_process_that_is_made_later_is_watched(p: Papa) -> None:
    """From an empty start, and past the end of all that was watched."""
    with p.watch_processes("x.*", later=True) as watcher:
        records = watcher.records(timeout=10)
        for name in ("x.1", "x.2"):
            p.make_process("other", "/bin/echo", ["no"])
            p.make_process(name, "/bin/echo", [name])
            assert gather(records, {name}) == {name: {"out": f"{name}\n".encode(), "err": b"", "closed": 0}}
            p.remove_processes("other")
        with pytest.raises(TimedOut):
            while watcher.read(timeout=0.5) == ([], [], []):
                pass
        assert watcher.exit_code == {"x.1": 0, "x.2": 0}
        assert watcher
    assert not watcher
    assert watcher.read(timeout=1) is None
    wait_until(lambda: p.list_processes() == {}, "all was acknowledged")


def test_a_new_process_of_an_old_name_is_watched(p: Papa) -> None:
    with p.watch_processes("x", later=True) as watcher:
        for number in range(3):
            p.make_process("x", "/bin/sh", ["-c", f"echo {number}; exit {number}"])
            found = gather(watcher.records(timeout=10), {"x"})
            assert found == {"x": {"out": b"%d\n" % number, "err": b"", "closed": number}}
            watcher.acknowledge()
            wait_until(lambda: p.list_processes() == {}, "its name is free")


def test_nothing_is_asked_while_nothing_happens(p: Papa, relay: Relay) -> None:
    def begun(watches: int) -> list[bytes]:
        """What was sent until so many watches follow what comes later."""
        wait_until(lambda: sum(data.count(b"output") for data in relay.sent) == watches, "it follows")
        return list(relay.sent)

    p.make_process("x", "/bin/sleep", ["60"])
    with Papa(relay.path, 5, autostart=False) as through:
        with through.watch_processes("x", "y*", later=True) as watcher:
            sent = begun(1)
            assert watcher.read() == ([], [], []), "after two seconds"
            assert relay.sent == sent
        with through.watch_processes("y*", later=True) as watcher:
            sent = begun(2)
            with pytest.raises(TimedOut):
                watcher.read(timeout=0.5)
            assert relay.sent == sent


def test_output_of_what_is_watched_travels_once(p: Papa, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second connection does not get it as well, but for the output of a new process."""
    heard: list[Frame] = []
    is_new = Later.is_new
    monkeypatch.setattr(Later, "is_new", lambda later, frame: heard.append(frame) or is_new(later, frame))
    make(p, "x", 2000)
    with p.watch_processes("x", "y", later=True) as watcher:
        assert gather(watcher.records(timeout=10), {"x"}) == {"x": written(2000)}
        p.make_process("y", "/bin/echo", ["hi"])
        gather(watcher.records(timeout=10), {"y"})
    assert {(frame.name, frame.kind) for frame in heard} <= {("x", "closed"), ("y", "out"), ("y", "closed")}
    assert ("y", "out") in {(frame.name, frame.kind) for frame in heard}


def test_a_read_after_select_does_not_wait(p: Papa) -> None:
    with p.watch_processes("x.*", later=True) as watcher:
        assert not watcher.ready
        assert not select.select([watcher], [], [], 0)[0]
        found = []
        for number in range(20):
            p.make_process(f"x.{number}", "/bin/echo", [number])
            while f"x.{number}" not in watcher.exit_code:
                assert select.select([watcher], [], [], 10)[0]
                batch = watcher.read(timeout=1)
                assert batch is not None
                found += [item.data for item in batch.out]
            watcher.acknowledge()
        assert found == [b"%d\n" % number for number in range(20)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("blocking", [True, False])
def test_what_is_made_while_connections_are_cut_comes_once(
    papad: Daemon, relay: Relay, seed: int, blocking: bool
) -> None:
    names = {f"x.{number}" for number in range(8)}
    chance = random.Random(seed)
    done = threading.Event()

    def disturb() -> None:
        with Papa(papad.path, 5, autostart=False) as p:
            for name in sorted(names):
                make(p, name)
                done.wait(chance.uniform(0, 0.1))
                relay.cut()
            while not done.wait(chance.uniform(0.02, 0.2)):
                relay.cut()

    async def main() -> Gathered:
        async with (
            asyncio.timeout(60),
            aio.Papa(relay.path, 10, timeout=20, autostart=False) as p,
            await p.watch_processes("x.*", later=True) as watcher,
        ):
            return await gather_later(watcher.records(), names)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        if blocking:
            with (
                Papa(relay.path, 10, timeout=20, autostart=False) as p,
                p.watch_processes("x.*", later=True) as watcher,
            ):
                found = gather(watcher.records(), names)
        else:
            found = asyncio.run(main())
    finally:
        done.set()
        thread.join()
    assert found == dict.fromkeys(names, written(300))


def test_what_is_made_while_papad_is_killed_comes_once(own_papad: Daemon) -> None:
    names = {f"x.{number}" for number in range(5)}

    def disturb() -> None:
        with Papa(own_papad.path, 20, autostart=False) as p:
            for name in sorted(names):
                make(p, name, 2000)
                os.kill(p.describe("server")[0]["pid"], signal.SIGKILL)
                p.list_values()

    thread = threading.Thread(target=disturb)
    with Papa(own_papad.path, 20, autostart=False) as p, p.watch_processes("x.*", later=True) as watcher:
        thread.start()
        try:
            found = gather(watcher.records(), names)
        finally:
            thread.join()
        assert p.describe("server")[0]["starts"] > len(names)
    assert found == dict.fromkeys(names, written(2000))


def test_a_read_that_is_cancelled_loses_nothing(papad: Daemon) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), aio.Papa(papad.path, 5, autostart=False) as p:
            async with await p.watch_processes("x.*", later=True) as watcher:
                found: Gathered = {}
                for number in range(4):
                    await p.make_process(f"x.{number}", sys.executable, ["-S", "-c", WRITER, 200])
                while len(watcher.exit_code) < 4:
                    try:
                        async with asyncio.timeout(0.002):
                            batch = await watcher.read()
                    except TimeoutError:
                        continue
                    assert batch is not None
                    for stream, items in zip(("out", "err", "closed"), batch, strict=True):
                        for item in items:  # type: ignore[attr-defined]
                            _add(found, Record(stream, *item))  # type: ignore[arg-type]
                assert found == {f"x.{number}": written(200) for number in range(4)}
            assert await watcher.read() is None
            assert not watcher

    asyncio.run(main())
