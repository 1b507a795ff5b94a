"""papad as PID 1 of a container that boots nothing, as examples/container makes it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.support.papad import REPOSITORY
from tests.support.waiting import wait_until
from tests.system.machine import Machine
from tests.system.papad import Papad

PATH = "/run/papad-container/papad.sock"


def entry_point() -> str:
    """The example's command in a process namespace of its own, so that it is PID 1."""
    containerfile = (REPOSITORY / "examples/container/Containerfile").read_text()
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", containerfile, re.MULTILINE)
    program, option, _ = json.loads(entry)
    return f"unshare --pid --fork --mount-proc --kill-child=SIGTERM {program} {option} {PATH}"


@pytest.fixture
def container(machine: Machine) -> Iterator[None]:
    machine.run("mkdir", "-p", "/run/papad-container")
    with machine.running("sh", "-c", f"{entry_point()} & cat; kill -KILL $!; wait $!"):
        wait_until(machine.root(PATH).exists, "papad listens")
        yield
    wait_until(lambda: not machine.root(PATH).exists(), "papad has left in order")


def ask(machine: Machine, *lines: str) -> list[str]:
    return Papad(machine).talk(*lines, where=PATH)


def inside(machine: Machine, command: str) -> str:
    """What a command says in the container, run by its papad."""
    ask(machine, f"make process inside shell=1 env.PATH=/usr/bin:/bin {command}")
    wait_until(lambda: "running=False" in ask(machine, "list processes inside")[0], "it has ended")
    said = machine.out("papactl", "--socket", PATH, "output", "-o", "cat", "inside")
    ask(machine, "remove processes inside")
    return said


def server(machine: Machine) -> dict[str, int]:
    (line,) = ask(machine, "describe server")
    facts: dict[str, int] = json.loads(line)
    return facts


@pytest.mark.usefixtures("container")
def test_it_survives_a_kill_of_its_daemon(machine: Machine) -> None:
    assert server(machine)["nursery"] == 1
    (made, *_) = ask(machine, "make socket web", "set kept 1", "make process x /bin/sleep 600")
    for _ in range(3):
        pid = server(machine)["pid"]
        ask(machine, f"make process killer /bin/kill -9 {pid}")
        wait_until(lambda pid=pid: server(machine)["pid"] != pid, "another daemon answers")  # type: ignore[misc]
        assert ask(machine, "list sockets", "get kept")[:2] == [made, "1"]
        assert "running=True" in ask(machine, "list processes x")[0]
        ask(machine, "remove processes killer")
    assert server(machine)["starts"] == 4


@pytest.mark.usefixtures("container")
def test_it_reaps_orphans(machine: Machine) -> None:
    ask(machine, "make process parent /bin/sh -c (/bin/sleep\\ 0.1\\ &);(/bin/sleep\\ 0.1\\ &);exit\\ 0")
    wait_until(lambda: "running=False" in ask(machine, "list processes parent")[0], "the parent has ended")

    def zombies() -> list[str]:
        states = inside(machine, "cat\\ /proc/[0-9]*/stat")
        return [line for line in states.splitlines() if line.rpartition(")")[2].split()[0] == "Z"]

    wait_until(lambda: not zombies(), "no zombie is left")


def test_it_ends_in_order(machine: Machine) -> None:
    machine.run("mkdir", "-p", "/run/papad-container")
    begin = f"{entry_point()} & until [ -S {PATH} ]; do sleep 0.01; done; papactl --socket {PATH} set kept 1"
    done = machine.run("sh", "-c", f"{begin}; kill -TERM $(ps -o pid= --ppid $!); wait $!", check=False)
    assert (done.returncode, machine.root(PATH).exists()) == (0, False), done.stderr
    assert "leaving, with 0 sockets, 0 processes (0 running), 1 value" in done.stderr
