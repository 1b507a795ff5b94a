"""A papad whose path is taken away says so."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from tests.support.papad import Daemon, open_fds
from tests.support.waiting import wait_until

LOST = "no longer leads to papad: somebody has removed or replaced it"


def test_a_path_that_is_removed_or_replaced_is_told_once_each_time(own_papad: Daemon, tmp_path: Path) -> None:
    with own_papad.connect() as talk:
        (tmp_path / "something else").touch()
        assert talk.ask("get a") == ""
        assert LOST not in own_papad.log
        away = tmp_path / "away"
        os.rename(own_papad.path, away)
        wait_until(lambda: own_papad.log.count(LOST) == 1, "it is told")
        os.rename(away, own_papad.path)
        assert talk.ask("get a") == ""
        os.unlink(own_papad.path)
        wait_until(lambda: own_papad.log.count(LOST) == 2, "it is told again")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(own_papad.path)
            (tmp_path / "and more").touch()
            assert talk.ask("get a") == ""
        assert own_papad.log.count(LOST) == 2
        assert f"papad: CRITICAL: {own_papad.path} {LOST}" in own_papad.log


def test_a_path_that_was_lost_while_papad_was_away_is_told_at_its_start(own_papad: Daemon) -> None:
    os.unlink(own_papad.path)
    os.kill(own_papad.pid, signal.SIGKILL)
    wait_until(lambda: own_papad.log.count("is home") == 2, "the next one is home")
    wait_until(lambda: LOST in own_papad.log, "it is told")


def test_a_path_that_was_replaced_while_papad_was_away_is_told_at_its_start(own_papad: Daemon) -> None:
    """As the original client does, whose connection has just ended before the welcome."""
    os.kill(own_papad.pid, signal.SIGKILL)
    os.unlink(own_papad.path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(own_papad.path)
        wait_until(lambda: own_papad.log.count("is home") == 2, "the next one is home")
        wait_until(lambda: LOST in own_papad.log, "it is told")


def test_it_takes_one_descriptor(own_papad: Daemon) -> None:
    assert sum("inotify" in what for what in open_fds(own_papad.pid).values()) == 1
