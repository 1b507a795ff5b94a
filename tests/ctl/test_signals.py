"""`papactl signal` and `papactl pid`, with real processes and real signals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ctl.support import COMMAND, Papactl, environment, not_found, papactl
from tests.ctl.test_remote import Far
from tests.support.papad import Daemon, open_fds, running_papad
from tests.support.waiting import wait_until

STUBBORN = ("/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")


def sleeps(ctl: Papactl, *names: str) -> None:
    for name in names:
        ctl.out("make", "process", name, "/bin/sleep", "600")


def is_stubborn(ctl: Papactl, name: str) -> None:
    """A process that ignores SIGTERM already."""
    ctl.out("make", "process", name, "--", *STUBBORN)
    wait_until(lambda: ctl.described(name)["captured"], "it ignores SIGTERM")


def test_a_signal_goes_to_what_matches_and_to_nothing_else(ctl: Papactl) -> None:
    sleeps(ctl, "web.1", "web.2", "db")
    assert ctl.out("signal", "web.*") == ""
    ctl.ends("web.1")
    ctl.ends("web.2")
    assert [ctl.described(name)["code"] for name in ("web.1", "web.2", "db")] == [-15, -15, None]


@pytest.mark.parametrize("typed", ["USR1", "SIGUSR1", "usr1", "10", "RTMIN+1"])
def test_signals_have_their_usual_names(ctl: Papactl, typed: str) -> None:
    sleeps(ctl, "p")
    ctl.out("signal", "-s", typed, "p")
    ctl.ends("p")
    assert ctl.described("p")["code"] == (-signal.SIGRTMIN - 1 if "RT" in typed else -signal.SIGUSR1)


def test_signal_0_tries_only_whether_one_may(ctl: Papactl) -> None:
    sleeps(ctl, "p")
    assert ctl.out("signal", "-s", "0", "p") == ""
    assert ctl.described("p")["running"]


def test_waiting_ends_when_papad_knows_of_the_end(ctl: Papactl) -> None:
    for n in range(5):
        sleeps(ctl, "p")
        assert ctl.out("signal", "--wait", "p") == ""
        assert ctl.out("remove", "process", "p") == "", n


def test_waiting_ends_in_time_and_says_what_still_runs(ctl: Papactl) -> None:
    is_stubborn(ctl, "p")
    sleeps(ctl, "q")
    pid = ctl.described("p")["pid"]
    assert ctl("signal", "--wait=0.3", "*") == (1, "", f"papactl: p (pid {pid}) is still running after 0.3 seconds\n")
    assert ctl.described("p")["running"]
    assert ctl.described("q")["code"] == -15


@pytest.mark.parametrize("more", [(), ("--wait",), ("--wait=20",)])
def test_what_does_not_end_is_killed_after_a_time(ctl: Papactl, more: tuple[str, ...]) -> None:
    is_stubborn(ctl, "p")
    assert ctl.out("signal", *more, "--kill-after", "0.2", "p") == ""
    assert ctl.described("p")["code"] == -9


def test_a_group_is_signalled_whole_and_a_process_alone(ctl: Papactl, tmp_path: Path) -> None:
    for name, words, spared in (("alone", (), True), ("whole", ("--group",), False)):
        ctl.out("make", "process", name, "--", "/bin/sh", "-c", "sleep 600 & echo $!; wait")
        wait_until(lambda name=name: ctl.described(name)["captured"], "its child runs")  # type: ignore[misc]
        child = int(ctl.out("output", name, "-o", "cat"))
        ctl.out("signal", "--wait", *words, name)
        if spared:
            os.kill(child, signal.SIGKILL)
        wait_until(lambda child=child: not _lives(child), "the child has ended")  # type: ignore[misc]


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def test_who_matches_nothing_is_told_so(ctl: Papactl) -> None:
    sleeps(ctl, "running")
    ctl.runs("ended", "exit 0")
    none = "papactl: no process that matches {} is running\n"
    for word in ("signal", "pid"):
        assert ctl(word, "nobody") == (1, "", not_found("nobody"))
        assert ctl(word, "running", "nobody") == (1, "", not_found("nobody"))
        assert ctl(word, "no*", "e*") == (1, "", none.format("no* or e*"))
    assert ctl("pid", "ended") == (1, "", none.format("ended"))
    done = ctl("signal", "running", "ended")
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        "papactl: ended has ended already; what it has started may still run: systemd-cgls -u papad-processes.scope\n"
    )
    assert ctl.described("running")["running"]


def test_pids_are_those_of_what_runs_for_other_programs(ctl: Papactl) -> None:
    sleeps(ctl, "web.1", "web.2")
    ctl.runs("web.3", "exit 0")
    pids = [ctl.described(name)["pid"] for name in ("web.1", "web.2")]
    assert ctl.out("pid", "web.*") == f"{pids[0]}\n{pids[1]}\n"
    assert ctl.json("pid", "web.1", "--json") == [{"name": "web.1", "pid": pids[0]}]
    papactl_command = f"{sys.executable} -c '{COMMAND[2]}'"
    subprocess.run(
        ["sh", "-c", f"kill $({papactl_command} pid web.1)"], env=environment(**ctl.env), check=True, timeout=30
    )
    ctl.ends("web.1")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")
def test_who_may_not_is_told_what_to_do(ctl: Papactl) -> None:
    """A member of the group papad, as it were: papad lets them in, the kernel does not let them signal root's."""
    sleeps(ctl, "p")
    script = (
        "import ctypes, os, sys\n"
        "from papad.client.connection import Client\n"
        "from papad.ctl.connect import Session\n"
        "import papad.ctl.connect as connect\n"
        "from papad.ctl.run import execute, guarded\n"
        "from papad.ctl.declared import COMMANDS, COMMON\n"
        "from papad.ctl.parser import parse\n"
        "session = Session()\n"
        "session.client()\n"
        "os.setuid(65534)\n"
        "sys.exit(guarded(lambda: execute(parse(sys.argv[1:], COMMANDS, COMMON), session)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "signal", "p"],
        env=environment(**ctl.env),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    pid = ctl.described("p")["pid"]
    hint = "Run papactl as root or as the user of that process: sudo papactl signal ..."
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"papactl: no permission to signal p (pid {pid})\n{hint}\n"
    assert ctl.described("p")["running"]


def test_waiting_goes_on_while_papad_is_killed(own_papad: Daemon) -> None:
    ctl = Papactl(own_papad)
    is_stubborn(ctl, "p")
    pid = ctl.described("p")["pid"]
    with ctl.running("signal", "--wait", "p") as popen:
        wait_until(lambda: _has_pidfd(popen.pid), "it has opened the process")
        os.kill(own_papad.pid, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        assert popen.communicate(timeout=20) == (b"", b"")
        assert popen.returncode == 0


def test_a_papad_that_was_killed_still_knows_when_its_processes_began(own_papad: Daemon) -> None:
    ctl = Papactl(own_papad)
    sleeps(ctl, "p")
    before, pid = ctl.described("p"), own_papad.pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: own_papad.log.count("is home") == 2, "papad is home again")
    assert ctl.described("p")["ticks"] == before["ticks"] > 0
    assert ctl.out("signal", "--wait", "p") == ""


def _has_pidfd(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return any("pidfd" in target for target in open_fds(pid).values())
    return False


def test_on_another_machine_the_papactl_there_does_it(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with running_papad(tmp_path / "one") as one:
        ctl, far = Papactl(one), Far(tmp_path)
        sleeps(ctl, "p")
        assert far("-H", "one", "pid", "p").out == f"{ctl.described('p')['pid']}\n"
        assert far("-H", "one", "signal", "nobody") == (1, "", not_found("nobody"))
        assert far("-H", "one", "signal", "-s", "INT", "--wait=9", "p") == (0, "", "")
        assert ctl.described("p")["code"] == -signal.SIGINT
        assert "papactl -- signal" not in (tmp_path / "ssh").read_text()
        done = far("-H", "unreachable", "signal", "p")
        assert done.status == 3
        assert done.err == "ssh: no route\npapactl: cannot run papactl on unreachable: ssh failed\n"
        sleeps(ctl, "q")
        done = far("-H", "one", "-H", "unreachable", "signal", "--wait", "q")
        assert done.status == 3
        assert "unreachable: papactl: cannot run papactl on unreachable: ssh failed\n" in done.err
        assert "one: " not in done.err
        assert ctl.described("q")["code"] == -15


WRONG = {
    "signal": "papactl: error: name the processes to signal; '*' means all\n"
    "Try: papactl signal --wait=30 --kill-after=10 web.1\n",
    "pid": "papactl: error: name the processes; '*' means all\nTry: papactl pid web.1\n",
    "signal -s NOPE p": "papactl: error: there is no signal 'NOPE'\nTry: TERM, HUP, USR1, 15; kill -l lists them\n",
    "signal -s 65 p": "papactl: error: there is no signal '65'\nTry: TERM, HUP, USR1, 15; kill -l lists them\n",
    "signal -s _DFL p": "papactl: error: there is no signal '_DFL'\nTry: TERM, HUP, USR1, 15; kill -l lists them\n",
    "signal -9 p": "papactl: error: unknown option -9\nDid you mean: --signal\n",
    "signal -TERM p": "papactl: error: unknown option -T\nDid you mean: --signal\n",
    "signal -HUP p": "papactl: error: -HUP names a host, UP\nDid you mean: -s HUP\n",
    "signal --wait=long p": "papactl: error: --wait must be a number of seconds, not 'long'\n",
    "signal --kill-after=-1 p": "papactl: error: --kill-after must be a number of seconds, not '-1'\n",
    "signal --wait=5 --kill-after=5 p": "papactl: error: --kill-after must be less than --wait\n",
    "signal --json p": "papactl: error: signal has no --json\n",
}


@pytest.mark.parametrize("typed", WRONG)
def test_wrong_turns(typed: str) -> None:
    assert papactl(*typed.split(), PAPAD_SOCKET="/nonexistent") == (2, "", WRONG[typed])
