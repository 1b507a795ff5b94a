"""papactl in a machine: what it follows goes on while papad is killed over and over."""

from __future__ import annotations

from tests.system.machine import wait_until
from tests.system.papad import Papad

KILLS = 50
WRITER = """import os, time
number = 0
while not os.path.exists("/run/enough"):
    os.write(1, b"".join(b"line %07d\\n" % (number + i) for i in range(20)))
    number += 20
    time.sleep(0.01)
os.write(1, b"the end after %d" % number)"""
FOLLOW = "papactl output --follow --lines=all --output=cat w >/run/followed 2>/run/followed.errors & read _; kill $!"


def test_a_follow_over_fifty_kills_prints_every_line_once(papad: Papad) -> None:
    papad.machine.run("rm", "-f", "/run/enough")
    papad.machine.write("/run/writer.py", WRITER)
    followed = papad.machine.root("/run/followed")
    with papad.machine.running("sh", "-c", FOLLOW):
        papad.ask("make process w bufsize=64m /usr/bin/python3 /run/writer.py")
        wait_until(lambda: followed.exists() and followed.stat().st_size, "the first lines are printed")
        for _ in range(KILLS):
            papad.wait_for_new(papad.sigkill())
        papad.machine.write("/run/enough", "")
        wait_until(lambda: "the end" in followed.read_text(), "the last line is printed")
        *lines, end = followed.read_text().splitlines()
    assert end == f"the end after {len(lines)}"
    assert lines == [f"line {number:07d}" for number in range(len(lines))]
    assert len(lines) > 1000
