"""Acknowledging what is in files, and nothing else. Within an archive, and over kills: tests/ctl/test_archive.py."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from papad.client.connection import connect
from papad.ctl.acknowledge import Acknowledger
from papad.ctl.cursor import Reached
from papad.ctl.main import main
from tests.support.papad import in_child, running_papad, varied_copy
from tests.unit.ctl.support import Here

NOBODY = 65534


def test_only_what_is_written_is_acknowledged(here: Here) -> None:
    here.runs("p", "echo one; echo two >&2")
    acknowledger, id = Acknowledger(lambda: connect(here.daemon.path)), here.described("p")["id"]
    for written in (Reached(4, 8), Reached(8, 4, closed=True), Reached(8, 8)):
        acknowledger.written["p"] = id, written
        acknowledger.turn()
        assert here.described("p")["acknowledged"] == 0, written
    acknowledger.written["p"] = id + 1, Reached(8, 8, closed=True)
    acknowledger.turn()
    assert here.described("p")["acknowledged"] == 0, "that is another process"
    acknowledger.written["p"] = id, Reached(8, 8, closed=True)
    acknowledger.turn()
    assert here.daemon.ask("list processes p") == ""


def test_what_is_gone_is_forgotten(here: Here) -> None:
    here.runs("p", "echo one")
    acknowledger, id = Acknowledger(lambda: connect(here.daemon.path)), here.described("p")["id"]
    acknowledger.written |= {"p": (id, Reached(4, 4, closed=True)), "q": (id + 1, Reached(9, 9))}
    here.out("remove", "processes", "p")
    acknowledger.turn()
    assert (acknowledger.written, acknowledger._tried) == ({}, {})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("words", ["watch -f p", "archive --acknowledge /nowhere p"])
def test_who_may_only_look_acknowledges_nothing_in_vain(tmp_path: Path, words: str) -> None:
    """nobody may look here: the group papad-view is that of nobody. The same output would come again and again."""
    varied_copy(tmp_path, "daemon/commands/roles.py", '"papad", "papad-view"', '"papad", "nogroup"')
    with running_papad(tmp_path, tcp=True, cwd=tmp_path) as daemon:
        said = tmp_path / "said"

        def look() -> None:
            sys.stderr = open(said, "w", buffering=1)  # noqa: SIM115
            signal.alarm(20)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            sys.stdin, sys.stdout = None, open(os.devnull, "w")  # noqa: SIM115 - pytest has replaced them
            sys.argv = ["papactl", "--port", str(daemon.port), *words.split()]
            main()

        assert os.waitstatus_to_exitcode(in_child(look)) == 1
        assert said.read_text() == (
            "papactl: you may only look, and acknowledge nothing; to read output as it comes: papactl output -f\n"
        )
