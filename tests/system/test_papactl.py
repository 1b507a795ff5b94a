"""papactl on a booted systemd: over restarts and kills of papad, and for somebody who is not let in."""

from __future__ import annotations

from tests.system.machine import Machine
from tests.system.papad import STRANGER, Papad

KILLS = 20


def test_a_follow_over_many_kills_prints_every_line_once(machine: Machine, papad: Papad) -> None:
    lines = 400 * KILLS
    script = f"i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo $i; [ $((i % 40)) -ne 0 ] || sleep 0.05; done"
    machine.out("papactl", "make", "process", "counter", "--env", "PATH=/usr/bin", "--", "/bin/sh", "-c", script)
    follow = "papactl output -f -n all -o cat counter & cat; kill $!"
    with machine.running("sh", "-c", follow) as popen:
        assert popen.stdout is not None
        seen = [popen.stdout.readline() for _ in range(10)]
        for n in range(KILLS):
            old = papad.main_pid()
            if n % 5 == 4:
                papad.restart()
            else:
                papad.wait_for_new(papad.sigkill())
            assert papad.main_pid() != old
            seen.append(popen.stdout.readline())
        while len(seen) < lines:
            seen.append(popen.stdout.readline())
    assert seen == [f"{n}\n" for n in range(1, lines + 1)]


def test_somebody_who_is_not_let_in_is_told_what_to_do(machine: Machine, papad: Papad) -> None:
    done = machine.run("papactl", "status", user=STRANGER, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("papactl: no permission to talk to papad at /run/papad/papad.sock (the system's)\n")
    assert "sudo adduser $USER papad" in done.stderr
    assert "systemctl --user enable --now papad.socket" in done.stderr
    done = machine.run("papactl", "--port", "20202", "status", user=STRANGER, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("papactl: papad at 127.0.0.1:20202 refuses: ")


def test_status_counts_the_restarts_survived(machine: Machine, papad: Papad) -> None:
    machine.out("papactl", "set", "a", "b")
    papad.wait_for_new(papad.sigkill())
    papad.wait_for_new(papad.sigkill())
    assert " restarts survived\n" in machine.out("papactl", "status")
