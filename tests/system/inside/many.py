"""Makes many processes, kills papad several times, and measures until it answers again: CAPTURED UNCAPTURED TIMES.

Prints one JSON object.
"""

import json
import os
import signal
import subprocess
import sys
import time

from talk import Talk

WHERE = "/run/papad/papad.sock"
AHEAD = 100  # commands sent ahead of their answers


def make(count: int, name: str, options: str) -> float:
    """Make that many processes; how many a second."""
    began = time.monotonic()
    with Talk(WHERE) as talk:
        for start in range(0, count, AHEAD):
            numbers = range(start, min(start + AHEAD, count))
            lines = [f"make process {name}{number} {options} /bin/sleep 1000\n" for number in numbers]
            talk.socket.sendall("".join(lines).encode())
            for _ in lines:
                answer = talk._line().decode()
                assert answer.removeprefix("> ").startswith(name), answer
    return count / (time.monotonic() - began)


def listed() -> list[str]:
    with Talk(WHERE) as talk:
        return talk.ask("list processes").split("\n")


captured, uncaptured = int(sys.argv[1]), int(sys.argv[2])
rates = [
    make(count, name, options)
    for count, name, options in ((captured, "c", ""), (uncaptured, "u", "bufsize=0"))
    if count
]
before = listed()
show = ["systemctl", "show", "-P", "MainPID", "papad.service"]


def recovery() -> float:
    """Kill papad; the seconds until it answers again."""
    pid = int(subprocess.run(show, capture_output=True, check=True).stdout)
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    while True:
        try:
            with Talk(WHERE) as talk:
                if talk.greeting and talk.ask("list sockets") == "":
                    return time.monotonic() - began
        except (OSError, EOFError):
            pass


times = sorted(recovery() for _ in range(int(sys.argv[3])))
print(json.dumps({"rates": rates, "count": len(before), "same": listed() == before, "recovery": times}))
