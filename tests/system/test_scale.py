"""Many processes: papad is back at once, with all of them, and systemd has nothing to complain of."""

from __future__ import annotations

import json
import resource
from typing import Any

from tests.system.papad import TOOLS, Papad

ENTRIES_BESIDE_SOCKETS = 20


def many(papad: Papad, captured: int, uncaptured: int, times: int) -> dict[str, Any]:
    numbers = [str(captured), str(uncaptured), str(times)]
    done = papad.machine.run("/usr/bin/python3", f"{TOOLS}/many.py", *numbers, seconds=280)
    report: dict[str, Any] = json.loads(done.stdout)
    print(report)
    return report


def test_a_thousand_processes(papad: Papad) -> None:
    cursor = papad.machine.cursor()
    report = many(papad, 1000, 0, times=5)
    assert report["count"] == 1000
    assert report["same"]
    assert report["recovery"][0] < 0.5, "of five times, not even the quickest"
    assert int(papad.show("NFileDescriptorStore")) < ENTRIES_BESIDE_SOCKETS
    papad.restart()
    journal = papad.machine.journal(cursor, "-u", "papad.service")
    assert "started process c999" in journal
    assert "left-over" not in journal
    assert "remains running" not in journal


def test_as_many_processes_as_the_machine_allows_up_to_ten_thousand(papad: Papad) -> None:
    """papad holds four descriptors of a process with output captured, one of any other; the hard RLIMIT_NOFILE bounds them all."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    captured = min(5000, (hard - 1000) // 4 - 1700)
    uncaptured = min(10_000 - captured, hard - 500 - 4 * captured)
    report = many(papad, captured, uncaptured, times=1)
    assert report["count"] == captured + uncaptured
    assert report["same"]
    assert int(papad.show("NFileDescriptorStore")) < ENTRIES_BESIDE_SOCKETS
