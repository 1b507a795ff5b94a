"""How much memory does a server need, and how much more for each process whose (silent) output it captures?"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.figures import ORIGINAL, PAPAD, SECONDS, Sample, take_turns
from benchmarks.manager import Program, Running
from benchmarks.managers import CIRCUS, PM2, managers
from benchmarks.running import IDLE, hold
from benchmarks.servers import daemon_of, folder, fresh
from tests.original.servers import Server
from tests.support.waiting import wait_until

FEW = 10
MANY = 1000 if SECONDS >= 0.1 else 20
MOST = {ORIGINAL: 400, CIRCUS: 400, PM2: 100}
"""The original selects the pipes of each process, which fails with descriptors from 1,024 on (select(2)). circus and pm2
could have more, but take half a minute to start 1,000, or longer."""


Sizes = dict[tuple[str, str], float]
"""By (part, kind) what each part of a server has, in KiB."""


def of_server(server: Server) -> Sizes:
    daemon = daemon_of(server)
    found = sizes(
        {"daemon": daemon} if daemon == server.process.pid else {"daemon": daemon, "nursery": server.process.pid}
    )
    found["files in memory", "used"] = sum(files_in_memory(daemon)) / 1024
    return found


def sizes(pids: Mapping[str, int]) -> Sizes:
    found: Sizes = {}
    for part, pid in pids.items():
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        for kind in ("Rss", "Pss"):
            (size,) = re.findall(rf"^{kind}: +(\d+) kB", text, re.MULTILINE)
            found[part, kind] = float(size)
    return found


def files_in_memory(pid: int) -> Iterator[int]:
    """The bytes that each memfd of a process has: papad's store, which is not mapped, and so is in no Rss."""
    seen = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # one that was open for a moment
            status = entry.stat()
            if os.readlink(entry).startswith("/memfd:") and status.st_ino not in seen:
                seen.add(status.st_ino)
                yield status.st_blocks * 512


def grown(few: Sizes, many: Sizes, further: int) -> Sample:
    """What each part has with FEW processes, and with that many more how much more for each."""
    found = {}
    for part, kind in few:
        found[f"{part}, {kind}, {FEW} processes", "KiB"] = few[part, kind]
        found[f"{part}, {kind}, each further process", "KiB"] = (many[part, kind] - few[part, kind]) / further
    return found


def most(who: str) -> int:
    return min(MANY, MOST.get(who, MANY))


def turn(who: str) -> Callable[[], Sample]:
    def taken() -> Sample:
        with folder() as place, fresh(who, place / "server") as server:
            hold(server, *range(FEW))
            few = of_server(server)
            hold(server, *range(FEW, most(who)))
            return grown(few, of_server(server), most(who) - FEW)

    return taken


def managed(who: str, running: Running) -> Callable[[], Sample]:
    """These start what they are configured to: so one starts FEW, another one all."""

    def holding(count: int) -> Sizes:
        with folder() as place, running(place / "manager", Program("idle", IDLE, count)) as manager:
            wait_until(lambda: manager.count("idle") == count, "all run", 120)
            return sizes({"daemon": manager.process.pid})

    return lambda: grown(holding(FEW), holding(most(who)), most(who) - FEW)


def main() -> None:
    turns = {who: turn(who) for who in (PAPAD, ORIGINAL)}
    turns |= {name: managed(name, running) for name, running in managers().items()}
    take_turns(turns)


if __name__ == "__main__":
    main()
