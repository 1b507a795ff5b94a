"""What a restart and a SIGKILL of papad leave untouched: every socket, every connection, every process."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator

import pytest

from tests.system.papad import TOOLS, UNIX, Papad, field, pid_of, serve, systemd_version

TIMES = 20
RATE = 200


def restart(papad: Papad) -> None:
    papad.restart()


def sigkill(papad: Papad) -> None:
    papad.wait_for_new(papad.sigkill())


def reexec(papad: Papad) -> None:
    """systemd replaces itself, handing its FD stores on in reverse; then papad has to find its way."""
    papad.machine.run("systemctl", "daemon-reexec")
    papad.restart()


Blow = Callable[[Papad], None]
blows = pytest.mark.parametrize("blow", [restart, sigkill, reexec])

SOCKETS = (
    "make socket plain",
    "make socket six family=inet6 backlog=77",
    "make socket wide interface=lo port=0",
    "make socket local path=/run/local.sock umask=63",
    "make socket gram type=dgram",
    "make socket shared reuseport=1",
)


def inodes(papad: Papad) -> dict[str, str]:
    """The inode of each socket that the system listens on, or is bound to, by its address."""
    found = {}
    for line in papad.machine.out("ss", "-Hlntuxe").splitlines():
        words = line.split()
        kind, name = words[0], words[4]
        if name != "*" and not name.startswith("/run/systemd/"):
            found[f"{kind} {name}"] = words[5] if kind.startswith("u_") else re.findall(r"ino:\d+", line)[0]
    return found


@blows
def test_sockets_come_back_as_they_were(papad: Papad, blow: Blow) -> None:
    papad.talk(*SOCKETS)
    lines, before = papad.ask("list sockets"), inodes(papad)
    assert len(lines.splitlines()) == len(SOCKETS), lines
    old = papad.main_pid()
    for _ in range(3):
        blow(papad)
        assert papad.ask("list sockets") == lines
        assert inodes(papad) == before
    assert papad.main_pid() != old


@blows
def test_a_socket_made_again_is_the_one_that_survived(papad: Papad, blow: Blow) -> None:
    made = papad.ask("make socket web")
    blow(papad)
    assert papad.ask("make socket web") == made
    assert "has already been created" in papad.ask("make socket web backlog=9")


@blows
def test_removed_sockets_stay_removed(papad: Papad, blow: Blow) -> None:
    papad.talk("make socket a", "make socket b", "remove sockets a")
    kept = papad.ask("list sockets")
    blow(papad)
    assert papad.ask("list sockets") == kept


@blows
def test_connections_that_wait_in_the_backlog_are_served_in_the_end(papad: Papad, blow: Blow) -> None:
    port = field(papad.ask("make socket late backlog=8"), "port")
    script = f"exec 3<>/dev/tcp/127.0.0.1/{port}; echo who >&3; echo connected; cat <&3; cat"
    with papad.machine.running("bash", "-c", script) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "connected\n"
        blow(papad)
        papad.ask(f"make process late /usr/bin/python3 {TOOLS}/worker.py $(socket.late.fileno)")
        assert int(client.stdout.readline()) == pid_of(papad, "late")


@blows
def test_processes_run_on_and_are_known_again(papad: Papad, blow: Blow) -> None:
    papad.talk(*(f"make process p{number} /bin/sleep 600" for number in range(5)))
    before = papad.ask("list processes")
    blow(papad)
    assert papad.ask("list processes") == before


@contextlib.contextmanager
def steady_load(papad: Papad, port: str, report: dict[str, object]) -> Iterator[None]:
    """Connections to a port for as long as the block runs; then fills in the report."""
    with papad.machine.running("/usr/bin/python3", f"{TOOLS}/load.py", port, str(RATE)) as load:
        assert load.stdin is not None
        assert load.stdout is not None
        assert load.stdout.readline() == "started\n"
        yield
        load.stdin.close()
        report.update(json.loads(load.stdout.read()))


def test_no_connection_is_lost_while_papad_restarts_and_is_killed(papad: Papad) -> None:
    port = serve(papad, "web")
    worker, before = pid_of(papad, "web"), inodes(papad)
    report: dict[str, object] = {}
    with steady_load(papad, port, report):
        for _ in range(TIMES):
            papad.restart()
            assert pid_of(papad, "web") == worker
        for _ in range(TIMES):
            papad.wait_for_new(papad.sigkill())
            assert pid_of(papad, "web") == worker
    assert report["failures"] == []
    assert report["answers"] == [str(worker)]
    count, seconds = report["count"], report["seconds"]
    assert isinstance(count, int)
    assert isinstance(seconds, float)
    assert count >= 0.95 * RATE * seconds
    assert inodes(papad) == before


def test_the_control_socket_never_refuses(papad: Papad) -> None:
    """Whoever connects while papad is dead is answered when it is back."""
    made = papad.ask("make socket web")
    for where in ("tcp", UNIX):
        papad.sigkill()
        assert papad.ask("list sockets", where=where) == made


def test_a_stop_keeps_the_sockets_where_systemd_can(papad: Papad) -> None:
    if systemd_version(papad.machine) < 254:
        pytest.skip("systemd drops the FD store of a stopped service before version 254")
    made = papad.ask("make socket web")
    papad.systemctl("stop", "papad.service")
    assert papad.ask("list sockets") == made


def test_a_restart_meets_no_left_over_processes(papad: Papad) -> None:
    papad.talk(*(f"make process p{number} /bin/sleep 600" for number in range(100)))
    before = papad.ask("list processes")
    assert before.count("running=True") == 100
    since = papad.machine.cursor()
    papad.restart()
    assert papad.ask("list processes") == before
    journal = papad.machine.journal(since)
    assert "papad.service" in journal
    assert "left-over" not in journal.lower()
    assert "remains running" not in journal.lower()
