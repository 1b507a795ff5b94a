"""supervisor and circus as peers: managers whose processes are their own children, each with a client in Python.

What they capture goes to files of 50 MB with ten backups, supervisor's default, beside their configuration.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import subprocess
import time
import uuid
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.figures import leave_out
from tests.original.servers import MARKER, end_session_leader, free_port, marked_pids
from tests.original.venv import circus_venv, supervisor_venv
from tests.support.waiting import wait_until


@dataclass
class Program:
    """What a manager is configured to run: so many processes from its start on, or with 0 one at each request."""

    name: str
    command: str
    count: int = 0


class Manager(Protocol):
    """One of them, running, and its client."""

    process: subprocess.Popen[bytes]

    def start(self, name: str) -> None:
        """Start a process of a program; returns once the manager says that it runs."""

    def count(self, name: str) -> int:
        """How many processes of a program run."""

    def clear(self, name: str) -> None:
        """Once what was started of a program has ended, forget it."""


@dataclass
class Supervisor:
    """Only what is configured can be started, and each only once at a time, so there are SPARE processes of a program."""

    process: subprocess.Popen[bytes]
    rpc: Any
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.cycle(range(SPARE)))

    def start(self, name: str) -> None:
        # Not to wait means: once it has been forked. Else one that has ended by then would be an error.
        self.rpc.startProcess(f"{name}:{next(self._numbers)}", False)

    def count(self, name: str) -> int:
        every = self.rpc.getAllProcessInfo()
        return sum(each["group"] == name and each["statename"] == "RUNNING" for each in every)

    def clear(self, name: str) -> None:
        wait_until(lambda: not self.count(name), f"all of {name} have ended", 120)


@dataclass
class Circus:
    """Each process that is started on request is a new watcher, made by that request."""

    process: subprocess.Popen[bytes]
    client: subprocess.Popen[str]
    programs: dict[str, dict[str, object]]
    """What a new watcher is told, by the name of its program."""
    _added: list[str] = field(default_factory=list)

    def start(self, name: str) -> None:
        self._added.append(f"{name}.{len(self._added)}")
        self.call("add", name=self._added[-1], start=True, waiting=True, **self.programs[name])

    def count(self, name: str) -> int:
        return len(self.call("list", name=name)["pids"])

    def clear(self, name: str) -> None:
        wait_until(lambda: not any(map(self.count, self._added)), f"all of {name} have ended", 120)
        for each in self._added:
            self.call("rm", name=each, waiting=True)
        self._added.clear()

    def call(self, command: str, **properties: object) -> Any:
        """Send one message to circusd, until it has no other work; its answer."""
        assert self.client.stdin
        assert self.client.stdout
        while True:
            self.client.stdin.write(json.dumps({"command": command, "properties": properties}) + "\n")
            answer = json.loads(self.client.stdout.readline())
            if answer.get("errno") != BUSY:
                assert answer["status"] != "error", answer
                return answer
            time.sleep(0.001)


SUPERVISOR = "supervisor 4.3.0"
SPARE = 100
CIRCUS = "circus 0.19.0"
BUSY = 5
"""The error number of circus while it does something else (circus.commands.errors)."""

SUPERVISORD = """
[supervisord]
nodaemon = true
pidfile = {place}/pid
logfile = /dev/null
logfile_maxbytes = 0
childlogdir = {place}
[inet_http_server]
port = 127.0.0.1:{port}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
SUPERVISED = """
[program:{name}]
command = {command}
numprocs = {numprocs}
process_name = %(process_num)d
autostart = {autostart}
autorestart = false
startsecs = 0
"""
CIRCUSD = """
[circus]
endpoint = tcp://127.0.0.1:{port}
pubsub_endpoint = tcp://127.0.0.1:{events}
check_delay = 0.5
"""
WATCHED = """
[watcher:{name}]
cmd = {command}
numprocesses = {count}
respawn = False
copy_env = True
"""
CIRCUS_CLIENT = """
import json, sys
from circus.client import CircusClient
client = CircusClient(endpoint=sys.argv[1], timeout=60)
for line in sys.stdin:
    print(json.dumps(client.call(json.loads(line))), flush=True)
"""


@contextlib.contextmanager
def _daemon(place: Path, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Such a daemon; afterwards it is ended, with all that it started."""
    marker = uuid.uuid4().hex
    with open(place / "log", "wb") as log:
        process = subprocess.Popen(
            command,
            cwd=place,
            env=os.environ | {MARKER: marker},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _, most = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (most, most))
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        for pid in marked_pids(marker):
            end_session_leader(pid)


def _answers(ask: Callable[[], object]) -> bool:
    with contextlib.suppress(OSError):
        ask()
        return True
    return False


@contextlib.contextmanager
def running_supervisor(place: Path, *programs: Program) -> Iterator[Supervisor]:
    place.mkdir()
    port = free_port()
    text = SUPERVISORD.format(place=place, port=port)
    for each in programs:
        text += SUPERVISED.format(**vars(each), numprocs=each.count or SPARE, autostart=each.count > 0)
    (place / "supervisord.conf").write_text(text)
    python = supervisor_venv() / "bin/python"
    with (
        _daemon(place, [str(python), "-m", "supervisor.supervisord", "-c", "supervisord.conf"]) as process,
        xmlrpc.client.ServerProxy(f"http://127.0.0.1:{port}/RPC2") as proxy,
    ):
        rpc: Any = proxy.supervisor
        wait_until(lambda: _answers(rpc.getState), "supervisord answers")
        yield Supervisor(process, rpc)


@contextlib.contextmanager
def running_circus(place: Path, *programs: Program) -> Iterator[Circus]:
    place.mkdir()
    port = free_port()
    text = CIRCUSD.format(port=port, events=free_port())
    added: dict[str, dict[str, object]] = {}
    for each in programs:
        streams = {
            f"{name}_stream": {
                "class": "FileStream",
                "filename": f"{place}/{each.name}.{name}",
                "max_bytes": 50 << 20,
                "backup_count": 10,
            }
            for name in ("stdout", "stderr")
        }
        added[each.name] = {"cmd": each.command, "options": streams | {"respawn": False, "copy_env": True}}
        if each.count:
            text += WATCHED.format(**vars(each))
            text += "".join(
                f"{name}.{key} = {value}\n" for name, stream in streams.items() for key, value in stream.items()
            )
    (place / "circus.ini").write_text(text)
    python = str(circus_venv() / "bin/python")
    command = [python, "-W", "ignore", "-c", CIRCUS_CLIENT, f"tcp://127.0.0.1:{port}"]
    with (
        _daemon(place, [python, "-W", "ignore", "-m", "circus.circusd", "circus.ini"]) as process,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as client,
    ):
        yield Circus(process, client, added)


class Running(Protocol):
    """Starts a manager with some programs, in a folder that is not there yet."""

    def __call__(self, place: Path, *programs: Program) -> AbstractContextManager[Manager]: ...


def managers() -> dict[str, Running]:
    """Those that can be had here. Those that cannot are said to be left out."""
    found: dict[str, Running] = {}
    for name, venv, running in (
        (SUPERVISOR, supervisor_venv, running_supervisor),
        (CIRCUS, circus_venv, running_circus),
    ):
        try:
            venv()
        except (OSError, subprocess.SubprocessError, RuntimeError):
            leave_out(name, "pip cannot install it")
        else:
            found[name] = running
    return found
