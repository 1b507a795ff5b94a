"""The daemon's side of the nursery: how it finds one, or starts one, and that nothing is lost on the way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from papad.daemon.durable import parcel
from papad.daemon.nursery import spawner as module
from papad.daemon.nursery.spawner import Spawner
from papad.errors import Error
from tests.support.lives import until
from tests.support.nurseries import NOTHING, Report
from tests.support.papad import FdStore, in_child, no_new_fds, open_fds

WANTED = {name: value for name, value in NOTHING.items() if name != "nofile"} | {"hold": []}

# A nursery closes its channel a moment before it can be waited for; subprocess then does that later, and complains.
not_yet_reaped = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class House:
    """Where papads and nurseries meet; there is no systemd-run."""

    def __init__(self, folder: Path) -> None:
        self.store = FdStore(runtime=folder)
        self.path = str(folder / "nursery")
        self.nurseries: set[int] = set()

    def run(self, act: Callable[[Spawner], Awaitable[Any]], *, meet: bool = True) -> None:
        """A papad, which meets the nursery and goes as if it was killed, but for what the nursery has to do."""

        async def papad() -> None:
            spawner = Spawner(self.store, 1024)  # type: ignore[arg-type]
            if meet:
                await spawner.meet()
            try:
                await act(spawner)
            finally:
                self.nurseries.add(spawner.pid)
                parcel.close_all(list(spawner.held.values()))
                for _, fds in spawner._early or []:
                    parcel.close_all(fds)
                if spawner._popen is not None:
                    spawner._popen.returncode = 0  # it outlives us
                spawner.close()

        with no_new_fds():
            asyncio.run(papad())


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[House]:
    monkeypatch.setenv("PATH", str(tmp_path))
    made = House(tmp_path)
    yield made
    made.store.close()
    for pid in made.nurseries - {0}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text()


async def ensured(spawner: Spawner) -> None:
    """A nursery that was started, if there was none."""
    await spawner.ensure()
    assert spawner.pid
    assert name_of(spawner.pid) == "papad-nursery\n"


def spawn(spawner: Spawner, id: int, *args: str) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    try:
        spawner.spawn({"id": id, "args": args, "targets": [0, 1, 2], **WANTED}, [null] * 3)
    finally:
        os.close(null)


def hearing(spawner: Spawner, *acknowledged: str) -> list[tuple[str, int]]:
    """What will have been reported, and of whom; these are acknowledged."""
    heard: list[tuple[str, int]] = []

    def hear(report: Report, fds: list[int]) -> None:
        heard.append((report["what"], report["id"]))
        parcel.close_all(fds)
        if report["what"] in acknowledged:
            spawner.acknowledge(report["id"], report["what"])

    spawner.on_report = hear
    return heard


def inodes(fds: dict[str, int]) -> dict[str, int]:
    return {name: os.fstat(fd).st_ino for name, fd in fds.items()}


def test_where_there_is_no_nursery_none_is_met_and_one_is_started_when_it_is_needed(house: House) -> None:
    async def papad(spawner: Spawner) -> None:
        assert (spawner.pid, spawner.held, spawner.withheld, spawner.absent) == (0, {}, set(), True)
        told = []
        spawner.on_new = lambda: told.append("new")
        spawner.on_change.append(lambda: told.append("changed"))
        await asyncio.gather(*(ensured(spawner) for _ in range(3)))
        assert told == ["new", "changed"]
        assert not spawner.absent
        assert os.stat(house.path).st_mode & 0o777 == 0o600

    house.run(papad)


def test_a_path_at_which_nobody_listens_any_more_is_taken_over(house: House) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(house.path)
        dead.listen()

    async def papad(spawner: Spawner) -> None:
        assert spawner.pid == 0
        await ensured(spawner)

    house.run(papad)


def test_the_next_papad_meets_the_same_nursery_and_gets_all_that_it_holds(house: House) -> None:
    files = {f"name-{number}": os.memfd_create("test") for number in range(500)}

    async def first(spawner: Spawner) -> None:
        await ensured(spawner)
        for name, fd in files.items():
            spawner.hold(name, fd)
        spawner.drop("name-7")
        await spawner.barrier()

    async def second(spawner: Spawner) -> None:
        assert {spawner.pid} == house.nurseries
        expected = inodes(files)
        del expected["name-7"]
        assert inodes(spawner.held) == expected
        assert spawner.withheld == set()

    house.run(first)
    house.run(second)
    house.run(second)
    parcel.close_all(list(files.values()))


def test_without_a_directory_of_its_own_a_papad_has_a_nursery_that_nobody_else_finds(house: House) -> None:
    house.store.runtime = None

    async def papad(spawner: Spawner) -> None:
        assert spawner.pid == 0
        await ensured(spawner)

    house.run(papad)
    house.run(papad)
    assert len(house.nurseries) == 2


def test_reports_wait_until_papad_begins(house: House) -> None:
    async def first(spawner: Spawner) -> None:
        await ensured(spawner)
        heard = hearing(spawner, "forked", "spawned")
        spawner.begin()
        spawn(spawner, 5, "/bin/true")
        await until(lambda: ("exited", 5) in heard, "it has ended")
        assert heard == [("forked", 5), ("spawned", 5), ("exited", 5)]
        spawn(spawner, 6, "/bin/true")
        spawner.on_report = lambda _, fds: parcel.close_all(fds)
        spawner.hold("a", 0)
        await spawner.barrier()

    async def second(spawner: Spawner) -> None:
        heard = hearing(spawner, "forked", "spawned", "exited")
        spawner.on_change.append(lambda: heard.append(("changed", 0)))
        spawn(spawner, 7, "/bin/true")
        await spawner.barrier()
        assert heard == []
        spawner.begin()
        assert heard == [("exited", 5), ("forked", 6), ("forked", 7), ("changed", 0)]
        await until(lambda: {("exited", 6), ("exited", 7)} <= set(heard), "both have ended")
        await spawner.barrier()

    async def third(spawner: Spawner) -> None:
        heard = hearing(spawner)
        spawner.begin()
        await spawner.barrier()
        assert heard == []

    house.run(first)
    house.run(second)
    house.run(third)


def test_what_there_is_no_room_for_is_withheld_and_comes_to_the_next_papad(house: House) -> None:
    files = {f"name-{number}": os.memfd_create("test") for number in range(300)}
    expected = inodes(files)

    async def first(spawner: Spawner) -> None:
        await ensured(spawner)
        hearing(spawner)
        spawner.begin()
        for name, fd in files.items():
            spawner.hold(name, fd)
        spawn(spawner, 5, "/bin/true")
        await spawner.barrier()

    async def short(spawner: Spawner) -> None:
        await spawner.meet()
        assert list(spawner.held) == list(expected)[parcel.MAX_FDS :]
        assert spawner.withheld == set(expected) - spawner.held.keys()
        assert inodes(spawner.held).items() <= expected.items()
        heard = hearing(spawner)
        spawner.begin()
        assert heard == [("forked", 5)]

    async def very_short(spawner: Spawner) -> None:
        await spawner.meet()
        assert spawner.held == {}
        assert spawner.withheld == set(expected)
        heard = hearing(spawner)
        spawner.begin()
        assert heard == [("forked", 5)]

    def limited(room: int, act: Callable[[Spawner], Awaitable[Any]]) -> Callable[[], None]:
        def child() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(open_fds()) + room, 4096))
            house.run(act, meet=False)

        return child

    async def last(spawner: Spawner) -> None:
        assert list(inodes(spawner.held).items()) == list(expected.items())
        assert spawner.withheld == set()

    house.run(first)
    parcel.close_all(list(files.values()))
    assert in_child(limited(100, short)) == 0
    assert in_child(limited(20, very_short)) == 0
    house.run(last)


def test_a_request_that_cannot_be_made_for_lack_of_descriptors_is_an_error(house: House) -> None:
    """It is long, so it needs one; nobody may wait for its answer."""

    async def papad(spawner: Spawner) -> None:
        await ensured(spawner)
        null = os.open(os.devnull, os.O_RDWR)
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_fds()) + 1, soft[1]))
        filling = []
        with contextlib.suppress(OSError):
            while True:
                filling.append(os.dup(null))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                request = {"id": 5, "args": ["x" * 20_000], "targets": [0, 1, 2], **WANTED}
                spawner.spawn(request, [null] * 3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, soft)
            parcel.close_all([null, *filling])

    house.run(papad)


def test_what_is_said_while_the_nursery_does_not_listen_is_done_later_in_its_order(house: House) -> None:
    async def papad(spawner: Spawner) -> None:
        await ensured(spawner)
        reader, writer = os.pipe()
        os.kill(spawner.pid, signal.SIGSTOP)
        for number in range(2000):
            spawner.hold(f"name-{number}", writer)
        assert spawner._queue, "the channel is full"
        for number in range(2000):
            spawner.drop(f"name-{number}")
        spawner.hold("last", reader)
        os.close(writer)
        await spawner.barrier()  # in vain, but it returns
        os.kill(spawner.pid, signal.SIGCONT)
        await until(lambda: not spawner._queue, "all is said")
        await spawner.barrier()
        assert select.select([reader], [], [], 0)[0] == [reader], "no writer is left"
        os.close(reader)

    async def next_papad(spawner: Spawner) -> None:
        assert list(spawner.held) == ["last"]

    house.run(papad)
    house.run(next_papad)


@not_yet_reaped
def test_when_the_nursery_is_lost_that_is_told_and_there_is_a_new_one(house: House) -> None:
    async def papad(spawner: Spawner) -> None:
        await ensured(spawner)
        told: list[int] = []
        spawner.begin()
        spawner.on_change.append(lambda: told.append(spawner.pid))
        lost = spawner.pid
        os.kill(lost, signal.SIGSTOP)
        passing = asyncio.ensure_future(spawner.barrier())
        await asyncio.sleep(0)
        os.kill(lost, signal.SIGKILL)
        await until(lambda: told, "the loss is told")
        assert told == [0]
        assert spawner.absent
        await asyncio.wait_for(passing, 0.5)
        await spawner.barrier()
        spawner.hold("a", 0)  # nobody does
        await ensured(spawner)
        assert told == [0, spawner.pid] != [0, lost]

    house.run(papad)


def test_a_nursery_that_dies_while_it_is_met_is_none(house: House) -> None:
    async def first(spawner: Spawner) -> None:
        await ensured(spawner)
        spawner.hold("a", 0)
        await spawner.barrier()
        os.kill(spawner.pid, signal.SIGSTOP)

    async def second(spawner: Spawner) -> None:
        (pid,) = house.nurseries
        meeting = asyncio.ensure_future(spawner.meet())
        await until(lambda: spawner._channel is not None, "it has called")
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(meeting, 10)
        assert (spawner.pid, spawner.absent) == (0, True)
        await ensured(spawner)
        assert spawner.pid != pid

    house.run(first)
    house.run(second, meet=False)


@not_yet_reaped
def test_a_nursery_that_cannot_be_started_is_an_error_for_all_who_wait(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def papad(spawner: Spawner) -> None:
        for program in ("/bin/false", "/no/such/program"):
            with monkeypatch.context() as patch:
                patch.setattr(sys, "executable", program)
                both = await asyncio.gather(spawner.ensure(), spawner.ensure(), return_exceptions=True)
            assert [type(each) for each in both] == [Error, Error]
        await ensured(spawner)

    house.run(papad)


@contextlib.asynccontextmanager
async def played(house: House) -> AsyncIterator[tuple[Spawner, socket.socket, Report, asyncio.Task[None]]]:
    """A papad that is meeting a nursery which the test plays: its end of the channel, and the hello that it got."""
    spawner = Spawner(house.store, 1024)  # type: ignore[arg-type]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(house.path)
        listener.listen()
        listener.setblocking(False)
        meeting = asyncio.create_task(spawner.meet())
        channel, _ = await asyncio.get_running_loop().sock_accept(listener)
    with channel:
        await until(lambda: select.select([channel], [], [], 0)[0], "hello is said")
        data, fds = parcel.receive(channel)
        hello = parcel.unpack(data, fds)
        assert hello["do"] == "hello"
        yield spawner, channel, hello, meeting
    await until(lambda: spawner.absent, "the nursery is gone")
    assert spawner.pid == 0


def test_a_nursery_that_dies_in_the_midst_of_its_answer_is_none_but_what_it_gave_is_kept(house: House) -> None:
    async def papad() -> None:
        async with played(house) as (spawner, channel, _, meeting):
            heard = hearing(spawner)
            parcel.send(channel, {"what": "hello", "pid": 7, "protocol": 2, "program": "", "state": 1})
            parcel.send(channel, {"what": "held", "names": ["a"]}, [0])
            parcel.send(channel, {"what": "exited", "id": 5, "code": 0, "time": 1.0})
            await until(lambda: spawner.held, "it has begun to answer")
            assert not meeting.done()
        await asyncio.wait_for(meeting, 10)
        assert list(spawner.held) == ["a"]
        parcel.close_all(list(spawner.held.values()))
        spawner.begin()
        assert heard == [("exited", 5)]

    with no_new_fds():
        asyncio.run(papad())


def test_the_last_words_of_a_nursery_are_heard_though_it_did_not_hear_ours(house: House) -> None:
    async def papad() -> None:
        async with played(house) as (spawner, channel, hello, meeting):
            heard = hearing(spawner)
            parcel.send(channel, {"what": "hello", "pid": 7, "protocol": 2, "program": "", "state": 1})
            parcel.send(channel, {"what": "synced", "number": hello["number"]})
            await asyncio.wait_for(meeting, 10)
            assert spawner.pid == 7
            spawner.begin()
            spawner.acknowledge(4, "exited")
            for id in range(1000, 1200):
                parcel.send(channel, {"what": "exited", "id": id, "code": 0, "time": 1.0})
        assert heard == [("exited", id) for id in range(1000, 1200)]

    with no_new_fds():
        asyncio.run(papad())


def test_the_answer_to_another_papads_hello_is_not_taken_for_ours(house: House) -> None:
    """What the nursery has yet to tell again would be taken for unknown to it."""

    async def papad() -> None:
        async with played(house) as (spawner, channel, hello, meeting):
            parcel.send(channel, {"what": "hello", "pid": 7, "protocol": 2, "program": "", "state": 1})
            parcel.send(channel, {"what": "synced", "number": 1})
            parcel.send(channel, {"what": "spawned", "id": 5})
            await until(lambda: spawner._early, "all that was said before is heard")
            assert not meeting.done()
            assert spawner.pid == 0
            parcel.send(channel, {"what": "synced", "number": hello["number"]})
            await asyncio.wait_for(meeting, 10)
            assert spawner.pid == 7

    with no_new_fds():
        asyncio.run(papad())


def test_one_that_does_not_run_yet_is_not_found_by_the_next_papad(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd may let it run only after that papad has started, which would wait for its answer."""
    monkeypatch.setattr(module, "python", lambda *_: ["/bin/sleep", "1000"])
    started: list[int] = []

    async def leaves_early(spawner: Spawner) -> None:
        ensuring = asyncio.ensure_future(spawner.ensure())
        await until(lambda: spawner._popen is not None and spawner._channel is not None, "it is being started")
        started.append(spawner._popen.pid)  # type: ignore[union-attr]
        ensuring.cancel()

    async def finds_none(spawner: Spawner) -> None:
        assert spawner.pid == 0
        assert os.listdir(tmp_path) == ["nursery.new"]

    house.run(leaves_early)
    try:
        house.run(finds_none)
    finally:
        os.kill(started[0], signal.SIGKILL)
        os.waitpid(started[0], 0)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))

    async def starts_its_own(spawner: Spawner) -> None:
        await spawner.ensure()
        assert os.listdir(tmp_path) == ["nursery"]

    house.run(starts_its_own)
