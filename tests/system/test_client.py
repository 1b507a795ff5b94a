"""The client library on a booted systemd: it goes on while papad is killed, and starts papad by its socket unit."""

from __future__ import annotations

import json
import random

from tests.support.waiting import wait_until
from tests.system.papad import STRANGER, TOOLS, UNITS, Papad

KILLS = 50
WHERE = "from papad import Papa\nwith Papa() as p: print(p.port_or_path, p.list_values())"


def test_following_over_kills_gives_every_line_once(papad: Papad) -> None:
    """So does watching, and following with asyncio."""
    seed = str(random.randrange(10**9))
    command = ("/usr/bin/python3", f"{TOOLS}/following.py", str(KILLS), seed)
    report = json.loads(papad.machine.run(*command, seconds=280).stdout)
    print(seed, report)
    assert report["faults"] == []
    assert report["kills"] == KILLS
    assert min(report["lines"].values()) > 1000


def test_the_socket_unit_is_started_where_nobody_listens(papad: Papad) -> None:
    papad.systemctl("stop", *UNITS, check=False)
    assert papad.show("ActiveState", "papad.socket") == "inactive"
    said = papad.machine.out("/usr/bin/python3", "-c", WHERE)
    assert said.endswith(" {}")
    assert papad.show("ActiveState", "papad.socket") == "active"
    assert papad.show("ActiveState") == "active"


def test_so_is_that_of_a_user(own: Papad) -> None:
    Papad(own.machine).systemctl("stop", *UNITS, check=False)
    own.systemctl("stop", *UNITS, check=False)
    env = {"XDG_RUNTIME_DIR": own.where.removesuffix("/papad.sock")}
    said = own.machine.out("/usr/bin/python3", "-c", WHERE, user=own.user, env=env)
    assert said == f"{own.where} {{}}"
    assert own.show("ActiveState", "papad.socket") == "active"
    wait_until(lambda: own.show("ActiveState") == "active", "papad runs")


def test_a_user_who_may_not_is_told_so_at_once(papad: Papad) -> None:
    papad.ask("set a 1")
    done = papad.machine.run("/usr/bin/python3", "-c", WHERE, user=STRANGER, check=False)
    assert done.returncode == 1
    assert "no permission to talk to papad" in done.stderr
