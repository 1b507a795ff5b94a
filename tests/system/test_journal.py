"""Lines that go to the journal too."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from tests.support.waiting import wait_until
from tests.system.papad import Papad

LINES = 2000
WRITER = f"""import os, time
for i in range({LINES}):
    os.write(1 + i % 2, b"line %06d of " % i); os.write(1 + i % 2, b"%d\\n" % {LINES})
    if i % 20 == 0: time.sleep(0.03)
os.write(1, b"no newline at the end"); os.write(2, b"\\xff\\x00")"""


def entries(papad: Papad, name: str) -> list[dict[str, Any]]:
    """What the journal has of a process."""
    papad.machine.run("journalctl", "--sync")
    text = papad.machine.out("journalctl", "-o", "json", f"PAPAD_NAME={name}", "PAPAD_STREAM=out", "PAPAD_STREAM=err")
    return [json.loads(line) for line in text.split("\n") if line]


def count(papad: Papad, name: str) -> int:
    """How many lines of a process the journal has, none of them empty."""
    papad.machine.run("journalctl", "--sync")
    matches = f"PAPAD_NAME={name} PAPAD_STREAM=out PAPAD_STREAM=err"
    return int(papad.machine.out("sh", "-c", f"journalctl -q -o cat {matches} | wc -l"))


def described(papad: Papad, name: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(papad.ask(f"describe processes {name}"))
    return facts


def test_every_line_goes_to_the_journal_once_over_kills_of_papad(papad: Papad) -> None:
    papad.machine.write("/run/writer.py", WRITER)
    name = f"journal.{papad.main_pid()}"
    made = papad.ask(f"make process {name} journal=1 bufsize=8m /usr/bin/python3 /run/writer.py")
    assert "running=True" in made, made
    kills = 0
    while not described(papad, name)["closed"]:
        papad.wait_for_new(papad.sigkill())
        kills += 1
    assert kills
    found = entries(papad, name)
    messages = [entry["MESSAGE"] for entry in found]
    lines = [message for message in messages if isinstance(message, str) and message.startswith("line ")]
    assert sorted(set(lines)) == [f"line {i:06d} of {LINES}" for i in range(LINES)]
    assert len(lines) - LINES <= kills, "only the line that was being sent may come twice"
    assert messages.count("no newline at the end") == 1
    assert messages.count([255, 0]) == 1
    assert {entry["PRIORITY"] for entry in found if entry["PAPAD_STREAM"] == "err"} == {"3"}
    assert {entry["PRIORITY"] for entry in found if entry["PAPAD_STREAM"] == "out"} == {"6"}
    assert {entry["SYSLOG_IDENTIFIER"] for entry in found} == {name}
    assert described(papad, name)["unforwarded"] == 0


@contextlib.contextmanager
def journald_stopped(papad: Papad) -> Iterator[None]:
    """Meanwhile the journal takes nothing. papad runs already."""
    papad.ask("get v")
    journald = papad.machine.out("systemctl", "show", "-P", "MainPID", "systemd-journald.service")
    papad.machine.run("kill", "-STOP", journald)
    try:
        yield
    finally:
        papad.machine.run("kill", "-CONT", journald)


def captured_while_journald_is_stopped(papad: Papad, name: str, bufsize: str) -> dict[str, Any]:
    """A process writes 100,000 lines while journald takes nothing; what is known of it then."""
    with journald_stopped(papad):
        papad.ask(f"make process {name} journal=1 bufsize={bufsize} /usr/bin/seq 100000")
        wait_until(lambda: described(papad, name)["closed"], "all is captured")
        return described(papad, name)


def test_a_journal_that_takes_nothing_holds_no_command_up_and_is_told_later_what_it_missed(papad: Papad) -> None:
    with journald_stopped(papad):
        for round in range(8):
            made = papad.talk(*(f"make process w{round}.{number} /bin/true" for number in range(100)))
            assert all("pid=" in line for line in made)
    wait_until(lambda: "log messages were dropped" in log_of(papad), "what was dropped is told")
    papad.ask("make process next /bin/true")
    wait_until(lambda: "started process next with pid" in log_of(papad), "it goes on")


def log_of(papad: Papad) -> str:
    papad.machine.run("journalctl", "--sync")
    return papad.machine.out("journalctl", "-q", "-o", "cat", "-t", "papad")


def test_a_journal_that_takes_nothing_holds_nothing_up_and_gets_everything_later(papad: Papad) -> None:
    facts = captured_while_journald_is_stopped(papad, "flood", "8m")
    assert facts["captured"] == facts["buffered"] == len("".join(f"{i}\n" for i in range(1, 100001)))
    wait_until(lambda: count(papad, "flood") == 100_000, "journald takes what waited")
    assert described(papad, "flood")["unforwarded"] == 0


def test_every_line_comes_or_is_counted(papad: Papad) -> None:
    facts = captured_while_journald_is_stopped(papad, "small", "4k")
    assert facts["unforwarded"] > 90_000
    wait_until(
        lambda: count(papad, "small") + described(papad, "small")["unforwarded"] == 100_000,
        "journald takes what waited",
    )


def test_nothing_captured_is_nothing_to_forward(papad: Papad) -> None:
    assert papad.ask("make process x journal=1 bufsize=0 /bin/true").startswith(
        "Error: journal=1 forwards what is captured"
    )
