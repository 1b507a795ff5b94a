"""Kill papad every 50 ms until standard input ends; then report as JSON how often it was there to be killed."""

import contextlib
import json
import os
import select
import signal
import sys
from pathlib import Path

GROUP = Path("/sys/fs/cgroup/system.slice/papad.service/cgroup.procs")

killed = set()
print("started", flush=True)
while not select.select([sys.stdin], [], [], 0.05)[0]:
    with contextlib.suppress(OSError):
        for pid in GROUP.read_text().split():
            os.kill(int(pid), signal.SIGKILL)
            killed.add(pid)
print(json.dumps({"count": len(killed), "failures": []}))
