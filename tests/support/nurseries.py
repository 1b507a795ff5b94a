"""A running nursery, and the end of its channel that a papad has."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from papad.daemon.durable import parcel
from papad.daemon.nursery import renewal
from tests.support.papad import REPOSITORY
from tests.support.waiting import wait_until

NOTHING: dict[str, Any] = {
    "env": {},
    "rlimits": {},
    "working_dir": None,
    "uid": None,
    "gid": None,
    "groups": None,
    "nofile": 1024,
}
LONG = "/no/" + "x" * 17_000
Report = dict[str, Any]


class Daemon:
    """The end of a channel that a papad has."""

    last_id = 0

    def __init__(self, address: bytes) -> None:
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(10)
        try:
            self.channel.connect(address)
        except OSError:
            self.channel.close()
            raise
        self.pidfds: list[int] = []
        self.keeps_gates = False
        self.gates: list[int] = []

    def say(self, **message: Any) -> None:
        parcel.send(self.channel, message)

    def hear(self) -> Report:
        data, fds = parcel.receive(self.channel)
        assert data, "the nursery is gone"
        report = parcel.unpack(data, fds)
        if report["what"] == "held":
            assert len(report["names"]) == len(fds) <= parcel.MAX_FDS
            report["fds"] = fds
        else:
            self.pidfds += fds[:1]
            if self.keeps_gates:
                self.gates += fds[1:]
            else:
                parcel.close_all(fds[1:])
            assert bool(fds) == (report["what"] == "forked")
        return report

    def hello(self) -> tuple[dict[str, int], list[Report]]:
        """What the nursery holds, as inodes in its order, and its reports."""
        number = time.time_ns()
        self.say(do="hello", number=number)
        held: dict[str, int] = {}
        reports: list[Report] = []
        while (report := self.hear()) != {"what": "synced", "number": number}:
            if report["what"] == "hello":  # what came before is told again
                held, reports = {}, []
            elif report["what"] == "held":
                held.update(zip(report["names"], [os.fstat(fd).st_ino for fd in report["fds"]], strict=True))
                parcel.close_all(report["fds"])
            elif "id" in report:
                reports.append(report)
        return held, reports

    def acknowledge(self, report: Report) -> None:
        self.say(do="ack", id=report["id"], what=report["what"])

    def spawn(self, *args: str, targets: dict[int, int] | None = None, **changes: Any) -> int:
        """Ask for a process with these descriptors besides /dev/null for 0, 1 and 2; its id."""
        Daemon.last_id += 1
        null = os.open(os.devnull, os.O_RDWR)
        wanted = {0: null, 1: null, 2: null} | (targets or {})
        hold = changes.pop("hold", {})
        message = {"do": "spawn", "id": Daemon.last_id, "args": args, "targets": list(wanted), "hold": list(hold)}
        parcel.send(self.channel, message | NOTHING | changes, [*wanted.values(), *hold.values()])
        os.close(null)
        return Daemon.last_id

    def hold(self, name: str, fd: int) -> None:
        parcel.send(self.channel, {"do": "hold", "name": name}, [fd])

    def barrier(self) -> None:
        """Return once all was done that was said; reports that come before are dropped."""
        number = time.time_ns()
        self.say(do="barrier", number=number)
        while self.hear() != {"what": "barrier", "number": number}:
            pass

    def until(self, id: int, *whats: str) -> Report:
        """Acknowledge everything until one of `whats` is said of the process."""
        while True:
            report = self.hear()
            if "id" in report:
                self.acknowledge(report)
            if report.get("id") == id and report["what"] in whats:
                return report

    def forked(self, id: int) -> Report:
        """Wait until it is forked, which stays unacknowledged."""
        report = self.hear()
        assert (report["what"], report["id"]) == ("forked", id)
        return report

    def code(self, id: int) -> int:
        report = self.until(id, "exited", "failed")
        assert report["what"] == "exited", report
        return int(report["code"])

    def output(self, *args: str, targets: dict[int, int] | None = None, **changes: Any) -> str:
        """What a process writes to its standard output before it ends well."""
        reader, writer = os.pipe()
        id = self.spawn(*args, targets={1: writer, **(targets or {})}, **changes)
        os.close(writer)
        self.until(id, "spawned")
        with open(reader, "rb") as pipe:
            text = pipe.read().decode(errors="surrogateescape")
        assert self.code(id) == 0
        return text

    def lost(self) -> bool:
        """Whether the nursery has closed the channel, after all that it had sent."""
        with contextlib.suppress(ConnectionResetError):
            while select.select([self.channel], [], [], 0)[0]:
                data, fds = parcel.receive(self.channel)
                parcel.close_all(fds)
                if not data:
                    return True
        return False

    def close(self) -> None:
        self.channel.close()
        self.close_pidfds()

    def close_pidfds(self) -> None:
        parcel.close_all(self.pidfds)
        self.pidfds.clear()


class Nursery(Daemon):
    """A running nursery, with the papad that talks to it now."""

    def __init__(self, linger: float = 10.0) -> None:
        # A parent like those found in the wild: signals ignored and blocked, an odd umask.
        parent = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]);"
        parent += "[signal.signal(each, signal.SIG_IGN) for each in (signal.SIGQUIT, signal.SIGUSR1, signal.SIGTSTP)];"
        program = f"{parent} from papad.daemon.nursery import main; main._LINGER = {linger}; main.main()"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(b"")  # an address in the network namespace, which everybody can reach
            listener.listen(8)
            self.popen = subprocess.Popen(
                [sys.executable, "-c", program, str(listener.fileno())],
                cwd=REPOSITORY,
                pass_fds=[listener.fileno()],
                umask=0o077,
            )
            self.address = listener.getsockname()
        super().__init__(self.address)
        self.say(do="hello", number=1)
        about = {"protocol": 2, "program": renewal.program(), "state": renewal.STATE}
        assert self.hear() == {"what": "hello", "pid": self.popen.pid} | about
        assert self.hear() == {"what": "synced", "number": 1}

    def reconnect(self) -> None:
        """Be another papad from now on. It says nothing yet.

        It comes before the older one has left: otherwise the nursery may end, if it holds nothing.
        """
        older, self.channel = self.channel, Daemon(self.address).channel
        older.close()

    def end(self) -> None:
        """A papad that ends and holds nothing; then the nursery has to end, too."""
        with contextlib.suppress(ConnectionRefusedError, ConnectionResetError, BrokenPipeError):  # it has ended
            self.reconnect()
            held, reports = self.hello()
            for name in held:
                self.say(do="drop", name=name)
            for report in reports:
                self.acknowledge(report)
        self.close()
        self.popen.wait(10)


def children(nursery: Nursery) -> list[int]:
    return [
        int(pid) for pid in Path(f"/proc/{nursery.popen.pid}/task/{nursery.popen.pid}/children").read_text().split()
    ]


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends, which are closed at the end at the latest."""
    ends = os.pipe()
    inode = os.fstat(ends[0]).st_ino
    try:
        yield ends
    finally:
        for end in ends:
            with contextlib.suppress(OSError):
                if os.fstat(end).st_ino == inode:
                    os.close(end)


class Hanging:
    """A program whose exec hangs until `go`: the lease that this process has on it must be given back first."""

    def __init__(self, folder: Path) -> None:
        self.path = shutil.copy("/bin/true", f"{folder}/hanging")
        self.fd = os.open(self.path, os.O_RDONLY)
        fcntl.fcntl(self.fd, fcntl.F_SETSIG, signal.SIGURG)  # which is ignored
        fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    def wait(self) -> None:
        """Return once somebody's exec hangs."""
        wait_until(lambda: fcntl.fcntl(self.fd, fcntl.F_GETLEASE) != fcntl.F_WRLCK, "the exec hangs")

    def go(self) -> None:
        fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
