"""supervisor, asked by XML-RPC. Its files of output have 50 MB and ten backups, as it does where nothing is said."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import xmlrpc.client
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.manager import Program, daemon
from tests.original.venv import supervisor_venv
from tests.support.ports import free_port
from tests.support.waiting import wait_until

SPARE = 100
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


@contextlib.contextmanager
def running(place: Path, *programs: Program) -> Iterator[Supervisor]:
    place.mkdir()
    port = free_port()
    text = SUPERVISORD.format(place=place, port=port)
    for each in programs:
        text += SUPERVISED.format(**vars(each), numprocs=each.count or SPARE, autostart=each.count > 0)
    (place / "supervisord.conf").write_text(text)
    python = supervisor_venv() / "bin/python"
    with (
        daemon(place, [str(python), "-m", "supervisor.supervisord", "-c", "supervisord.conf"]) as process,
        xmlrpc.client.ServerProxy(f"http://127.0.0.1:{port}/RPC2") as proxy,
    ):
        rpc: Any = proxy.supervisor
        wait_until(lambda: _answers(rpc.getState), "supervisord answers")
        yield Supervisor(process, rpc)


def _answers(ask: Callable[[], object]) -> bool:
    with contextlib.suppress(OSError):
        ask()
        return True
    return False
