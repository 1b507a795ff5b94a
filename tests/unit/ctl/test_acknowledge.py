"""Acknowledging what is in files, and nothing else. Within an archive, and over kills: tests/ctl/test_archive.py."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from papad.client.connection import connect
from papad.ctl.acknowledge import Acknowledger
from papad.ctl.cursor import Reached
from tests.support.papad import in_child, running_papad, varied_copy
from tests.support.waiting import wait_until
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
def test_who_may_only_look_tries_once_for_nothing_is_dropped(tmp_path: Path) -> None:
    """nobody may look here: the group papad-view is that of nobody."""
    varied_copy(tmp_path, "daemon/commands/roles.py", '"papad", "papad-view"', '"papad", "nogroup"')
    with running_papad(tmp_path, tcp=True, cwd=tmp_path) as daemon:
        daemon.ask("make process p shell=1 echo\\ one;\\ exec\\ sleep\\ 600")

        def told() -> dict[str, int]:
            found: dict[str, int] = json.loads(daemon.ask("describe processes p"))
            return found

        wait_until(lambda: told()["captured"] == 4, "it is captured")
        id = told()["id"]

        said = tmp_path / "said"

        def look() -> None:
            sys.stderr = open(said, "w", buffering=1)  # noqa: SIM115
            signal.alarm(20)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            acknowledger = Acknowledger(lambda: connect(daemon.port))
            acknowledger.written["p"] = id, Reached(4, 4)
            acknowledger.turn()
            assert acknowledger._tried == acknowledger.written

        assert in_child(look) == 0
        assert said.read_text() == (
            "papactl: papad drops nothing for who may only look: --acknowledge is for members of the group papad\n"
        )
        assert told()["buffered"] == 4
        os.kill(told()["pid"], signal.SIGKILL)
