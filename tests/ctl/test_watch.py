"""`papactl watch` for ever, and beside another watcher."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ctl.support import COMMAND, Papactl, environment, interrupted, line_of, not_found
from tests.support.papad import Daemon
from tests.support.waiting import wait_until

NOTE = "papactl: p has another watcher; each gets only what the other has not acknowledged\n"


def test_a_watch_goes_on_with_processes_that_are_made_later(ctl: Papactl) -> None:
    with ctl.running("watch", "-f", "-o", "cat", "web.*", "job") as popen:
        ctl.runs("other", "echo no")
        for name in ("web.1", "job", "web.2"):
            ctl.out("make", "process", name, "/bin/echo", name)
            assert line_of(popen) == name
            wait_until(lambda name=name: not ctl.out("list", "processes", name), "it is forgotten")  # type: ignore[misc]
        ctl.out("make", "process", "web.3", "--", "/bin/sh", "-c", "echo up; exec sleep 600")
        assert line_of(popen) == "up"
        ctl.out("make", "process", "job", "/bin/echo", "beside it")
        assert line_of(popen) == "beside it"
        assert interrupted(popen) == (130, b"", b"")
    assert ctl.described("web.3")["buffered"] == 0
    assert ctl.described("other")["acknowledged"] == 0


def test_without_f_it_ends_with_the_processes(ctl: Papactl) -> None:
    ctl.runs("p", "echo one")
    assert ctl.out("watch", "p", "-o", "cat") == "one\n"
    assert ctl("watch", "p") == (1, "", not_found("p"))


def test_it_leaves_with_its_reader_and_acknowledges_nothing_then(ctl: Papactl) -> None:
    with ctl.running("watch", "-f", "p") as popen:
        assert popen.stdout is not None
        popen.stdout.close()
        assert popen.wait(10) == 0
    ctl.runs("p", "echo one")
    assert ctl.described("p")["acknowledged"] == 0


WRITER = "import time\nfor i in range({}):\n print(i, flush=True)\n if i % 10 == 0: time.sleep(.02)"


@pytest.mark.parametrize("seed", [20261126])
def test_every_line_comes_once_while_papad_is_killed(own_papad: Daemon, tmp_path: Path, seed: int) -> None:
    """Each new process begins the watch anew, between two batches."""
    chance, ctl, count = random.Random(seed), Papactl(own_papad), 600
    names = [f"p.{n}" for n in range(8)]
    shown = tmp_path / "shown"
    command = [*COMMAND, "watch", "-f", "p.*"]
    with (
        open(shown, "wb") as out,
        subprocess.Popen(command, env=environment(**ctl.env), stdout=out, stderr=out) as popen,
    ):
        try:
            for name in names:
                ctl.out("make", "process", name, "--", sys.executable, "-S", "-c", WRITER.format(count))
                size = shown.stat().st_size
                more = size + chance.randrange(1, 3000)
                wait_until(
                    lambda more=more: shown.stat().st_size > more or _ended(shown) == len(names), "it shows something"
                )  # type: ignore[misc]
                with contextlib.suppress(ProcessLookupError, ValueError):
                    os.kill(own_papad.pid, signal.SIGKILL)
            wait_until(lambda: _ended(shown) == len(names), "all have ended")
        finally:
            popen.kill()
    assert "papactl: " not in shown.read_text()
    for name in names:
        lines = [line.partition(f" {name}: ")[2] for line in shown.read_text().splitlines() if f" {name}: " in line]
        assert lines == [*map(str, range(count)), "-- ended with exit code 0 --"]


def _ended(shown: Path) -> int:
    return shown.read_bytes().count(b"-- ended with exit code 0 --\n")


def test_the_second_watcher_is_told_of_the_first(ctl: Papactl) -> None:
    ctl.out("make", "process", "p", "--", "/bin/sh", "-c", "echo one; exec sleep 600")
    with ctl.running("watch", "p") as first:
        line_of(first)
        wait_until(lambda: ctl.described("p")["acknowledged"] == 4, "it is acknowledged")
        for words in (("watch", "p"), ("watch", "-f", "p")):
            with ctl.running(*words) as second:
                assert second.stderr is not None
                assert second.stderr.readline().decode() == NOTE


def test_who_has_lost_to_another_watcher_is_told_how_much(ctl: Papactl, tmp_path: Path) -> None:
    """The first does not get to its second batch before the second has taken that."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    ctl.out("make", "process", "p", "--", "/bin/sh", "-c", f"echo one; exec cat <{fifo}")
    with open(fifo, "w") as feed, ctl.running("watch", "p", "-o", "cat") as first:
        assert line_of(first) == "one"
        wait_until(lambda: ctl.described("p")["acknowledged"] == 4, "it is acknowledged")
        first.send_signal(signal.SIGSTOP)
        with ctl.running("watch", "p", "-o", "cat") as second:
            for text in ("two", "three"):
                print(text, file=feed, flush=True)
                assert line_of(second) == text
                wait_until(lambda: ctl.described("p")["buffered"] == 0, "it is acknowledged")
        feed.close()
        first.send_signal(signal.SIGCONT)
        out, err = first.communicate(timeout=20)
    assert (first.returncode, out) == (0, b"two\n"), "its batch was on the way already"
    assert err.decode() == "papactl: p: another watcher has acknowledged 6 of the 6 bytes lost\n"


def test_who_gets_no_end_is_told_why(ctl: Papactl) -> None:
    for words in (("watch", "p"), ("watch", "-f", "p"), ("make", "process", "p", "--watch", "/bin/sleep", "600")):
        if words[0] == "watch":
            ctl.out("make", "process", "p", "/bin/sleep", "600")
        with ctl.running(*words) as popen:
            wait_until(lambda: ctl.daemon.ask("list processes p") and ctl.described("p")["watchers"], "it watches")
            pid = ctl.described("p")["pid"]
            ctl.out("remove", "process", "p")
            os.kill(pid, signal.SIGKILL)
            assert popen.stderr is not None
            said = popen.stderr.readline().decode()
            assert said == "papactl: p was removed, or another watcher has acknowledged its end\n"
            status = interrupted(popen)[0] if "-f" in words else popen.wait(10)
        assert status == {"watch": 0, "watch -f": 130, "make process": 1}[" ".join(words[:2]).removesuffix(" p")]
        wait_until(lambda: not ctl.out("list", "processes"), "it is gone")
