"""Goes through a session that covers every command while papad is killed at its Nth call of CALL, N = 1, 2, …: SECONDS CALL…

Stops at the N that it survives, or when the time is over. Prints one JSON object.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

from steadfast import Life, counts, faults, insist


def expect(line: str, wanted: str, *also: str) -> None:
    """Say a line; what it answers must be `wanted`, or, where it may have been done by a papad that died, one of `also`."""
    answer = insist(line)
    if answer not in (wanted, *also):
        faults.append(f"{line}: {answer!r}, not {wanted!r}")


def listener(port: str) -> str:
    """The inode of the socket that listens there."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return next((row[9] for row in rows if row[1].endswith(f":{int(port):04X}") and row[3] == "0A"), "none")


def session(name: str) -> None:
    """Every command; each answer is checked, and checked again at the end."""
    expect("set v one", "")
    expect("get v", "one")
    expect(f"set big {'x' * 40_000}", "")
    tcp = insist("make socket tcp")
    inode = listener(tcp.partition("port=")[2].split()[0])
    unix = insist("make socket unix path=/run/papad-test.sock umask=7")
    insist("make process stays bufsize=0 /bin/sleep 1000")
    stays = insist("list processes stays")
    expect("make process bad /no/such", "Error: Bad command - [Errno 2] No such file or directory: '/no/such'")
    Life(name, random.Random(name)).live()
    expect("list sockets", f"{tcp}\n{unix}")
    if listener(tcp.partition("port=")[2].split()[0]) != inode:
        faults.append("the socket is another one")
    expect("list processes", stays)
    expect("list values", f"big {'x' * 40_000}\nv one")
    expect("set v", "")
    expect("remove values big", "")
    expect("list values", "")
    expect("remove sockets tcp", "", "Error: tcp not found")
    expect("remove sockets unix", "", "Error: unix not found")
    if Path("/run/papad-test.sock").exists() and "unix" in insist("list sockets"):
        faults.append("the path of a removed socket is still there")
    expect("list sockets", "")
    subprocess.run(["pkill", "-f", "/bin/sleep 1000"], check=True)
    insist("remove processes *")
    deadline = time.monotonic() + 20
    while insist("list processes"):
        if time.monotonic() > deadline:
            faults.append("a removed process that has ended stays listed")
            break
        time.sleep(0.01)


def survives(call: str, number: int) -> bool:
    """One session with papad killed at that call; whether it never came to that."""
    Path("/run/papad-inject").write_text(f"{call} {number}\n")
    before = len(faults)
    session(f"{call}-{number}")
    faults[before:] = [f"{call} {number}: {fault}" for fault in faults[before:]]
    show = subprocess.run(
        ["systemctl", "show", "-P", "MainPID", "papad.service"], capture_output=True, text=True, check=True
    )
    subprocess.run(["systemctl", "stop", "papad.service"], check=True, capture_output=True)
    return show.stdout == Path("/run/papad-traced").read_text()


def main() -> None:
    until = time.monotonic() + float(sys.argv[1])
    reached = {}
    for call in sys.argv[2:]:
        number = 1
        while time.monotonic() < until and len(faults) < 20:
            if survives(call, number):
                reached[call] = f"all {number - 1}"
                break
            counts["killed"] += 1
            number += 1
        else:
            reached[call] = f"{number - 1}, then the time was over"
    print(json.dumps({"counts": counts, "reached": reached, "faults": faults}))


main()
