"""The one way to start, which is always a recovery: papads that are killed, and what the next one makes of it.

Each papad here is a forked child that puts the kernel together as main does, works on it, and kills itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from papad.daemon.commands.table import Tables
from papad.daemon.delivery.watch import Watch
from papad.daemon.durable import parcel
from papad.daemon.durable import store as store_module
from papad.daemon.output.journal import Journal
from papad.daemon.tables.launch import LookedUp, specify
from papad.daemon.tables.process import IllegalTransition, State
from papad.daemon.tables.sockets import specify as specify_socket
from papad.errors import Error
from tests.support.lives import Act, Lives, life, make, output, process_of, seen, until
from tests.support.papad import dies_at
from tests.support.waiting import wait_until

CALLS = (
    (socket, "send_fds"),
    (socket.socket, "recvmsg"),
    (os, "splice"),
    (os, "ftruncate"),
    (os, "pipe2"),
    (os, "memfd_create"),
    (os, "pwrite"),
    (store_module, "_punch"),
)


def closing(name: str) -> Act:
    """Wait for the close of a process; what is then known of it."""

    async def act(tables: Tables) -> dict[str, Any]:
        process = process_of(tables, name)
        await until(lambda: process.closed, f"{name} is closed")
        return seen(process)

    return act


STATES = {
    # name: (script before and after the gate, options, what is captured, exit code)
    "running": ("echo a; echo b >&2; read x <{gate}; echo c; exit 3", {}, {"out": "a\nc\n", "err": "b\n"}, 3),
    "ended": ("echo a; echo b >&2; exit 4", {}, {"out": "a\n", "err": "b\n"}, 4),
    "killed": ("echo a; kill -9 $$", {}, {"out": "a\n", "err": ""}, -9),
    "joined": ("echo a; read x <{gate}; echo b >&2", {"stderr": "stdout"}, {"out": "a\nb\n", "err": ""}, 0),
    "stdout=0": ("echo a; read x <{gate}; echo b >&2; exit 1", {"stdout": 0}, {"out": "", "err": "b\n"}, 1),
    "options": (
        "umask; ulimit -n; read x <{gate}; exit 2",
        {"umask": 0o27, "nice": 3, "stdin": "/dev/zero", "rlimit.": {"nofile": "64:128"}, "login_env": True},
        {"out": "0027\n64\n", "err": ""},
        2,
    ),
    "bufsize=0": ("echo a; read x <{gate}; exit 5", {"bufsize": 0}, {"out": "", "err": ""}, 5),
    "bufsize=3": ("echo abc; read x <{gate}; echo def; exit 6", {"bufsize": 3}, {"out": "f\n", "err": ""}, 6),
    "grandchild": ("(read x <{gate}; echo late) & echo a; exit 7", {}, {"out": "a\nlate\n", "err": ""}, 7),
}


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("state", STATES)
def test_a_process_in_any_state_is_back_after_a_kill_with_every_byte_and_its_exit_code(
    lives: Lives, tmp_path: Path, state: str, times: int
) -> None:
    script, options, captured, code = STATES[state]
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    async def begin(tables: Tables) -> list[Any]:
        process = await make(tables, state, script.format(gate=gate), **options)
        return [process.pid, process.started, process.ticks]

    async def again(tables: Tables) -> list[Any]:
        process = await make(tables, state, script.format(gate=gate), **options)  # the same spec: the same process
        return [process.pid, process.started, process.ticks, process.name]

    pid, started, ticks = lives.report(begin)
    assert ticks > 0
    for _ in range(times):
        assert lives.report(again) == [pid, started, ticks, state]
    if "{gate}" in script:
        gate.write_text("go\n")
    wait_until(lambda: dead(pid), "it has ended while no papad was there")
    found = lives.report(closing(state))
    assert found == {**captured, "code": code, "pid": pid, "started": started}
    assert lives.report(closing(state)) == found  # and once more, from the record of its end


def dead(pid: int) -> bool:
    """Whether it has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_what_was_acknowledged_does_not_come_again(lives: Lives) -> None:
    async def acknowledge(tables: Tables) -> str:
        process = await make(tables, "x", "echo one; echo two; exit 2")
        await until(lambda: process.closed, "it is closed")
        assert process.ring is not None
        process.ring.acknowledge(0, 4)
        return output(process)["out"]

    async def forget(tables: Tables) -> str:
        text = output(process_of(tables, "x"))["out"]
        tables.processes.forget(process_of(tables, "x"))
        return text

    async def lines(tables: Tables) -> list[str]:
        return [str(each) for each in tables.processes.select([])]

    assert lives.report(acknowledge) == "two\n"
    assert lives.report(forget) == "two\n"
    assert lives.report(lines) == []


def test_a_process_removed_while_it_ran_is_still_drained_and_then_forgotten(lives: Lives, tmp_path: Path) -> None:
    gate, done = tmp_path / "gate", tmp_path / "done"
    os.mkfifo(gate)

    async def remove(tables: Tables) -> None:
        await make(tables, "x", f"read x <{gate}; seq 100000 && echo unharmed >{done}; exit 3")
        tables.processes.remove(["x"])

    async def drained(tables: Tables) -> list[str]:
        await until(lambda: not [str(each) for each in tables.processes.select([])], "it is forgotten")
        return [str(each) for each in tables.processes.select([])]

    lives.live(remove)
    gate.write_text("go\n")
    assert lives.report(drained) == []
    assert done.read_text() == "unharmed\n"


def test_values_sockets_and_the_bytes_in_a_backlog_are_back(lives: Lives) -> None:
    async def begin(tables: Tables) -> list[Any]:
        tables.values.set("a", "one  two caf\u00e9")
        tables.values.set("gone", "x")
        tables.values.set("gone", "")
        tables.values.set("large", "x" * (3 << 20))
        made = tables.sockets.make("web", specify_socket({}))
        return [tables.values.lines([]), str(made), os.fstat(made.sock.fileno()).st_ino]

    async def after(tables: Tables) -> list[Any]:
        made = tables.sockets.get("web")
        assert made is not None
        return [tables.values.lines([]), str(made), os.fstat(made.sock.fileno()).st_ino]

    assert lives.report(begin) == lives.report(after) == lives.report(after)


@pytest.mark.parametrize("alive", [False, True], ids=["nursery killed", "nursery alive"])
def test_exit_codes_of_those_who_end_while_nobody_is_there(lives: Lives, tmp_path: Path, alive: bool) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    async def begin(tables: Tables) -> int:
        await make(tables, "x", f"echo before; read x <{gate}; echo after; exit 9")
        return tables.processes._spawner.pid

    nursery = lives.report(begin)
    if not alive:
        os.kill(nursery, signal.SIGKILL)
        wait_until(lambda: dead(nursery), "the nursery is dead")
    gate.write_text("go\n")
    found = lives.report(closing("x"))
    if alive:  # else the pipe had nobody any more, and is gone with what was in it
        assert found["out"] == "before\nafter\n"
    assert found["code"] == 9 or (not alive and found["code"] == 256)

    async def new(tables: Tables) -> int:
        await make(tables, "y", "exit 1")
        return tables.processes._spawner.pid

    assert (lives.report(new) == nursery) == alive
    assert lives.report(closing("y"))["code"] == 1


def test_after_both_were_killed_a_process_that_runs_is_captured_on_to_the_byte(lives: Lives, tmp_path: Path) -> None:
    gates = [tmp_path / name for name in ("x", "y")]
    for gate in gates:
        os.mkfifo(gate)

    async def begin(tables: Tables) -> int:
        await make(tables, "x", f"echo before; read x <{gates[0]}; seq 20000; echo err >&2; exit 9")
        process = await make(tables, "y", f"(echo $$; read x <{gates[1]}; echo late) & exit 3")
        await until(lambda: process.exit is not None, "y has ended, but for its grandchild")
        return tables.processes._spawner.pid

    async def after(tables: Tables) -> list[Any]:
        running = [process_of(tables, name) for name in ("x", "y")]
        for gate in gates:
            await asyncio.to_thread(gate.write_text, "go\n")
        await until(lambda: all(process.closed for process in running), "both are closed")
        return [seen(process) for process in running]

    nursery = lives.report(begin)
    os.kill(nursery, signal.SIGKILL)
    wait_until(lambda: dead(nursery), "the nursery is dead")
    x, y = lives.report(after)
    assert x["out"] == "before\n" + "".join(f"{number}\n" for number in range(1, 20001))
    assert (x["err"], x["code"] in (9, 256)) == ("err\n", True)
    assert (y["out"].splitlines()[-1], y["code"]) == ("late", 3)


@pytest.mark.parametrize("offset", range(4))
def test_killed_at_any_step_of_a_session_no_byte_and_no_exit_code_is_lost(lives: Lives, offset: int) -> None:
    """The client does as clients do: what was not answered it asks again."""
    script = "echo out; echo err >&2; exit 7"

    async def session(tables: Tables) -> None:
        tables.values.set("v", "1")
        process = await make(tables, "x", script)
        tables.values.set("v", "2")
        await until(lambda: process.closed, "x is closed")
        tables.values.set("v", "")

    async def after(tables: Tables) -> list[Any]:
        process = await make(tables, "x", script)
        await until(lambda: process.closed, "x is closed")
        found = seen(process)
        tables.processes.forget(process)
        return [found["out"], found["err"], found["code"], tables.values.get("v") in ("", "1", "2")]

    step = offset
    while dies_at(step, CALLS, lambda: asyncio.run(life(lives.store, session))):
        lives.next()
        assert lives.report(after) == ["out\n", "err\n", 7, True], f"killed at step {step}"
        step += 4
    lives.next()
    assert lives.report(after) == ["out\n", "err\n", 7, True]
    assert step > 60


@pytest.mark.parametrize("script", ["echo new; exit 7", "/no/such/thing"], ids=["starts", "does not start"])
@pytest.mark.parametrize("offset", range(3))
def test_killed_at_any_step_of_again_either_the_old_or_the_new_one_is_there(
    lives: Lives, offset: int, script: str
) -> None:
    args = ["/bin/sh", "-c", script] if "exit" in script else [script]

    async def old(tables: Tables) -> None:
        process = await make(tables, "x", "echo old; exit 3")
        await until(lambda: process.closed, "it is closed")

    async def again(tables: Tables) -> None:
        spec = specify({"env.": {"PATH": "/bin"}}, args)
        with contextlib.suppress(Error):
            await tables.processes.make("x", spec, again=True)

    async def after(tables: Tables) -> list[Any]:
        await until(lambda: not tables.processes._next, "the new one has started, or has not")
        process = process_of(tables, "x")
        await until(lambda: process.closed, "x is closed")
        found = [output(process)["out"], process.exit and process.exit[0]]
        tables.processes.forget(process)
        await until(lambda: not list(tables.processes._lifecycle), "nothing is left of either")
        return found

    step, found = offset, []
    lives.live(old)
    while dies_at(step, CALLS, lambda: asyncio.run(life(lives.store, again))):
        lives.next()
        found.append(lives.report(after))
        assert found[-1] in (["old\n", 3], ["new\n", 7]), f"killed at step {step}"
        lives.live(old)
        step += 3
    lives.next()
    found.append(lives.report(after))
    assert found[0] == ["old\n", 3]
    assert found[-1] == (["new\n", 7] if "exit" in script else ["old\n", 3])
    assert len(found) > 10


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), Error("papad remembers enough")], ids=lambda error: type(error).__name__
)
def test_a_process_that_cannot_be_recorded_as_forked_does_not_begin(
    lives: Lives, tmp_path: Path, error: Exception
) -> None:
    async def act(tables: Tables) -> list[Any]:
        store = tables.processes._store
        write = store.write

        def failing(key: str, values: Any) -> None:
            if "pid" in values:
                raise error
            write(key, values)

        store.write = failing  # type: ignore[method-assign]
        with pytest.raises(type(error)):
            await asyncio.wait_for(make(tables, "x", f"touch {tmp_path}/began"), 20)
        await until(lambda: len(tables.processes) == 0, "nothing is left of it")
        store.write = write  # type: ignore[method-assign]
        process = await make(tables, "x", "exit 5")
        await until(lambda: process.closed, "the next is closed")
        return [process.exit and process.exit[0], (tmp_path / "began").exists()]

    assert lives.report(act) == [5, False]


def test_a_process_that_this_version_cannot_use_is_kept_and_leaves_the_others_alone(lives: Lives) -> None:
    async def begin(tables: Tables) -> None:
        for name in ("a", "b"):
            await make(tables, name, "echo hello; exit 1")
        store = tables.processes._store
        for key, fields in odd.items():
            store.write(key, fields)

    async def names(tables: Tables) -> list[Any]:
        await until(lambda: all(each.closed for each in tables.processes.select([])), "all are closed")
        with pytest.raises(Error, match="bad-spec is the name of a process that is kept"):
            await make(tables, "bad-spec", "exit 0")
        kept = {key: tables.processes._store.entries[key] for key in odd}
        return [[each.name for each in tables.processes.select([])], kept]

    odd = {
        "process:7": {"name": "no-spec"},
        "process:nonsense": {"name": "x"},
        "process:8": {"name": "bad-spec", "spec": {"colour": "red"}},
        "process:9": {"name": "no-ring", "spec": {"args": [], "env": {}, "rlimits": {}}, "range": [1 << 40, 8192]},
    }
    lives.live(begin)
    for _ in range(2):
        assert lives.report(names) == [["a", "b"], odd]


def test_spawned_without_forked_is_not_taken_for_a_start(lives: Lives) -> None:
    """It is left with the nursery, which tells all of it again to the next papad."""

    async def act(tables: Tables) -> list[Any]:
        await make(tables, "first", "exit 0")  # there is a nursery
        process = tables.processes._begin("x", specify({}, ["/bin/sleep", "60"]), LookedUp())
        acknowledged: list[str] = []
        spawner = tables.processes._spawner
        acknowledge = spawner.acknowledge

        def noted(id: int, what: str) -> None:
            acknowledged.extend([what] if id == process.id else [])
            acknowledge(id, what)

        spawner.acknowledge = noted  # type: ignore[method-assign]
        tables.processes._lifecycle._reported({"id": process.id, "what": "spawned"}, [])
        before = process.state.value, process.listed, list(acknowledged)
        with pytest.raises(IllegalTransition):
            await asyncio.wait_for(tables.processes.make("x", process.spec), 20)
        await until(lambda: process.listed, "it has started all the same")
        return [*before, process.pid > 0, acknowledged]

    assert lives.report(act) == ["begun", False, [], True, ["forked", "spawned"]]


def test_a_watch_of_a_removed_process_ends_with_it(lives: Lives) -> None:
    async def act(tables: Tables) -> list[Any]:
        process = await make(tables, "x", "exec sleep 60")
        tables.processes.remove(["x"])
        watch = Watch(tables.processes, tables.processes.select(["x"]))
        before = len(watch)
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: process.state is State.GONE, "nothing is left of it")
        watch.acknowledge()
        return [before, len(watch), watch.batch()]

    assert lives.report(act) == [1, 0, []]


def test_a_forgotten_process_is_recorded_as_that_once(lives: Lives) -> None:
    """However much its grandchild writes."""

    async def act(tables: Tables) -> list[Any]:
        process = await make(tables, "x", "(while :; do echo x; done) & exit 0")
        await until(lambda: process.exit is not None, "it has ended")
        drained: list[int] = []
        capture = tables.processes._lifecycle._capture
        drain = capture.drain
        capture.drain = lambda fd: drained.append(drain(fd)) or drained[-1]  # type: ignore[func-returns-value,method-assign]
        tables.processes.remove(["x"])
        await until(lambda: drained, "its grandchild's output is drained")
        length = tables.processes._store._length
        await until(lambda: len(drained) > 100, "more of it")
        found = [process.state.value, tables.processes._store._length - length]
        os.killpg(process.pid, signal.SIGKILL)
        await until(lambda: process.state is State.GONE, "nothing is left of it")
        return found

    assert lives.report(act) == ["forgotten", 0]


def test_lines_of_both_streams_reach_a_journal_that_was_busy_with_one_of_them(lives: Lives, tmp_path: Path) -> None:
    """What is captured of the other one meanwhile does not make papad forget the first."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    count = 2000  # more than a socket holds

    async def act(tables: Tables) -> list[int]:
        lifecycle = tables.processes._lifecycle
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as journald:
            journald.bind(str(tmp_path / "journal"))
            lifecycle._journal.close()
            lifecycle._journal = Journal(str(tmp_path / "journal"))
            script = f"i=0; while [ $i -lt {count} ]; do echo $i; i=$((i+1)); done; read x <{gate}; echo bad >&2; exec sleep 60"
            process = await make(tables, "x", script, journal=True)
            assert process.ring is not None
            await until(lambda: output(process)["out"].endswith(f"{count - 1}\n"), "all is captured")
            assert process.id in lifecycle._waiting
            lines: list[bytes] = []

            def taken() -> int:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        entry = journald.recv(1 << 16)  # it begins with the message, and that with its size
                        lines.append(entry[16 : 16 + int.from_bytes(entry[8:16], "little")])
                return len(lines)

            gate.write_text("go\n")
            select.select([process.pipes[1]], [], [], 10)  # without a turn of the loop: then both are ready at once
            assert taken() < count
            await until(lambda: taken() > count, "the journal has all lines")
            os.killpg(process.pid, signal.SIGKILL)
            await until(lambda: process.closed, "it is closed")
            assert sorted(lines) == sorted([b"bad", *(b"%d" % number for number in range(count))])
            return [process.ring.state.unforwarded, len(lifecycle._waiting)]

    assert lives.report(act) == [0, 0]


def test_whoever_waits_for_a_process_hears_of_a_report_that_its_state_does_not_allow(lives: Lives) -> None:
    async def act(tables: Tables) -> str:
        lifecycle = tables.processes._lifecycle
        spawner = lifecycle._spawner

        def wrong(report: parcel.Record, fds: list[int]) -> None:
            parcel.close_all(fds)
            lifecycle._reported({**report, "what": "spawned"}, [])

        spawner.on_report = wrong
        with pytest.raises(IllegalTransition, match="cannot become running: it is begun"):
            await asyncio.wait_for(make(tables, "web", "exit 0"), 20)
        return "told"

    assert lives.report(act) == "told"
