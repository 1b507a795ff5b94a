"""circus, asked by its own client. Its files of output have 50 MB and ten backups, like supervisor's."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.manager import Program, daemon, exchange
from tests.original.venv import circus_venv
from tests.support.ports import free_port
from tests.support.waiting import wait_until

BUSY = 5
"""The error number of circus while it does something else (circus.commands.errors)."""

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
        while True:
            answer = exchange(self.client, {"command": command, "properties": properties})
            if answer.get("errno") != BUSY:
                assert answer["status"] != "error", answer
                return answer
            time.sleep(0.001)


@contextlib.contextmanager
def running(place: Path, *programs: Program) -> Iterator[Circus]:
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
        daemon(place, [python, "-W", "ignore", "-m", "circus.circusd", "circus.ini"]) as process,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as client,
    ):
        yield Circus(process, client, added)
