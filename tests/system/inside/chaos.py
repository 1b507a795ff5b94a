"""Uses papad in every way while all parts of it are killed at random instants, and checks every promise.

    chaos.py SECONDS SEED [--progress]

papad holds everything in two homes, and either may go, but not both: what is killed or dropped next is so only after
what was lost before is whole again. Daemon and nursery are killed together, too; a process that ends by itself while
both are gone may lose what it wrote last: those are counted as `unknown tails`. One whose nursery was killed may have
an `unknown code`. Where there are two versions of papad to choose from, the other one takes its place now and then,
and renews the nursery.

Prints one JSON object: counts of what was done, and a list of what went wrong.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from steadfast import Gone, Life, Session, blows, both_gone, counts, faults, insist, nursery_kills

SERVER = "/opt/papad-test/worker.py"
WRITERS = 20
SYSTEMD = int(subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout.split()[1])

over = threading.Event()


def guarded(task: object, *args: object) -> threading.Thread:
    def run() -> None:
        try:
            task(*args)  # type: ignore[operator]
        except Exception as error:
            faults.append(f"the test itself: {task}: {error!r}")
            over.set()
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


DECK = (
    ["kills"] * 26
    + ["restarts"] * 2
    + ["daemon-reexecs"]
    + ["nursery kills"] * 3
    + ["nursery kills, then papad"] * 3
    + ["kills of both"] * 3
    + ["stops"] * 2
    + ["FD stores dropped"] * 3
)

BOTH = ("nursery kills, then papad", "kills of both")
VERSION = Path("/opt/papad-test/version")
"""A symlink to the version of papad that runs next; absent where there is only one."""
if VERSION.exists():
    DECK += ["version changes"] * 4


def alive(pid: int) -> bool:
    """Whether it runs: a process that was killed is a zombie until it is reaped."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def whole() -> tuple[int, int]:
    """Wait until papad is up and has a nursery that holds everything; the pids of both."""
    known = 0, 0
    while True:
        facts = json.loads(insist("describe server"))
        before, known = known, (facts["pid"], facts["nursery"])
        # Asked twice: it is given everything right after it is known. papad may not know yet that it was killed.
        if known[1] and known == before and alive(known[1]):
            return known
        time.sleep(0.002)


def systemctl(*args: str) -> None:
    done = subprocess.run(["systemctl", *args], capture_output=True, text=True)
    if done.returncode:
        log = subprocess.run(["journalctl", "-q", "-n60", "-o", "short-precise"], capture_output=True, text=True)
        raise RuntimeError(f"systemctl {' '.join(args)}: {done.stderr}{log.stdout}")


def kill(pid: int) -> None:
    """And wait until it is dead: until then it would pass for alive."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            select.select([fd], [], [], 10)
        finally:
            os.close(fd)


def stop(*, fd_store: bool) -> None:
    """Stop papad and its socket, so that nobody starts it meanwhile, and start both."""
    systemctl("stop", "papad.socket", "papad.service")
    if not fd_store and SYSTEMD >= 254:  # before, the stop drops it in any case
        systemctl("clean", "--what=fdstore", "papad.service")
    systemctl("start", "papad.socket", "papad.service")


def change_version() -> None:
    """Let the next papad be the version that the last one was not."""
    new = VERSION.with_name("version.new")
    new.symlink_to({"now": "next", "next": "now"}[os.readlink(VERSION)])
    new.rename(VERSION)


def image(pid: int) -> str:
    """Where the arguments of a process are, which changes at each execve(2) (proc(5), arg_start)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[45]


def renewed(nursery: int, before: str, within: float) -> bool:
    """Wait until the nursery has executed another program."""
    deadline = time.monotonic() + within
    while image(nursery) == before:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    counts["renewals"] += 1
    return True


def renew(nursery: int) -> None:
    """Change the version until the nursery is renewed: the first time it may have run that one already."""
    before = image(nursery)
    for within in (5, 20):
        daemon, _ = whole()
        change_version()
        kill(daemon)
        if renewed(nursery, before, within):
            return
    faults.append("the nursery was not renewed")


def blow(what: str, chance: random.Random) -> None:
    daemon, nursery = whole()
    blows.append(f"{time.time():.3f} {what}")
    match what:
        case "kills":
            kill(daemon)
        case "version changes":
            if counts["version changes"] % 2 == 0:
                renew(nursery)
            else:  # what comes next may come while it is renewed
                change_version()
                kill(daemon)
        case "restarts":
            systemctl("restart", "papad.service")
        case "daemon-reexecs":
            systemctl("daemon-reexec")
        case "stops" | "FD stores dropped":
            stop(fd_store=what == "stops")
        case "nursery kills":
            nursery_kills.append(time.time())
            kill(nursery)
        case _:
            nursery_kills.append(time.time())
            both_gone.append((time.time(), math.inf))
            kill(nursery)
            if what == "nursery kills, then papad":
                time.sleep(chance.random() * 0.3)
            kill(daemon)
            whole()
            both_gone.append((both_gone.pop()[0], time.time()))
    counts[what] += 1


def killer(seed: str) -> None:
    chance = random.Random(seed)
    deck = chance.sample(DECK, len(DECK)) + list(dict.fromkeys(DECK))  # first each of them once, last to first
    while not over.is_set():
        time.sleep(chance.choice((0.02, 0.1, 0.2, 0.4)) * chance.random() * 2)
        deck = deck or chance.sample(DECK, len(DECK))
        blow(deck.pop(), chance)


def progress(seconds: float, every: float) -> None:
    """Wait, and say on standard error how it goes."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        time.sleep(min(every, seconds - passed))
        if every < seconds:
            print(
                f"{time.monotonic() - began:4.0f} s  papad killed {counts['kills']}, stopped {counts['restarts'] + counts['stops']},"
                f" its nursery killed {counts['nursery kills']}, both {sum(counts[what] for what in BOTH)}, FD store dropped"
                f" {counts['FD stores dropped']} | {counts['requests']} requests served, {counts['refused']} refused |"
                f" {counts['bytes'] >> 10} KiB of output, each byte once | {counts['processes']} exit codes,"
                f" {counts['unknown codes']} unknown | {counts['values']} values kept | {len(faults)} faults",
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
