"""Whom a signal reaches: never a stranger with the same pid. The words as a program: tests/ctl/test_signals.py."""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from papad.ctl import signals
from papad.ctl.signals import _number, _opened, _sent
from tests.support.waiting import wait_until
from tests.unit.ctl.support import Here

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def stranger(pid: int) -> int:
    """A child of ours that sleeps, with this pid where that is free; the pid that it has."""
    LAST_PID.write_text(str(pid - 1))
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    return child


def _ticks_now() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


@pytest.mark.skipif(not os.access(LAST_PID, os.W_OK), reason="needs root, to choose a pid")
def test_a_stranger_that_has_got_the_pid_is_left_alone(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    here.out("make", "process", "p", "/bin/sleep", "600")
    process = here.described("p")
    os.kill(process["pid"], signal.SIGKILL)
    wait_until(lambda: not here.described("p")["running"], "it has ended")
    wait_until(lambda: _ticks_now() > process["ticks"] + 1, "a clock tick of another process")
    for _ in range(100):  # others may be quicker
        pid = stranger(process["pid"])
        try:
            if pid == process["pid"]:
                with ExitStack() as stack:
                    assert _opened(process, stack) is None
                assert capsys.readouterr().err.startswith(f"papactl: pid {pid} is not p here")
                assert os.waitpid(pid, os.WNOHANG) == (0, 0)
                return
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    raise AssertionError("no child got the pid")


def test_who_ends_between_the_question_and_the_signal_is_told_of(
    here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    here.out("make", "process", "p", "/bin/sleep", "600")
    process = here.described("p")
    with ExitStack() as stack:
        target = _opened(process, stack)
        assert target is not None
        os.kill(target.pid, signal.SIGKILL)
        wait_until(lambda: not here.described("p")["running"], "it has ended")
        capsys.readouterr()
        for group in (False, True):
            assert not _sent(target, signal.SIGTERM, group=group)
            assert capsys.readouterr().err == f"papactl: p (pid {target.pid}) has just ended\n"
        assert _opened(process, stack) is None
    assert capsys.readouterr().err == f"papactl: p (pid {target.pid}) has just ended\n"


def test_a_group_is_reached_by_an_older_linux_too(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 6.9 there is no flag for it."""
    real = signal.pidfd_send_signal

    def older(pidfd: int, number: int, info: Any = None, flags: int = 0) -> None:
        if flags:
            raise OSError(errno.EINVAL, "Invalid argument")
        real(pidfd, number, info, flags)

    monkeypatch.setattr(signals.signals, "pidfd_send_signal", older)
    here.out("make", "process", "p", "--", "/bin/sh", "-c", "sleep 600 & echo up; wait")
    wait_until(lambda: here.described("p")["captured"], "it runs")
    assert here("signal", "--group", "--wait", "p").status == 0
    wait_until(lambda: here.described("p")["closed"], "nobody holds its pipe any more, so the child has ended, too")


def test_a_papad_that_does_not_tell_when_its_processes_began_is_refused(here: Here) -> None:
    process = {"name": "p", "id": 1, "pid": os.getpid()}
    with ExitStack() as stack, pytest.raises(signals.Error, match="older than papactl"):
        _opened(process, stack)


def test_a_process_whose_beginning_is_unknown_on_both_sides_is_left_alone(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """papad could not read it, and here /proc hides it."""
    here.out("make", "process", "p", "/bin/sleep", "600")
    monkeypatch.setattr(signals, "_start_ticks", lambda pid: 0)
    with ExitStack() as stack:
        assert _opened(here.described("p") | {"ticks": 0}, stack) is None


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("15", 15), ("kill", 9), ("SIGHUP", 1), ("RTMIN+2", signal.SIGRTMIN + 2)]
)
def test_a_signal_may_be_a_name_or_a_number(text: str, number: int) -> None:
    assert _number(text) == number


@pytest.mark.parametrize("text", ["", "SIG", "NOPE", "999", "-1", "TERM+1", "RTMIN+99", "RTMIN+x", "_BLOCK", "²"])
def test_anything_else_is_no_signal(text: str) -> None:
    with pytest.raises(signals.Usage, match="there is no signal"):
        _number(text)
