"""What becomes of connections when papad is told to end: who is asking gets the answer, nobody holds papad up."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from tests.support.papad import Daemon
from tests.support.waiting import wait_until


@pytest.fixture
def papad(own_papad: Daemon) -> Daemon:
    return own_papad


def tell_to_end(papad: Daemon) -> None:
    """Send SIGTERM; returns once papad accepts nobody any more."""
    papad.leaving = True
    papad.popen.send_signal(signal.SIGTERM)
    wait_until(lambda: "leaving" in papad.log, "it has begun to leave")


@pytest.mark.parametrize("tcp", [False, True])
def test_who_has_connected_and_not_asked_yet_is_answered(papad: Daemon, tcp: bool) -> None:
    with papad.connect(tcp=tcp) as talk:
        tell_to_end(papad)
        assert talk.ask("set a 1") == ""
        assert talk.ask("get a") == "1"
        assert talk.rest() == b""
    assert papad.popen.wait(10) == 0


def test_a_command_at_work_is_answered(papad: Daemon) -> None:
    with papad.connect() as talk:
        talk.send("make process p /bin/true\n")
        tell_to_end(papad)
        assert talk.until(b"\n> ").startswith(b"p pid=")
    assert papad.popen.wait(10) == 0


def test_output_that_is_being_read_comes_whole(papad: Daemon) -> None:
    with papad.connect() as talk:
        talk.ask("make process p bufsize=4m /usr/bin/seq 300000")
        wait_until(lambda: "running=False" in talk.ask("list processes p"), "it has ended")
        talk.send("output p\n")
        tell_to_end(papad)
        assert b"\n300000\n" in talk.until(b"300000\n")
    assert papad.popen.wait(10) == 0


def test_what_a_watcher_acknowledges_now_counts_and_no_other_batch_follows(papad: Daemon) -> None:
    with papad.connect() as talk:
        made = talk.ask("make process p /bin/sh -c while\\ sleep\\ 0.01;do\\ echo\\ x;done")
        try:
            assert talk.ask_line("watch processes p") == "Watching 1"
            assert talk.records()
            tell_to_end(papad)
            talk.send("-\n")
            assert talk.rest() == b""
            assert papad.popen.wait(10) == 0
        finally:  # it runs on
            os.kill(int(made.partition(" pid=")[2].split()[0]), signal.SIGKILL)


def test_nobody_holds_papad_up(papad: Daemon) -> None:
    """A connection that is silent, one that never stops asking, and one that takes no answers."""
    with papad.connect(), papad.connect() as busy, papad.connect() as deaf:
        deaf.send("set big " + "x" * 100_000 + "\n" + "get big\n" * 200)
        start = time.monotonic()
        tell_to_end(papad)
        answers = 0
        while time.monotonic() < start + 10:
            try:
                busy.send("get nothing\n")
                busy.until(b"> ")
            except (OSError, EOFError):
                break
            answers += 1
        assert papad.popen.wait(10) == 0
    assert answers > 10


def test_a_silent_connection_is_ended_in_an_instant(papad: Daemon) -> None:
    with papad.connect() as talk:
        start = time.monotonic()
        tell_to_end(papad)
        assert talk.rest() == b""
        assert papad.popen.wait(10) == 0
    # Not at the deadline for those that ask on: that is for them alone. Generous, as machines are busy.
    assert time.monotonic() - start < 5


def test_who_connects_meanwhile_is_not_accepted(papad: Daemon) -> None:
    with papad.connect() as talk:
        tell_to_end(papad)
        with socket.socket(socket.AF_UNIX) as late:
            late.settimeout(10)
            late.connect(papad.path)  # it waits in the backlog, for the next papad where systemd holds the socket
            assert talk.ask("get nothing") == ""
            late.setblocking(False)
            with pytest.raises(BlockingIOError):
                late.recv(1)
    assert papad.popen.wait(10) == 0


def test_two_talks_are_two(papad: Daemon) -> None:
    """Each has its own pause."""
    with papad.connect() as one, papad.connect(tcp=True) as other:
        tell_to_end(papad)
        assert one.ask("set a 1") == ""
        assert other.ask("get a") == "1"
    assert papad.popen.wait(10) == 0
