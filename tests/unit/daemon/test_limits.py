"""Limits: what there is much of, what runs out, what another version has left. Nothing is lost that can be kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from papad.client.connection import Client
from papad.daemon.commands.table import Tables
from papad.daemon.durable.store import Store
from papad.daemon.durable.systemd import Service
from papad.daemon.tables.sockets import specify as specify_socket
from papad.errors import Error
from tests.support.lives import Act, Lives, life, make, process_of, seen, until
from tests.support.papad import Daemon, Talk, in_child, open_fds, running_papad
from tests.support.waiting import wait_until

VALUES = 45_000
AHEAD = 500  # lines sent ahead of their answers


def sigkill(papad: Daemon) -> None:
    """Kill the daemon; returns once it is dead, so what answers next is another one."""
    old = papad.pid
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{old}"), "the daemon is dead")


def say(talk: Talk, lines: list[str]) -> list[str]:
    """The answers to lines that are sent ahead of them."""
    answers = []
    for start in range(0, len(lines), AHEAD):
        some = lines[start : start + AHEAD]
        talk.send("".join(f"{line}\n" for line in some))
        answers += [talk.until(b"\n> ").decode()[:-3] for _ in some]
    return answers


def test_45_000_values_each_set_twice_are_all_right_after_a_kill(tmp_path: Path) -> None:
    with running_papad(tmp_path) as papad:
        with papad.connect() as talk:
            for age in ("old", "new"):
                assert set(say(talk, [f"set v{number} {age}{number}" for number in range(VALUES)])) == {""}
        began = time.monotonic()
        sigkill(papad)
        assert papad.ask("get v7") == "new7"
        seconds = time.monotonic() - began
        print(f"papad answered again after {seconds:.2f} s")
        assert seconds < 20
        found = papad.ask("list values").splitlines()
        assert found == sorted(f"v{number} new{number}" for number in range(VALUES))


def limit_descriptors(papad: Daemon, limit: int) -> None:
    """For the daemon, its nursery, and so every daemon to come."""
    for pid in (papad.nursery, papad.pid):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))


def test_900_processes_that_have_ended_are_all_back_with_2_000_descriptors(tmp_path: Path) -> None:
    with running_papad(tmp_path) as papad:
        limit_descriptors(papad, 2000)
        with papad.connect() as talk:
            lines = [
                f"make process p{number} /bin/sh -c echo\\ {number};exit\\ {number % 200}" for number in range(900)
            ]
            assert all("pid=" in answer for answer in say(talk, lines))
        with Client(papad.path) as client:
            wait_until(lambda: all(each["closed"] for each in client.describe("processes")), "all have ended")
        sigkill(papad)
        assert len(papad.ask("list processes").splitlines()) == 900
        with papad.connect() as talk:
            assert talk.ask_line("watch processes *") == "Watching 900"
            records = talk.watch_to_end()
        found = {(kind, name): data for kind, name, data in records}
        assert len(records) == len(found)
        outputs = {("out", f"p{number}"): b"%d\n" % number for number in range(900)}
        codes = {("closed", f"p{number}"): number % 200 for number in range(900)}
        assert found == outputs | codes


def report_of(lives: Lives, descriptors: int, act: Act, logged: Path) -> Any:
    """As `Lives.report`, by a papad that may have so many descriptors; what it logs goes to a file."""

    async def telling(tables: Tables) -> None:
        logged.with_suffix(".told").write_text(json.dumps(await act(tables)))

    def papad() -> None:
        logging.getLogger("papad").addHandler(logging.FileHandler(logged))
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
        asyncio.run(life(lives.store, telling))
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        assert in_child(papad) == signal.SIGKILL, "papad failed by itself"
    finally:
        lives.next()
    return json.loads(logged.with_suffix(".told").read_text())


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """A fifo `gate` at which processes wait; called, it lets so many of them pass."""
    os.mkfifo(tmp_path / "gate")
    fd = os.open(tmp_path / "gate", os.O_RDWR | os.O_CLOEXEC)  # nobody waits in open(2)

    def pass_through(count: int) -> None:
        os.write(fd, b"\n" * count)

    yield pass_through
    os.close(fd)


def alive(pids: list[int]) -> list[int]:
    """Those of them that have not ended, and been reaped."""
    return [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


RUNNING, ENDED = 150, 40


def test_what_cannot_be_taken_back_for_lack_of_descriptors_is_kept_for_a_start_with_more(
    lives: Lives, gate: Callable[[int], None], tmp_path: Path
) -> None:
    script = f"echo a; read x <{tmp_path / 'gate'}; echo b; echo c >&2; exit 3"

    async def begin(tables: Tables) -> list[int]:
        running = [await make(tables, f"r{number}", script) for number in range(RUNNING)]
        ended = [await make(tables, f"e{number}", "echo over; exit 4") for number in range(ENDED)]
        await until(lambda: all(each.closed for each in ended), "some have ended")
        return [each.pid for each in running]

    async def poor(tables: Tables) -> list[Any]:
        kept = tables.processes._lifecycle.kept
        assert kept, "descriptors were not short"
        with pytest.raises(Error, match="is the name of a process that is kept"):
            await make(tables, min(kept), "exit 1")
        before = alive(pids)
        gate(RUNNING)
        await until(lambda: not alive(pids), "all have ended")
        return [sorted(kept), before, {each.name: seen(each) for each in tables.processes.select([])}]

    async def rich(tables: Tables) -> Any:
        await until(lambda: all(each.closed for each in tables.processes.select([])), "all are closed")
        return {each.name: [seen(each)[key] for key in ("out", "err", "code")] for each in tables.processes.select([])}

    pids = lives.report(begin)
    kept, before, listed = report_of(lives, 200, poor, tmp_path / "log")
    assert before == pids
    assert {f"e{number}" for number in range(ENDED)} <= listed.keys()
    assert len(kept) + len(listed) == RUNNING + ENDED
    logged = (tmp_path / "log").read_text()
    for name in kept:
        assert f"process {name} cannot be taken back now, and is kept for the next start: " in logged
    expected = {f"r{number}": ["a\nb\n", "c\n", 3] for number in range(RUNNING)}
    assert lives.report(rich) == expected | {f"e{number}": ["over\n", "", 4] for number in range(ENDED)}


# Another version. What a later one would have written is put into the store while no papad lives.


@contextlib.contextmanager
def stored(lives: Lives) -> Iterator[Store]:
    store = Store(os.dup(lives.store.stored["store"]))
    try:
        yield store
    finally:
        store.close()


def the_key(store: Store) -> str:
    (number,) = (number for number, _ in store.of("process:"))
    return f"process:{number}"


async def compacted(tables: Tables) -> None:
    """A papad that has nothing to do, but to write everything anew."""
    tables.processes._store.compact()


def test_a_field_that_a_later_papad_has_added_survives_this_one(
    lives: Lives, gate: Callable[[int], None], tmp_path: Path
) -> None:
    async def begin(tables: Tables) -> None:
        await make(tables, "x", f"echo a; read x <{tmp_path / 'gate'}; echo b; exit 3")
        tables.values.set("v", "1")
        tables.sockets.make("s", specify_socket({}))

    async def this(tables: Tables) -> Any:
        gate(1)
        process = process_of(tables, "x")
        await until(lambda: process.closed, "it is closed")
        tables.values.set("v", "2")
        assert [each.name for each in tables.sockets] == ["s"]
        return [seen(process)[key] for key in ("out", "code")]

    lives.live(begin)
    with stored(lives) as store:
        key = the_key(store)
        for each in (key, "socket:s"):
            spec = store.entries[each]["spec"] | {"colour": ["red"]}
            store.write(each, {"spec": spec, "mood": {"deep": 1}})
        store.write("value:v", {"mood": {"deep": 1}})
    assert lives.report(this) == ["a\nb\n", 3]
    lives.live(compacted)
    with stored(lives) as store:
        for each in (key, "socket:s"):
            assert store.entries[each]["spec"]["colour"] == ["red"]
            assert store.entries[each]["mood"] == {"deep": 1}
        assert store.entries["value:v"] == {"value": "2", "mood": {"deep": 1}}
        assert store.entries[key]["exit"][0] == 3


def test_a_kind_of_entry_that_a_later_papad_has_made_keeps_its_range_and_its_descriptor(lives: Lives) -> None:
    async def busy(tables: Tables) -> None:
        for number in range(5):
            process = await make(tables, "x", f"echo {number}")
            await until(lambda process=process: process.closed, "it is closed")  # type: ignore[misc]
            tables.processes.forget(process)

    lives.live(busy)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.write(writer, b"in the pipe")
    lives.store.hold("timer-1", reader)
    os.close(reader)
    with stored(lives) as store:
        start = store.allocate(100_000)
        os.pwrite(store.fd, b"in the range", start + 99_000)
        store.write("timer:x", {"range": [start, 100_000], "fds": ["timer-1"], "every": 5})
    lives.next()
    for act in (busy, compacted, busy):
        lives.live(act)
    with stored(lives) as store:
        assert store.entries["timer:x"] == {"range": [start, 100_000], "fds": ["timer-1"], "every": 5}
        assert os.pread(store.fd, 12, start + 99_000) == b"in the range"
    assert os.write(writer, b"!") == 1, "the pipe is open: no SIGPIPE"
    assert os.read(lives.store.kept["timer-1"], 100) == b"in the pipe!"
    os.close(writer)


WRITES = "i=0; while echo $i; do i=$((i + 1)); sleep 0.01; [ -e {stop} ] && exit 3; done; exit 99"


def test_a_process_that_only_a_later_papad_can_use_is_kept_with_its_output_and_its_pipes(
    lives: Lives, tmp_path: Path
) -> None:
    async def begin(tables: Tables) -> int:
        process = await make(tables, "x", WRITES.format(stop=tmp_path / "stop"))
        await until(lambda: seen(process)["out"], "it writes")
        return process.pid

    async def this(tables: Tables) -> list[int]:
        assert tables.processes.select([]) == []
        with pytest.raises(Error, match="x is the name of a process that is kept"):
            await make(tables, "x", "exit 1")
        other = await make(tables, "y", "echo y")
        await until(lambda: other.closed, "another process is of no concern to it")
        tables.processes.forget(other)
        await asyncio.sleep(0.1)  # in which it writes ten lines
        return alive([pid])

    async def ends(tables: Tables) -> None:
        (tmp_path / "stop").touch()
        await until(lambda: not alive([pid]), "it has ended")

    async def later(tables: Tables) -> dict[str, Any]:
        process = process_of(tables, "x")
        await until(lambda: process.closed, "it is closed")
        return seen(process)

    pid = lives.report(begin)
    with stored(lives) as store:
        key = the_key(store)
        spec = store.entries[key]["spec"]
        store.write(key, {"spec": {"command": spec["args"]}})
    for _ in range(2):
        assert lives.report(this) == [pid], "it was hit by SIGPIPE"
    lives.live(compacted)
    lives.live(ends)
    with stored(lives) as store:
        store.write(key, {"spec": spec})
    found = lives.report(later)
    assert found["code"] == 3
    numbers = found["out"].split()
    assert numbers == [str(number) for number in range(len(numbers))]
    assert len(numbers) > 10


# A nursery that has to end before a daemon comes: systemd stops the processes first, and only then starts papad.


@pytest.fixture
def orphans(lives: Lives) -> Callable[[], None]:
    """Processes `x` and `y`; called, it ends both and their nursery, while there is no daemon."""

    async def begin(tables: Tables) -> list[int]:
        pids = [(await make(tables, name, "exec sleep 600")).pid for name in ("x", "y")]
        return [*pids, tables.processes._spawner.pid]

    pids: list[int] = lives.report(begin)

    def end() -> None:
        for pid in (pids[-1], *pids[:-1]):
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not alive(pids[:-1]), "all have ended")
        wait_until(lambda: list(lives.store.runtime.glob("nursery.*.left")), "their nursery has, too")  # type: ignore[union-attr]

    return end


async def codes(tables: Tables) -> dict[str, int | None]:
    await until(lambda: all(each.closed for each in tables.processes.select([])), "all are closed")
    return {each.name: each.exit and each.exit[0] for each in tables.processes.select([])}


def test_exit_codes_outlive_a_nursery_that_ends_while_there_is_no_daemon(
    lives: Lives, orphans: Callable[[], None]
) -> None:
    orphans()
    for _ in range(2):
        assert lives.report(codes) == {"x": -15, "y": -15}
        assert lives.store.runtime is not None
        assert list(lives.store.runtime.glob("nursery.*")) == []


def test_exit_codes_of_what_is_kept_for_a_later_start_outlive_their_nursery_until_then(
    lives: Lives, orphans: Callable[[], None]
) -> None:
    with stored(lives) as store:
        (key,) = (f"process:{number}" for number, entry in store.of("process:") if entry["name"] == "x")
        spec = store.entries[key]["spec"]
        store.write(key, {"spec": {"command": spec["args"]}})
    orphans()
    for _ in range(2):
        assert lives.report(codes) == {"y": -15}
    with stored(lives) as store:
        store.write(key, {"spec": spec})
    for _ in range(2):
        assert lives.report(codes) == {"x": -15, "y": -15}


def test_what_was_erased_does_not_come_back_where_the_fd_store_did_not_let_go(lives: Lives) -> None:
    async def forgetful(tables: Tables) -> None:
        tables.sockets._homes._service.drop = lambda name: None  # type: ignore[method-assign]
        for name in ("a", "b"):
            tables.values.set(name, "1")
            tables.sockets.make(name, specify_socket({}))
        tables.values.set("a", "")
        await tables.sockets.remove(["a"])

    async def look(tables: Tables) -> list[list[str]]:
        return [list(tables.values), [each.name for each in tables.sockets]]

    lives.live(forgetful)
    assert {"socket-64-a", "socket-65-b"} <= lives.store.kept.keys()
    for _ in range(2):
        assert lives.report(look) == [["b"], ["b"]]
        assert [name for name in lives.store.kept if name.startswith("socket-")] == ["socket-65-b"]


def test_a_name_that_the_service_manager_could_not_be_told_to_drop_is_dropped_before_it_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it has two of that name, and which of them the next papad takes is up to it."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    service = Service()
    service.drop("socket-64-a")  # nobody is there
    fd = os.memfd_create("test")
    with pytest.raises(Error, match="systemd cannot be asked to keep this"):
        service.hold("socket-64-a", fd)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        for _ in range(2):
            service.hold("socket-64-a", fd)
        said = [sorted(manager.recv(4096).decode().splitlines()) for _ in range(3)]
    hold = ["FDNAME=socket-64-a", "FDPOLL=0", "FDSTORE=1"]
    assert said == [["FDNAME=socket-64-a", "FDSTOREREMOVE=1"], hold, hold]
    os.close(fd)


def test_what_a_later_papad_has_in_the_fd_store_is_not_taken_for_a_control_socket() -> None:
    names = ["papad.socket", "timer-1", "mount-64-x", "store", "staging-r", "web"]

    def papad() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(len(names)):
            os.dup2(null, 3 + number)
        pid, count = str(os.getpid()), str(len(names))
        os.environ.update(LISTEN_PID=pid, LISTEN_FDS=count, LISTEN_FDNAMES=":".join(names))
        service = Service()
        assert list(service.control) == [3, 8]
        assert service.stored == {"timer-1": 4, "mount-64-x": 5, "store": 6, "staging-r": 7}

    assert in_child(papad) == 0


def test_320_failing_commands_with_long_names_leak_no_descriptor(tmp_path: Path) -> None:
    with running_papad(tmp_path) as papad, papad.connect() as talk:
        assert "pid=" in talk.ask("make process first /bin/true")
        pids = papad.pid, papad.nursery
        wait_until(lambda: json.loads(talk.ask("describe processes first"))["closed"], "it has ended")

        def settled() -> list[set[int]] | None:
            """Which descriptors both have, once none comes or goes: those of `first` are let go of later."""
            found = [set(open_fds(pid)) for pid in pids]
            time.sleep(0.2)
            return found if found == [set(open_fds(pid)) for pid in pids] else None

        before = wait_until(settled, "nothing comes or goes")
        long = "/" + "n" * 17_000
        for number in range(320):
            assert talk.ask(f"make process p{number} {long}").startswith("Error: Bad command - ")
            assert talk.ask(f"make process {long[1:]}{number} /no/such").startswith("Error: Bad command - ")
        assert (papad.pid, papad.nursery) == pids
        wait_until(lambda: settled() == before, "both have what they had before")
        assert "pid=" in talk.ask("make process last /bin/true")
        assert len(talk.ask("list processes").splitlines()) == 2


def test_a_failing_command_with_a_long_name_is_answered_however_few_descriptors_are_left(tmp_path: Path) -> None:
    with running_papad(tmp_path) as papad, papad.connect() as talk:
        assert "pid=" in talk.ask("make process first /bin/true")
        wait_until(lambda: "running=False" in talk.ask("list processes first"), "it has ended")
        for pid in (papad.pid, papad.nursery):
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            used = len(open_fds(pid))
            for room in range(12):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + room, before[1]))
                assert talk.ask(f"make process x /{'n' * 17_000}").startswith("Error: ")
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert "pid=" in talk.ask("make process last /bin/true")


@contextlib.contextmanager
def no_memory_from(papad: Daemon, name: str, into: int) -> Iterator[None]:
    """Writes of the daemon into the ring of a process fail from a byte of its range on: no file may be longer."""
    (number,) = (fd for fd, what in open_fds(papad.pid).items() if "papad-store" in what)
    store = Store(os.open(f"/proc/{papad.pid}/fd/{number}", os.O_RDWR | os.O_CLOEXEC))
    (start,) = (entry["range"][0] for _, entry in store.of("process:") if entry["name"] == name)
    store.close()
    soft, hard = resource.prlimit(papad.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(papad.pid, resource.RLIMIT_FSIZE, (start + into, hard))
    try:
        yield
    finally:
        resource.prlimit(papad.pid, resource.RLIMIT_FSIZE, (soft, hard))


def test_a_page_of_a_ring_that_cannot_be_had_costs_only_that_output(
    tmp_path: Path, gate: Callable[[int], None]
) -> None:
    """The ring has 1 MiB, its header 4 KiB and its index 256 KiB; the limit is 8 KiB into its data."""
    limit = 4096 + (1 << 18) + 8192
    script = (
        f"echo before; read x <{tmp_path / 'gate'}; head -c 100000 /dev/zero; read x <{tmp_path / 'gate'}; echo after"
    )
    with running_papad(tmp_path) as papad, papad.connect() as talk, Client(papad.path) as client:
        talk.ask("set v 1")
        for name, text in (("a", "echo other; exec sleep 600"), ("b", script)):
            assert "pid=" in talk.ask(f"make process {name} /bin/sh -c " + text.replace(" ", "\\ "))

        def facts() -> dict[str, Any]:
            (found,) = client.describe("processes", "b")
            return found

        wait_until(lambda: facts()["captured"] == 7, "it waits")
        pid = papad.pid
        with no_memory_from(papad, "b", limit):
            gate(1)
            wait_until(lambda: facts()["lost"], "output is lost")
            assert talk.ask("set v 2") == ""
            wait_until(lambda: facts()["lost"] == 100_000 + 7 - 8192, "all of it was counted")
        gate(1)
        wait_until(lambda: facts()["closed"], "it has ended")
        assert papad.pid == pid
        sigkill(papad)
        assert papad.ask("get v") == "2"
        assert "running=True" in papad.ask("list processes a")
        with papad.connect() as again:
            assert again.ask_line("watch processes b") == "Watching 1"
            records = again.watch_to_end()
        kept = b"".join(data for _, _, data in records if isinstance(data, bytes))
        assert kept == b"before\n" + bytes(8192 - 7) + b"after\n"
        assert ("closed", "b", 0) in records
