"""pm2, asked by its own client in node. Its files of output are not limited."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.manager import Program, daemon, exchange
from tests.original.servers import MARKER
from tests.original.venv import cache_folder
from tests.support.waiting import wait_until

VERSION = "7.0.4"
CLIENT = """
const pm2 = require(process.argv[1]);
const shown = {
  list: found => found.map(each => [each.name, each.pm2_env.status]),
  start: () => null, delete: () => null, connect: () => null,
};
require("readline").createInterface({input: process.stdin}).on("close", () => process.exit()).on("line", line => {
  const [what, ...given] = JSON.parse(line);
  pm2[what](...given, (error, found) =>
    console.log(JSON.stringify(error ? {error: String(error.message || error)} : {found: shown[what](found)})));
});
"""


@dataclass
class Pm2:
    process: subprocess.Popen[bytes]
    client: subprocess.Popen[str]
    programs: dict[str, dict[str, object]]
    """What each is started with, by its name."""

    def start(self, name: str) -> None:
        self.call("start", self.programs[name])

    def count(self, name: str) -> int:
        return sum(each == [name, "online"] for each in self.call("list"))

    def clear(self, name: str) -> None:
        wait_until(lambda: not self.count(name), f"all of {name} have ended", 120)
        self.call("delete", name)

    def call(self, *words: object) -> Any:
        """Call a function of pm2's interface; what it gave."""
        answer = exchange(self.client, words)
        assert "error" not in answer, answer
        return answer["found"]


def installed() -> Path:
    """The folder of pm2, installed once and cached."""
    cache = cache_folder()
    folder = cache / f"bench-pm2-{VERSION}"
    if not folder.exists():
        new = tempfile.mkdtemp(dir=cache, prefix=folder.name)
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", new, f"pm2@{VERSION}"]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        os.rename(new, folder)
    return folder / "node_modules/pm2"


@contextlib.contextmanager
def running(place: Path, *programs: Program) -> Iterator[Pm2]:
    place.mkdir()
    # What pm2 starts gets the environment of its client.
    own = {"PM2_HOME": str(place), MARKER: uuid.uuid4().hex}
    started: dict[str, dict[str, object]] = {}
    for each in programs:
        script, *words = each.command.split()
        started[each.name] = {
            "name": each.name,
            "script": script,
            "args": words,
            "interpreter": "none",
            "exec_mode": "fork",
            "instances": each.count or 1,
            "force": True,  # else a name may be used once
            "autorestart": False,
        }
    with (
        daemon(place, ["node", str(installed() / "lib/Daemon.js")], **own) as process,
        subprocess.Popen(
            ["node", "-e", CLIENT, str(installed())],
            env={**os.environ, **own},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        ) as client,
    ):
        wait_until((place / "rpc.sock").exists, "pm2's daemon listens")
        pm2 = Pm2(process, client, started)
        pm2.call("connect")
        for each in programs:
            if each.count:
                pm2.start(each.name)
        yield pm2
