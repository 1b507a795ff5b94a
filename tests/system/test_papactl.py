"""papactl on a booted systemd: over restarts and kills of papad, and for somebody who is not let in."""

from __future__ import annotations

from tests.support.waiting import wait_until
from tests.system.machine import Machine
from tests.system.papad import STRANGER, Papad

KILLS = 50
WRITER = """import os, time
number = 0
while not os.path.exists("/run/enough"):
    os.write(1, b"".join(b"line %07d\\n" % (number + i) for i in range(20)))
    number += 20
    time.sleep(0.01)
os.write(1, b"the end after %d" % number)"""
FOLLOW = "papactl output --follow --lines=all --output=cat w >/run/followed 2>/run/followed.errors & read _; kill $!"


def test_a_follow_over_fifty_kills_prints_every_line_once(papad: Papad) -> None:
    papad.machine.run("rm", "-f", "/run/enough")
    papad.machine.write("/run/writer.py", WRITER)
    followed = papad.machine.root("/run/followed")
    with papad.machine.running("sh", "-c", FOLLOW):
        papad.ask("make process w bufsize=64m /usr/bin/python3 /run/writer.py")
        wait_until(lambda: followed.exists() and followed.stat().st_size, "the first lines are printed")
        for number in range(KILLS):
            if number % 10 == 9:
                papad.restart()
            else:
                papad.wait_for_new(papad.sigkill())
        papad.machine.write("/run/enough", "")
        wait_until(lambda: "the end" in followed.read_text(), "the last line is printed")
        *lines, end = followed.read_text().splitlines()
    assert end == f"the end after {len(lines)}"
    assert lines == [f"line {number:07d}" for number in range(len(lines))]
    assert len(lines) > 1000


def test_somebody_who_is_not_let_in_is_told_what_to_do(machine: Machine, papad: Papad) -> None:
    done = machine.run("papactl", "status", user=STRANGER, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("papactl: no permission to talk to papad at /run/papad/papad.sock (the system's)\n")
    assert "sudo adduser $USER papad" in done.stderr
    assert "systemctl --user enable --now papad.socket" in done.stderr
    done = machine.run("papactl", "--port", "20202", "status", user=STRANGER, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("papactl: no permission to talk to papad at 127.0.0.1:20202\n")
    assert "sudo adduser $USER papad" in done.stderr


def test_status_counts_the_restarts_survived(machine: Machine, papad: Papad) -> None:
    machine.out("papactl", "set", "a", "b")
    papad.wait_for_new(papad.sigkill())
    papad.wait_for_new(papad.sigkill())
    assert " restarts survived\n" in machine.out("papactl", "status")


def test_a_watch_goes_on_over_kills_and_ends_with_the_process(papad: Papad) -> None:
    papad.machine.run("rm", "-f", "/run/enough")
    papad.machine.write("/run/writer.py", WRITER)
    watched = papad.machine.root("/run/watched")
    make = "papactl make process w --bufsize 64m -w -- /usr/bin/python3 /run/writer.py >/run/watched 2>&1; echo ended $?; read _"
    with papad.machine.running("sh", "-c", make) as popen:
        wait_until(lambda: watched.exists() and "line" in watched.read_text(), "the first lines are printed")
        for _ in range(10):
            papad.wait_for_new(papad.sigkill())
        papad.machine.write("/run/enough", "")
        assert popen.stdout is not None
        assert popen.stdout.readline() == "ended 0\n"
    _, *lines, last, end = [line.partition(" w: ")[2] for line in watched.read_text().splitlines()]
    assert (last, end) == (f"the end after {len(lines)}", "-- ended with exit code 0 --")
    assert lines == [f"line {number:07d}" for number in range(len(lines))]
    assert papad.ask("list processes") == ""
