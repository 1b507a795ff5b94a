"""Uses papad in every way while it is killed at random instants, and checks every promise: SECONDS SEED [--no-nursery-kills].

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
from collections import Counter
from pathlib import Path
from typing import Self

WHERE = "/run/papad/papad.sock"
WRITER = "/opt/papad-test/writer.py"
SERVER = "/opt/papad-test/worker.py"
CGROUPS = Path("/sys/fs/cgroup/system.slice")
WRITERS = 20

counts: Counter[str] = Counter()
faults: list[str] = []
over = threading.Event()


class Gone(Exception):
    """The connection ended: papad was killed."""


class Session:
    """One connection to papad."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.data = b""
        try:
            self.sock.connect(WHERE)
        except OSError as error:
            raise Gone from error
        self.until(b"> ")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def until(self, end: bytes) -> bytes:
        while end not in self.data:
            self.data += self._more()
        found, _, self.data = self.data.partition(end)
        return found

    def take(self, size: int) -> bytes:
        while len(self.data) < size:
            self.data += self._more()
        found, self.data = self.data[:size], self.data[size:]
        return found

    def _more(self) -> bytes:
        try:
            more = self.sock.recv(1 << 16)
        except TimeoutError:
            faults.append(f"no answer in 30 s; so far {self.data[-200:]!r}")
            raise Gone from None
        except OSError as error:
            raise Gone from error
        if not more:
            raise Gone
        return more

    def send(self, line: str) -> None:
        try:
            self.sock.sendall(line.encode() + b"\n")
        except OSError as error:
            raise Gone from error

    def ask(self, line: str) -> str:
        self.send(line)
        return self.until(b"\n> ").decode()


def insist(line: str) -> str:
    """The answer to a command that may be said again, from whichever papad lives to give it."""
    while True:
        try:
            with Session() as session:
                return session.ask(line)
        except Gone:
            counts["asked again"] += 1


class Output:
    """What has come of one process's stream: every byte once, in order, is what it checks."""

    def __init__(self, name: str, stream: str) -> None:
        self.head = f"{name}:{stream}:"
        self.length = len(self.head) + 9
        self.sure = 0  # bytes whose acknowledgement papad is known to have
        self.sent = 0  # bytes whose acknowledgement was sent

    def matches(self, position: int, data: bytes) -> bool:
        first, skip = divmod(position, self.length)
        count = (skip + len(data)) // self.length + 1
        text = "".join(f"{self.head}{first + i:08d}\n" for i in range(count)).encode()
        return text[skip : skip + len(data)] == data


class Life:
    """One process, from its making to its acknowledged end."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self.name = name
        self.lines = chance.choice((1, 50, 400, 2000))
        self.code = chance.choice((0, 0, 1, 7, 255, -9, -15))
        self.streams = {"out": Output(name, "out"), "err": Output(name, "err")}
        self.command = (
            f"make process {name} /usr/bin/python3 -S {WRITER} {name} {self.lines} {self.code} {chance.random()}"
        )

    def live(self) -> None:
        line = insist(self.command)
        if not line.startswith(f"{self.name} pid="):
            faults.append(f"{self.command}: {line}")
            return
        self.identity = line.partition(" running=")[0]
        while True:
            try:
                with Session() as session:
                    if self.follow(session):
                        break
            except Gone:
                counts["watched again"] += 1
        counts["processes"] += 1

    def follow(self, session: Session) -> bool:
        """Watch until the end; whether it is reached."""
        listed = session.ask(f"list processes {self.name}")
        if listed and not listed.startswith(self.identity):
            faults.append(f"{self.identity} became {listed}")
        session.send(f"watch processes {self.name}")
        if session.until(b"\n") != b"Watching 1":
            return self.acknowledged_end()
        first, closed = True, False
        while True:
            closed = self.batch(session, first=first) or closed
            first = False
            session.send("-")
            if closed:
                self.end_sent = True
                return session.until(b"\n> ") == b"Nothing left to watch" or not faults.append(
                    f"{self.name}: after its end"
                )

    end_sent = False

    def acknowledged_end(self) -> bool:
        """papad does not know the process any more: right only if we have acknowledged its end."""
        if not self.end_sent:
            faults.append(f"{self.name} is forgotten before its end was acknowledged")
        return True

    def batch(self, session: Session, *, first: bool) -> bool:
        """Read one batch and check it; whether the end was in it."""
        records: list[tuple[str, bytes]] = []
        code = None
        while (head := session.take(2)) != b"] ":
            kind, _, _, number = (head + session.until(b"\n")).decode().split(":")
            if kind == "closed":
                code = int(number)
            else:
                records.append((kind, session.take(int(number) + 1)[:-1]))
        self.place(first=first, starts=dict(reversed(records)))
        for kind, data in records:
            counts["bytes"] += len(data)
            output = self.streams[kind]
            if not output.matches(output.sent, data):
                faults.append(f"{self.name} {kind} at {output.sent}: {data[:80]!r}")
            output.sent += len(data)
        if code is not None:
            self.check_end(code)
        return code is not None

    def place(self, *, first: bool, starts: dict[str, bytes]) -> None:
        """Where a batch begins. The first of a connection shows whether our last acknowledgement arrived."""
        arrived = all(self.streams[kind].matches(self.streams[kind].sent, data) for kind, data in starts.items())
        for output in self.streams.values():
            if first and not arrived:
                output.sent = output.sure
            else:
                output.sure = output.sent

    def check_end(self, code: int) -> None:
        if code != self.code:
            faults.append(f"{self.name} ended with {code}, not {self.code}")
        for stream, output in self.streams.items():
            if output.sent != self.lines * output.length:
                faults.append(f"{self.name} {stream}: {output.sent} bytes of {self.lines * output.length}")


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


def killer(seed: str, *, nursery_too: bool) -> None:
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
        elif dice < float(os.environ.get("NK", "0.04")) and nursery_too:
            if pid := nursery():
                kill(pid, "nursery kills")
        else:
            for pid in pids("papad.service"):
                if comm(pid) == "papad":
                    kill(pid, "kills")


def main() -> None:
    seconds, seed = float(sys.argv[1]), sys.argv[2]
    insist("make socket web backlog=128")
    port = int(re.findall(r"port=(\d+)", insist("list sockets web"))[0])
    insist(f"make process web bufsize=0 /usr/bin/python3 {SERVER} $(socket.web.fileno)")
    threads = [guarded(processes, number, seed) for number in range(WRITERS)]
    threads += [guarded(values, seed), guarded(sockets, seed), guarded(requests, port)]
    threads.append(guarded(lambda: killer(seed, nursery_too="--no-nursery-kills" not in sys.argv)))
    time.sleep(seconds)
    over.set()
    for thread in threads:
        thread.join(60)
    print(json.dumps({"counts": counts, "faults": faults[:50], "stuck": sum(thread.is_alive() for thread in threads)}))
    sys.stdout.flush()
    os._exit(0)


main()
