"""papactl without a program of its own: command lines that are run in this process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from papad.ctl.connect import Session
from papad.ctl.declared import COMMANDS, COMMON
from papad.ctl.parser import Call, parse
from papad.ctl.run import execute, guarded
from tests.ctl.support import Done
from tests.support.papad import Daemon
from tests.support.waiting import wait_until


def called(*argv: str) -> Call:
    """A command line, parsed."""
    return parse(list(argv), COMMANDS, COMMON)


class Here:
    """Runs command lines in this process, in one session with a real papad."""

    def __init__(self, session: Session, daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
        self.session = session
        self.daemon = daemon
        self._capsys = capsys

    def __call__(self, *argv: str) -> Done:
        self._capsys.readouterr()
        status = guarded(lambda: execute(called(*argv), self.session))
        return Done(status, *self._capsys.readouterr())

    def out(self, *argv: str) -> str:
        """What it prints where all must go well."""
        done = self(*argv)
        assert (done.status, done.err) == (0, "")
        return done.out

    def described(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.daemon.ask(f"describe processes {name}"))
        return found

    def runs(self, name: str, script: str) -> None:
        """A process that has run a shell script to its end."""
        self.out("make", "process", name, "--", "/bin/sh", "-c", script)
        wait_until(lambda: self.described(name)["closed"], f"{name} has ended")
