"""papad beside systemd (spawn, memory) and its journal (capture), on a Debian that is booted in a container: root only."""

from __future__ import annotations

import subprocess

from benchmarks.figures import ROUNDS, SECONDS, leave_out
from tests.system import papad as installed
from tests.system.machine import Machine, why_not
from tests.system.trees import tree

RELEASE = "trixie"
CHECKOUT = "/root/papad"
LONGEST = 900  # s
UNLIMITED = """
[Journal]
RateLimitIntervalSec=0
"""


def main() -> None:
    if reason := why_not():
        leave_out("systemd", reason)
        return
    try:
        root = tree(RELEASE)
    except (RuntimeError, OSError, subprocess.SubprocessError):
        leave_out("systemd", f"a tree of Debian {RELEASE} cannot be made")
        return
    with Machine(root, f"{RELEASE}-bench") as machine:
        installed.install(machine)
        machine.write("/etc/systemd/journald.conf.d/bench.conf", UNLIMITED)
        machine.run("systemctl", "restart", "systemd-journald.service")
        machine.run("systemctl", "start", "papad.socket")
        env = {"PYTHONPATH": CHECKOUT, "ROUNDS": str(ROUNDS), "SECONDS": str(SECONDS)}
        done = machine.run("/usr/bin/python3", "-m", "benchmarks.booted", env=env, seconds=LONGEST)
        print(done.stdout, end="", flush=True)


if __name__ == "__main__":
    main()
