"""What a process, in whatever state it is, has left after papad was restarted, killed, or stopped and started."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.support.waiting import wait_until
from tests.system.machine import Machine
from tests.system.papad import TOOLS, Papad, field, systemd_version

PYTHON = "/usr/bin/python3"


def restarted(papad: Papad) -> None:
    papad.restart()


def killed(papad: Papad) -> None:
    papad.wait_for_new(papad.sigkill())


def stopped_and_started(papad: Papad) -> None:
    if systemd_version(papad.machine) < 254:
        pytest.skip("systemd keeps the FD store over a stop from version 254 on")
    papad.systemctl("stop", "papad.service")
    papad.systemctl("start", "papad.service")


def reexecuted(papad: Papad) -> None:
    papad.systemctl("daemon-reexec")
    killed(papad)


HOWS = (restarted, killed, stopped_and_started, reexecuted)


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
    "small buffer": State("bufsize=4 /bin/sh -c echo\\ 123456", [("out", "456\n"), ("closed", "0")], ended=True),
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
    assert joined(watched(papad, "p")) == state.records
    assert papad.ask("list processes p") == ""
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
    assert joined(watched(papad, "p")) == [("out", "before\nafter\n"), ("err", "error\n"), ("closed", "0")]


def test_a_removed_process_stays_removed_and_is_forgotten(papad: Papad, interrupt: Callable[[Papad], None]) -> None:
    papad.ask(f"make process p {HOLD} 0")
    wait_until(lambda: papad.machine.root("/run/hold.started").exists(), "it has begun")
    papad.ask("remove processes p")
    interrupt(papad)
    assert "running=True" in papad.ask("list processes p")
    papad.machine.write("/run/hold.go", "")
    wait_until(lambda: papad.ask("list processes p") == "", "it is forgotten")


def test_an_end_while_papad_is_down_is_told(papad: Papad) -> None:
    """The nursery keeps the exit code until there is a papad to take it."""
    if systemd_version(papad.machine) < 254:
        pytest.skip("systemd keeps the FD store over a stop from version 254 on")
    papad.ask(f"make process p {HOLD} 42")
    wait_until(lambda: papad.machine.root("/run/hold.started").exists(), "it has begun")
    papad.systemctl("stop", "papad.service")
    papad.machine.write("/run/hold.go", "")
    wait_until(lambda: len(papad.scope_pids()) == 1, "it has ended")
    assert joined(watched(papad, "p"))[-1] == ("closed", "42")


def test_a_stop_that_systemd_forgets_is_owned_up_to(papad: Papad) -> None:
    if systemd_version(papad.machine) >= 254:
        pytest.skip("systemd keeps the FD store over a stop from version 254 on")
    papad.talk("make socket s", "set v 1", f"make process p {HOLD} 42")
    papad.systemctl("stop", "papad.service")
    assert papad.talk("list sockets", "list values", "list processes") == ["", "", ""]
    journal = papad.machine.out("journalctl", "-u", "papad.service")
    for lost in ("socket s", "value v", r"process p \(pid \d+\)"):
        assert re.search(f"lost over the stop of papad: {lost}\n", journal)


@pytest.mark.parametrize("how", ["started only", "enabled", "disabled at the end"])
def test_what_a_stop_of_the_socket_leaves(papad: Papad, how: str) -> None:
    """systemd unloads what nothing refers to, with its FD store. An enabled socket refers to papad, and so does the scope of processes."""
    if systemd_version(papad.machine) < 254:
        pytest.skip("systemd keeps the FD store over a stop from version 254 on")
    if how != "started only":
        papad.systemctl("enable", "papad.socket")
    try:
        for what, kept in (("set v 1", how == "enabled"), ("make process p /bin/sleep 600", True)):
            papad.ask(what)
            before = papad.talk("list values", "list processes")
            if how == "disabled at the end":
                papad.systemctl("disable", "--now", "papad.socket")
            else:
                papad.systemctl("stop", "papad.socket", "papad.service")
            wait_until(lambda: papad.show("ActiveState") == "inactive", "papad has ended")
            papad.systemctl("start", "papad.socket")
            assert papad.talk("list values", "list processes") == (before if kept else ["", ""])
            if not kept:
                assert "lost over the stop of papad: value v\n" in papad.machine.out(
                    "journalctl", "-u", "papad.service"
                )
    finally:
        papad.systemctl("disable", "papad.socket")


def test_a_users_own_papad_loses_nothing_either(own: Papad, interrupt: Callable[[Papad], None]) -> None:
    """Its vault has small segments, several of them."""
    own.machine.run("chmod", "1777", "/run")
    own.talk(*(f"set v{number} {number}" for number in range(900)))
    own.talk("make socket s", f"make process p {HOLD} 5")
    wait_until(lambda: own.machine.root("/run/hold.started").exists(), "it has begun")
    before = own.talk("list values", "list sockets", "list processes")
    segments = int(own.show("NFileDescriptorStore")) - 5
    assert segments > 1
    interrupt(own)
    assert own.talk("list values", "list sockets", "list processes") == before
    own.machine.write("/run/hold.go", "")
    script = f"import sys; sys.path.insert(0, '{TOOLS}'); import talk; print(talk.Talk('{own.where}').watch('p'))"
    records = own.machine.out(PYTHON, "-c", script, user=own.user)
    assert [text in records for text in ("before", "after", "error", "b'5'")] == [True] * 4


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
    interrupt(papad)
    assert papad.talk("list values", "list sockets") == before
    assert papad.talk("remove sockets u r", "list sockets")[1].count("\n") == 1
    interrupt(papad)
    assert papad.ask("list sockets").count("\n") == 1
