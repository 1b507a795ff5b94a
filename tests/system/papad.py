"""papad as it is installed in a machine: what the tests say to it and do to it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import wait_until
from tests.system.machine import HERE, Machine

CHECKOUT = HERE.parent.parent
TOOLS = "/opt/papad-test"
UNIX = "/run/papad/papad.sock"
SCOPE = "papad-processes.scope"
SCOPES = "papad-processes*.scope"
UNITS = ("papad.socket", "papad.service", SCOPE)
MEMBER, STRANGER, USER = "alice", "mallory", "bob"


def install(machine: Machine) -> None:
    """`make install` from a copy of this checkout, as an administrator would; and the users of the tests."""
    copy_checkout(machine.root("/root/papad"))
    machine.run("make", "-C", "/root/papad", "install", seconds=120)
    furnish(machine)


def copy_checkout(target: Path) -> None:
    """This checkout's files, without what git ignores, and without git."""
    subprocess.run([CHECKOUT / "scripts/copy", target], check=True)


def furnish(machine: Machine) -> None:
    """What the tests use in a machine where papad is installed: scripts and users."""
    shutil.copytree(HERE / "inside", machine.root(TOOLS))
    for user in (MEMBER, STRANGER, USER):
        machine.run("useradd", "--create-home", user)
    machine.run("usermod", "--append", "--groups=papad", MEMBER)


def systemd_version(machine: Machine) -> int:
    """The machine's systemd, as in 257."""
    return int(machine.out("systemctl", "--version").split()[1])


class Papad:
    """The system's papad in a machine, or with `user` that user's own one."""

    def __init__(self, machine: Machine, user: str | None = None) -> None:
        self.machine = machine
        self.user = user
        self.where = UNIX
        self.runtime = "/run/papad"
        self._env: dict[str, str] = {}
        self._manager: list[str] = []
        if user:
            runtime = f"/run/user/{machine.out('id', '-u', user)}"
            self.where = f"{runtime}/papad.sock"
            self.runtime = f"{runtime}/papad"
            self._env = {"XDG_RUNTIME_DIR": runtime}
            self._manager = ["--user"]

    def systemctl(self, *args: str, check: bool = True) -> str:
        """Run systemctl for the manager that this papad belongs to."""
        run = self.machine.run("systemctl", *self._manager, *args, user=self.user, env=self._env, check=check)
        return run.stdout.rstrip("\n")

    def show(self, name: str, unit: str = "papad.service") -> str:
        """One property of a unit."""
        return self.systemctl("show", f"--property={name}", "--value", unit)

    def talk(self, *lines: str, where: str | None = None, user: str | None = None) -> list[str]:
        """The replies to some lines on one connection."""
        script = f"{TOOLS}/talk.py"
        done = self.machine.out("/usr/bin/python3", script, where or self.where, *lines, user=user or self.user)
        replies: list[str] = json.loads(done)
        return replies

    def ask(self, line: str, where: str | None = None, user: str | None = None) -> str:
        """The reply to one line."""
        return self.talk(line, where=where, user=user)[0]

    def main_pid(self) -> int:
        """The pid of papad as the machine counts; 0 while it does not run."""
        return int(self.show("MainPID"))

    def outside_pid(self, pid: int) -> int:
        """The pid out here of the machine's process `pid`."""
        for each in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                levels = re.search(r"^NSpid:\t(.*)$", Path(f"/proc/{each}/status").read_text(), re.MULTILINE)
                numbers = levels.group(1).split("\t") if levels else []
                same = os.readlink(f"/proc/{each}/ns/pid") == os.readlink(f"/proc/{self.machine.init}/ns/pid")
                if same and numbers[-1:] == [str(pid)]:
                    return int(each)
        raise LookupError(f"no process {pid} in the machine")

    def descriptors(self, pid: int) -> dict[int, str]:
        """The open descriptors of the machine's process `pid`, and what each is."""
        found = {}
        for entry in Path(f"/proc/{self.outside_pid(pid)}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found[int(entry.name)] = str(entry.readlink())
        return found

    def nursery_pid(self) -> int:
        """The pid of the nursery: that process in the scope whose parent is not in it."""
        inside = self.scope_pids()
        parents = {pid: int(self._stat(pid)[1]) for pid in inside}
        roots = [pid for pid, parent in parents.items() if parent not in inside]
        assert len(roots) == 1, f"the scope holds {parents}"
        return roots[0]

    def scope_pids(self) -> set[int]:
        """The processes of the scope, as the machine counts."""
        group = self.show("ControlGroup", SCOPE)
        return set(map(int, self.machine.out("cat", f"/sys/fs/cgroup{group}/cgroup.procs").split()))

    def _stat(self, pid: int) -> list[str]:
        return self.machine.out("cat", f"/proc/{pid}/stat").rpartition(")")[2].split()

    def restart(self) -> None:
        """`systemctl restart`; returns once papad is ready again."""
        self.systemctl("restart", "papad.service")

    def sigkill(self) -> int:
        """Kill papad itself, nothing else; returns once it is dead, with the pid that it had."""
        pid = self.main_pid()
        self.systemctl("kill", "--kill-whom=main", "--signal=KILL", "papad.service")
        wait_until(lambda: self.machine.run("test", "-e", f"/proc/{pid}", check=False).returncode, f"{pid} is dead")
        return pid

    def wait_for_new(self, old: int) -> None:
        """Return once systemd has started papad again after the death of `old`."""
        wait_until(
            lambda: self.main_pid() not in (0, old) and self.show("ActiveState") == "active", "papad is up again"
        )

    def reset(self) -> None:
        """Bring the units to where a boot leaves them: the socket listens, nothing else is there or remembered."""
        # All in its control group: where there is no scope, the nursery is there, and would hold all for the next.
        self.systemctl("kill", "--signal=KILL", "papad.service", check=False)
        self.systemctl("stop", "papad.socket", "papad.service", check=False)
        # After papad, which would start a new nursery at once. A lost nursery's children are in a scope of their own.
        self.systemctl("kill", "--signal=KILL", SCOPES, check=False)
        wait_until(lambda: not self.systemctl("list-units", "--quiet", SCOPES), "the scopes have ended")
        # It has failed, if it was to stop before systemd knew of the SIGKILL; then it cannot be cleaned.
        self.systemctl("reset-failed", *UNITS, check=False)
        # systemd 254 and later keep the FD store over a stop; earlier ones neither do nor know this command.
        self.systemctl("clean", "--what=fdstore", "papad.service", check=False)
        self.machine.run("rm", "-f", f"{self.runtime}/held")
        self.systemctl("start", "papad.socket")


def serve(papad: Papad, name: str) -> str:
    """Make a socket and a worker that serves it; the socket's port."""
    papad.ask(f"make socket {name} backlog=128")
    started = papad.ask(f"make process {name} /usr/bin/python3 {TOOLS}/worker.py $(socket.{name}.fileno)")
    assert "running=True" in started, started
    return field(papad.ask(f"list sockets {name}"), "port")


def field(line: str, name: str) -> str:
    """One `name=value` of a line about a socket or a process."""
    return dict(word.split("=", 1) for word in line.split(" ") if "=" in word)[name]


def fileno(line: str) -> int:
    """The file number in a socket's line."""
    return int(field(line, "fileno"))


def pid_of(papad: Papad, name: str) -> int:
    """The pid of a process that papad lists."""
    return int(field(papad.ask(f"list processes {name}"), "pid"))


def output_of(papad: Papad, command: str) -> str:
    """What a process that papad starts writes, up to its end."""
    args = ("/usr/bin/python3", "-c", OUTPUT, papad.where, f"make process output {command}")
    return papad.machine.out(*args, user=papad.user, env={"PYTHONPATH": TOOLS})


OUTPUT = """
import sys, talk
with talk.Talk(sys.argv[1]) as connection:
    connection.ask(sys.argv[2])
    for record in connection.watch("output"):
        if record.kind == "out":
            sys.stdout.buffer.write(record.data)
"""


ASK = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=20) as client:
    client.sendall(b"?\\n")
    print(client.recv(100).decode().strip())
"""
"""Ask the worker at a port of 127.0.0.1 who it is."""


@contextmanager
def drop_in(papad: Papad, unit: str, *lines: str) -> Iterator[None]:
    """Other settings for a unit, once it is started anew."""
    path = f"/etc/systemd/system/{unit}.d/limits.conf"
    papad.machine.write(path, "\n".join((*lines, "")))
    papad.systemctl("daemon-reload")
    try:
        yield
    finally:
        papad.machine.root(path).unlink()
        papad.systemctl("daemon-reload")
