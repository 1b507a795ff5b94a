"""Uses papad in every way while it is killed at random instants, and checks every promise: SECONDS SEED [--progress].

Prints one JSON object: counts of what was done, and a list of what went wrong.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from steadfast import Gone, Life, Session, counts, faults, insist

SERVER = "/opt/papad-test/worker.py"
CGROUPS = Path("/sys/fs/cgroup/system.slice")
WRITERS = 20

over = threading.Event()


def guarded(task: object, *args: object) -> threading.Thread:
    def run() -> None:
        try:
            task(*args)  # type: ignore[operator]
        except Exception as error:
            faults.append(f"the test itself: {task}: {error!r}")
            raise

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def processes(number: int, seed: str) -> None:
    chance = random.Random(f"{seed}-{number}")
    generation = 0
    while not over.is_set():
        generation += 1
        Life(f"w{number}.{generation}", chance).live()


def values(seed: str) -> None:
    """A value that was answered is kept; one whose answer never came is either old or new."""
    chance = random.Random(seed)
    known: dict[str, set[str]] = {}
    serial = 0
    while not over.is_set():
        name, serial = f"v{chance.randrange(50)}", serial + 1
        value = "" if chance.random() < 0.2 else f"{serial}-" + "x" * chance.choice((1, 100, 50_000))
        try:
            with Session() as session:
                known[name] = known.get(name, {""}) | {value}
                session.ask(f"set {name} {value}")
                known[name] = {value}
                counts["values"] += 1
        except Gone:
            pass
        name = chance.choice(list(known))
        found = insist(f"get {name}").strip("\n")
        if found not in known[name]:
            faults.append(f"value {name} is {found[:50]!r}, not one of {[each[:50] for each in known[name]]}")
        known[name] = {found}


def inode(port: int) -> list[str]:
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sorted(row.split()[9] for row in table if row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "0A")


def sockets(seed: str) -> None:
    """Sockets come and go; those that stay keep line and inode, those removed are gone."""
    chance = random.Random(seed)
    made: dict[str, tuple[str, list[str]]] = {}
    while not over.is_set():
        name = f"s{chance.randrange(20)}"
        if name not in made:
            line = insist(f"make socket {name}")
            made[name] = line, inode(int(line.partition("port=")[2].split()[0]))
            counts["sockets"] += 1
        elif chance.random() < 0.2:
            insist(f"remove sockets {name}")
            del made[name]
        else:
            line = insist(f"list sockets {name}")
            now = inode(int(line.partition("port=")[2].split()[0] or 0)) if line else []
            if (line, now) != made[name]:
                faults.append(f"{made[name]} became {(line, now)}")
        time.sleep(0.02)


def requests(port: int) -> None:
    """A worker on a papad socket serves all the time."""
    while not over.is_set():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                client.sendall(b"?\n")
                if not client.recv(100):
                    faults.append("a connection was closed unanswered")
            counts["requests"] += 1
        except OSError as error:
            counts["refused"] += 1
            faults.append(f"request: {error!r}")
        time.sleep(0.005)


def pids(unit: str) -> list[int]:
    try:
        return [int(pid) for pid in (CGROUPS / unit / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def nursery() -> int:
    """The nursery; its children look alike until they exec, but not for long."""
    for unit in (path.name for path in CGROUPS.glob("papad-processes*.scope")):
        for pid in sorted(pids(unit)):
            if comm(pid) == "papad-nursery" and age(pid) > 0.5:
                return pid
    return 0


def age(pid: int) -> float:
    """Seconds since the process was forked."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def kill(pid: int, what: str) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        counts[what] += 1
    except ProcessLookupError:
        pass


def killer(seed: str) -> None:
    chance = random.Random(seed)
    while not over.is_set():
        time.sleep(chance.choice((0.02, 0.1, 0.2, 0.4)) * chance.random() * 2)
        dice = chance.random()
        if dice < 0.02:
            subprocess.run(["systemctl", "restart", "papad.service"], check=True)
            counts["restarts"] += 1
        elif dice < 0.03:
            subprocess.run(["systemctl", "daemon-reexec"], check=True)
            counts["daemon-reexecs"] += 1
        elif dice < 0.05:
            if pid := nursery():
                kill(pid, "nursery kills")
        else:
            for pid in pids("papad.service"):
                if comm(pid) == "papad":
                    kill(pid, "kills")


def progress(seconds: float, every: float) -> None:
    """Wait, and say on standard error how it goes."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        time.sleep(min(every, seconds - passed))
        if every < seconds:
            print(
                f"{time.monotonic() - began:4.0f} s  papad killed {counts['kills']}, restarted {counts['restarts']}, its nursery killed"
                f" {counts['nursery kills']} | {counts['requests']} requests served, {counts['refused']} refused |"
                f" {counts['bytes'] >> 10} KiB of output, each byte once | {counts['processes']} exit codes right |"
                f" {counts['values']} values kept | {len(faults)} faults",
                file=sys.stderr,
                flush=True,
            )


def main() -> None:
    seconds, seed = float(sys.argv[1]), sys.argv[2]
    insist("make socket web backlog=128")
    port = int(re.findall(r"port=(\d+)", insist("list sockets web"))[0])
    insist(f"make process web bufsize=0 /usr/bin/python3 {SERVER} $(socket.web.fileno)")
    threads = [guarded(processes, number, seed) for number in range(WRITERS)]
    threads += [guarded(values, seed), guarded(sockets, seed), guarded(requests, port)]
    threads.append(guarded(killer, seed))
    progress(seconds, every=2 if "--progress" in sys.argv else seconds)
    over.set()
    for thread in threads:
        thread.join(60)
    print(json.dumps({"counts": counts, "faults": faults[:50], "stuck": sum(thread.is_alive() for thread in threads)}))
    sys.stdout.flush()
    os._exit(0)


main()
