"""What a process, in whatever state it is, has left after any part of papad was restarted, killed, or stopped."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.support.waiting import wait_until
from tests.system.machine import Machine
from tests.system.papad import SCOPES, TOOLS, USER, Papad, field, install, pid_of, systemd_version
from tests.system.trees import tree

PYTHON = "/usr/bin/python3"


def restarted(papad: Papad) -> None:
    papad.restart()


def killed(papad: Papad) -> None:
    papad.wait_for_new(papad.sigkill())


def stopped_and_started(papad: Papad) -> None:
    papad.systemctl("stop", "papad.service")
    papad.systemctl("start", "papad.service")


def fd_store_lost(papad: Papad) -> None:
    papad.systemctl("stop", "papad.service")
    forget_fd_store(papad)
    papad.systemctl("start", "papad.service")


def reexecuted(papad: Papad) -> None:
    papad.systemctl("daemon-reexec")
    killed(papad)


def nursery_killed(papad: Papad) -> None:
    old = nursery(papad)
    papad.machine.run("kill", "-KILL", str(old))
    wait_until(lambda: nursery(papad) not in (0, old), "papad has a new nursery")


def nursery_killed_then_papad(papad: Papad) -> None:
    """The new nursery has what papad gave it, and has been asked for nothing."""
    nursery_killed(papad)
    killed(papad)


def both_killed(papad: Papad) -> None:
    old = papad.main_pid()
    papad.machine.run("kill", "-KILL", str(nursery(papad)), str(old))
    papad.wait_for_new(old)


HOWS = (
    restarted,
    killed,
    stopped_and_started,
    fd_store_lost,
    reexecuted,
    nursery_killed,
    nursery_killed_then_papad,
    both_killed,
)
LOSE_NURSERY = (nursery_killed, nursery_killed_then_papad, both_killed)
LINUX_KEEPS_CODES = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 15)


def nursery(papad: Papad) -> int:
    """The nursery that papad has now; 0 while it has none."""
    pid: int = json.loads(papad.ask("describe server"))["nursery"]
    return pid


def with_nursery(papad: Papad) -> None:
    """Wait until there is a nursery, which papad starts once it has something to hold."""
    wait_until(lambda: nursery(papad), "papad has a nursery")


def forget_fd_store(papad: Papad) -> None:
    """Let systemd drop what it holds for a papad that is stopped. Before version 254 the stop has done so."""
    if systemd_version(papad.machine) >= 254:
        papad.systemctl("clean", "--what=fdstore", "papad.service")


@dataclass(frozen=True)
class State:
    """A process in some state: how it is made, brought there, and what must come of it afterwards."""

    command: str
    records: list[tuple[str, str]]
    """What a watcher gets after it was told to go on, `closed` with the code last."""
    ended: bool = False


HOLD = f"{PYTHON} {TOOLS}/hold.py"
STATES = {
    "running": State(f"{HOLD} 5", [("out", "before\nafter\n"), ("err", "error\n"), ("closed", "5")]),
    "ended": State("/bin/sh -c echo\\ gone;exit\\ 3", [("out", "gone\n"), ("closed", "3")], ended=True),
    "killed by a signal": State("/bin/sh -c kill\\ -9\\ $$", [("closed", "-9")], ended=True),
    "no stdout": State(f"stdout=0 {HOLD} 0", [("err", "error\n"), ("closed", "0")]),
    "stderr to stdout": State(f"stderr=stdout {HOLD} 0", [("out", "before\nerror\nafter\n"), ("closed", "0")]),
    "no buffer": State(f"bufsize=0 {HOLD} 1", [("closed", "1")]),
    "small buffer": State("bufsize=4 /bin/sh -c echo\\ 123456", [("out", "56\n"), ("closed", "0")], ended=True),
    "grandchild holds the pipe": State(
        f"{HOLD} 7 grandchild", [("out", "before\nafter\n"), ("err", "error\n"), ("closed", "7")]
    ),
}


def watched(papad: Papad, name: str) -> list[list[str]]:
    """All records of a process, watched to its end."""
    records: list[list[str]] = json.loads(papad.machine.out(PYTHON, f"{TOOLS}/watch.py", name))
    return records


@pytest.fixture(autouse=True)
def unheld(machine: Machine) -> None:
    """No process has begun, or been told to go on."""
    machine.run("rm", "-f", "/run/hold.started", "/run/hold.go")


def joined(records: list[list[str]]) -> list[tuple[str, str]]:
    """The output of each stream in one piece, and the end."""
    streams: dict[str, str] = {}
    for kind, _, data in records:
        streams[kind] = streams.get(kind, "") + data
    return [(kind, streams[kind]) for kind in ("out", "err", "closed") if kind in streams]


@pytest.fixture(params=HOWS, ids=lambda how: how.__name__)
def interrupt(request: pytest.FixtureRequest) -> Callable[[Papad], None]:
    how: Callable[[Papad], None] = request.param
    return how


@pytest.mark.parametrize("name", STATES)
def test_a_process_goes_on(papad: Papad, interrupt: Callable[[Papad], None], name: str) -> None:
    state = STATES[name]
    made = papad.ask(f"make process p {state.command}")
    assert "running=" in made, made
    if state.ended:
        wait_until(lambda: "running=False" in papad.ask("list processes p"), "it has ended")
    else:
        wait_until(lambda: papad.machine.root("/run/hold.started").exists(), "it has begun")
    interrupt(papad)
    now = papad.ask("list processes p")
    assert [field(now, key) for key in ("pid", "started")] == [field(made, key) for key in ("pid", "started")]
    assert field(now, "running") == str(not state.ended)
    papad.machine.write("/run/hold.go", "")
    records = state.records
    if interrupt in LOSE_NURSERY and not state.ended and not LINUX_KEEPS_CODES:
        records = [*records[:-1], ("closed", "256")]
    assert joined(watched(papad, "p")) == records
    assert papad.ask("list processes p") == ""
    papad.ask("set v 1")
    with_nursery(papad)
    interrupt(papad)
    assert papad.ask("list processes p") == ""


def test_what_was_acknowledged_does_not_come_again(papad: Papad, interrupt: Callable[[Papad], None]) -> None:
    papad.ask(f"make process p {HOLD} 0")
    wait_until(lambda: papad.machine.root("/run/hold.started").exists(), "it has begun")
    answers = papad.talk("watch processes p\nq")
    assert "before\n" in answers[0]
    interrupt(papad)
    papad.machine.write("/run/hold.go", "")
    assert "before" not in dict(joined(watched(papad, "p")))["out"]


def test_what_a_watcher_did_not_acknowledge_comes_again(papad: Papad, interrupt: Callable[[Papad], None]) -> None:
    papad.ask(f"make process p {HOLD} 0")
    wait_until(lambda: papad.machine.root("/run/hold.started").exists(), "it has begun")
    script = f"import sys; sys.path.insert(0, '{TOOLS}'); import talk; t = talk.Talk(); t.socket.sendall(b'watch processes p\\n'); "
    script += "data = b''\nwhile not data.endswith(b'] '): data += t.socket.recv(4096)\nprint(data, flush=True)\nsys.stdin.read()"
    with papad.machine.running(PYTHON, "-c", script) as watcher:
        assert watcher.stdout is not None
        assert "before" in watcher.stdout.readline()
        interrupt(papad)
    papad.machine.write("/run/hold.go", "")
    code = "256" if interrupt in LOSE_NURSERY and not LINUX_KEEPS_CODES else "0"
    assert joined(watched(papad, "p")) == [("out", "before\nafter\n"), ("err", "error\n"), ("closed", code)]


def test_a_removed_process_stays_removed_and_is_forgotten(papad: Papad, interrupt: Callable[[Papad], None]) -> None:
    papad.ask(f"make process p {HOLD} 0")
    wait_until(lambda: papad.machine.root("/run/hold.started").exists(), "it has begun")
    papad.ask("remove processes p")
    interrupt(papad)
    assert "running=True" in papad.ask("list processes p")
    papad.machine.write("/run/hold.go", "")
    wait_until(lambda: papad.ask("list processes p") == "", "it is forgotten")


def test_an_end_while_papad_is_down_is_told(papad: Papad) -> None:
    """The nursery keeps the exit code, and what is in the pipes, until there is a papad to take it."""
    papad.ask(f"make process p {HOLD} 42")
    wait_until(lambda: papad.machine.root("/run/hold.started").exists(), "it has begun")
    papad.systemctl("stop", "papad.service")
    papad.machine.write("/run/hold.go", "")
    wait_until(lambda: len(papad.scope_pids()) == 1, "it has ended")
    assert joined(watched(papad, "p")) == [("out", "before\nafter\n"), ("err", "error\n"), ("closed", "42")]


def test_an_end_while_both_are_dead_is_told_as_far_as_it_is_known(papad: Papad) -> None:
    """What was captured is there. What came later went with the pipe, and the code went with the nursery."""
    papad.ask(f"make process p {HOLD} 42")
    wait_until(lambda: papad.machine.root("/run/hold.started").exists(), "it has begun")
    wait_until(lambda: output_bytes(papad, "p") == len("before\nerror\n"), "its output is captured")
    pids = [nursery(papad), papad.main_pid(), pid_of(papad, "p")]
    papad.machine.run("kill", "-KILL", *map(str, pids))
    papad.wait_for_new(pids[1])
    assert joined(watched(papad, "p")) == [("out", "before\n"), ("err", "error\n"), ("closed", "256")]


def output_bytes(papad: Papad, name: str) -> int:
    """How much of a process's output papad holds."""
    size: int = json.loads(papad.ask(f"describe processes {name}"))["buffered"]
    return size


def test_the_loss_of_both_homes_is_owned_up_to(papad: Papad) -> None:
    papad.talk("make socket s", "set v 1", f"make process p {HOLD} 42")
    since = papad.machine.cursor()
    papad.systemctl("stop", "papad.service")
    papad.systemctl("stop", SCOPES)
    forget_fd_store(papad)
    assert papad.talk("list sockets", "list values", "list processes") == ["", "", ""]
    journal = papad.machine.journal(since, "-u", "papad.service", "-ocat")
    lost = re.findall("lost over the stop of papad: (.*)", journal)
    assert [re.sub(r"pid \d+", "pid N", each) for each in sorted(lost)] == ["process p (pid N)", "socket s", "value v"]
    papad.restart()
    assert papad.machine.journal(since, "-u", "papad.service").count("lost over the stop") == 3


@pytest.mark.parametrize("how", ["started only", "enabled", "disabled at the end"])
def test_a_stop_of_the_socket_loses_nothing_either(papad: Papad, how: str) -> None:
    """systemd unloads what nothing refers to, with its FD store; but the scope of the nursery refers to papad."""
    if how != "started only":
        papad.systemctl("enable", "papad.socket")
    try:
        for what in ("set v 1", "make process p /bin/sleep 600"):
            papad.ask(what)
            with_nursery(papad)
            before = papad.talk("list values", "list processes")
            if how == "disabled at the end":
                papad.systemctl("disable", "--now", "papad.socket")
            else:
                papad.systemctl("stop", "papad.socket", "papad.service")
            wait_until(lambda: papad.show("ActiveState") == "inactive", "papad has ended")
            papad.systemctl("start", "papad.socket")
            assert papad.talk("list values", "list processes") == before
    finally:
        papad.systemctl("disable", "papad.socket")


def test_a_users_own_papad_loses_nothing_either(own: Papad, interrupt: Callable[[Papad], None]) -> None:
    own.machine.run("chmod", "1777", "/run")
    own.talk(*(f"set v{number} {number}" for number in range(900)))
    own.talk("make socket s", f"make process p {HOLD} 5")
    wait_until(lambda: own.machine.root("/run/hold.started").exists(), "it has begun")
    before = own.talk("list values", "list sockets", "list processes")
    interrupt(own)
    assert own.talk("list values", "list sockets", "list processes") == before
    own.machine.write("/run/hold.go", "")
    script = f"import sys; sys.path.insert(0, '{TOOLS}'); import talk; print(talk.Talk('{own.where}').watch('p'))"
    records = own.machine.out(PYTHON, "-c", script, user=own.user)
    code = "256" if interrupt in LOSE_NURSERY and not LINUX_KEEPS_CODES else "5"
    assert [text in records for text in ("before", "after", "error", f"b'{code}'")] == [True] * 4


def test_the_end_of_a_users_manager_ends_what_is_theirs_and_that_is_owned_up_to(own: Papad) -> None:
    """Its processes are in its scopes, and it is the one that keeps the FD store."""
    own.machine.run("chmod", "1777", "/run")
    own.talk("make socket s", "set v 1", f"make process p {HOLD} 42")
    wait_until(lambda: own.machine.root("/run/hold.started").exists(), "it has begun")
    pid = pid_of(own, "p")
    since = own.machine.cursor()
    own.machine.run("systemctl", "restart", f"user@{own.machine.out('id', '-u', USER)}.service")
    assert own.machine.run("test", "-e", f"/proc/{pid}", check=False).returncode
    own.systemctl("start", "papad.socket")
    assert own.talk("list sockets", "list values", "list processes") == ["", "", ""]
    lost = re.findall("lost over the stop of papad: (.*)", own.machine.journal(since, "-ocat"))
    assert sorted(lost) == [f"process p (pid {pid})", "socket s", "value v"]


def test_a_soft_reboot_ends_processes_and_loses_nothing_else(machine: Machine) -> None:
    """systemd hands the FD store of an enabled service on; the nursery ends with its children."""
    if systemd_version(machine) < 254:
        pytest.skip("systemd knows soft-reboot from version 254 on")
    with Machine(tree(machine.name), f"{machine.name}-soft") as other:
        install(other)
        papad = Papad(other)
        papad.systemctl("enable", "--now", "papad.socket")
        papad.talk("make socket s", "set v 1", f"make process p {HOLD} 42")
        wait_until(lambda: other.root("/run/hold.started").exists(), "it has begun")
        before, started = papad.talk("list sockets", "list values"), papad.ask("list processes")
        inode = json.loads(papad.ask("describe sockets s"))["inode"]
        other.run("systemctl", "soft-reboot")

        def is_up() -> bool:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it ends those who ask meanwhile
                count = other.run("systemctl", "show", "-P", "SoftRebootsCount", check=False, seconds=2).stdout
                return count == "1\n" and "running" in other.run("systemctl", "is-system-running", check=False).stdout
            return False

        wait_until(is_up, "it is up again", 90)
        assert papad.talk("list sockets", "list values") == before
        assert json.loads(papad.ask("describe sockets s"))["inode"] == inode
        assert papad.ask("list processes") == started.replace("running=True", "running=False")
        assert joined(watched(papad, "p")) == [("out", "before\n"), ("err", "error\n"), ("closed", "-15")]


def test_values_and_sockets(papad: Papad, interrupt: Callable[[Papad], None]) -> None:
    papad.talk(*(f"set v{i} {'x' * size}" for i, size in enumerate((1, 100, 20_000, 100_000))))
    papad.talk("set v0 other", "set gone 1", "set gone")
    papad.talk(
        "make socket tcp",
        "make socket six family=inet6",
        "make socket u type=dgram path=/run/u.sock",
        "make socket r reuseport=1",
    )
    before = papad.talk("list values", "list sockets")
    assert len(before[0].split("\n")) == 4
    with_nursery(papad)
    interrupt(papad)
    assert papad.talk("list values", "list sockets") == before
    assert papad.talk("remove sockets u r", "list sockets")[1].count("\n") == 1
    interrupt(papad)
    assert papad.ask("list sockets").count("\n") == 1
