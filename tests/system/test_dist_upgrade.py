"""Debian 12 becomes Debian 13 under papad: another systemd, another libc, another Python than the nursery was born under."""

from __future__ import annotations

import contextlib

import pytest

from tests.support.waiting import wait_until
from tests.system import packages
from tests.system.machine import Machine
from tests.system.packages import NOW, Built
from tests.system.papad import TOOLS, UNIX, Papad, furnish, pid_of, serve, systemd_version
from tests.system.test_packages import NUMBERED, Reports, beside, numbered_to_its_end
from tests.system.trees import tree

APT = {"DEBIAN_FRONTEND": "noninteractive"}
KEEP = ("-o", "Dpkg::Options::=--force-confold", "-o", "Dpkg::Options::=--force-unsafe-io")


def python_of(papad: Papad, pid: int) -> str:
    """The interpreter that runs a process of ours."""
    return papad.machine.out("readlink", f"/proc/{pid}/exe")


@pytest.mark.parametrize("machine", ["bookworm"], indirect=True)
def test_papad_and_its_processes_outlive_a_dist_upgrade(built: Built) -> None:
    with Machine(tree("bookworm", "last"), "bookworm-last") as machine:
        packages.put(machine, built.now, NOW)
        packages.install(machine, NOW)
        furnish(machine)
        papad = Papad(machine)
        port = serve(papad, "web")
        papad.talk("set kept 1", NUMBERED, f"make process hold /usr/bin/python3 {TOOLS}/hold.py 42")
        look = ("list sockets", "list processes", "get kept")
        before, nursery, pid = papad.talk(*look), papad.nursery_pid(), papad.main_pid()
        assert python_of(papad, nursery) == "/usr/bin/python3.11"
        old = systemd_version(machine)

        reports: Reports = {}
        with contextlib.ExitStack() as load:
            load.enter_context(beside(machine, "connections", reports, "load.py", port, "200"))
            load.enter_context(beside(machine, "unix", reports, "asking.py", UNIX))
            machine.run("apt-get", "-q", "dist-upgrade", "-y", *KEEP, env=APT, seconds=900)
            machine.run("apt-get", "-q", "autoremove", "--purge", "-y", *KEEP, env=APT, seconds=300)
            assert systemd_version(machine) > old
            assert not machine.root("/usr/bin/python3.11").exists()
            assert papad.talk(*look) == before
            papad.restart()
            assert papad.talk(*look) == before
            papad.wait_for_new(papad.sigkill())
            assert papad.talk(*look) == before
        assert [
            (name, report["failures"]) for name, report in reports.items() if name != "unix" and report["failures"]
        ] == []
        # By hand, and without a second try: what the SIGKILL took, and nothing else.
        failures = reports["unix"]["failures"]
        assert isinstance(failures, list)
        assert len(failures) <= 1

        assert papad.main_pid() != pid
        assert python_of(papad, papad.main_pid()) == "/usr/bin/python3.13"
        assert papad.nursery_pid() == nursery
        wait_until(lambda: python_of(papad, nursery) == "/usr/bin/python3.13", "the nursery was renewed in place")
        # It starts processes for the new papad, whatever is asked of it, and tells how the earlier ones end.
        assert "running=True" in papad.ask("make process late uid=nobody working_dir=/ rlimit.nofile=99 /bin/sleep 600")
        assert f"PPid:\t{nursery}\n" in machine.out("cat", f"/proc/{pid_of(papad, 'late')}/status")
        assert "Bad command" in papad.ask("make process wrong /no/such/command")
        machine.write("/run/hold.go", "")
        watched = machine.out("/usr/bin/python3", f"{TOOLS}/watch.py", "hold")
        assert '["closed", "hold", "42"]' in watched
        numbered_to_its_end(papad)
