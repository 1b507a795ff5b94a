"""Acknowledging what is in files, and nothing else. Within an archive, and over kills: tests/ctl/test_archive.py."""

from __future__ import annotations

from papad.client.connection import connect
from papad.ctl.acknowledge import Acknowledger
from papad.ctl.cursor import Reached
from tests.unit.ctl.support import Here


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
