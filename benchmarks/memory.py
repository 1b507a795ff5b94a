"""How much memory does a server need, and how much more for each process whose (silent) output it captures?"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.figures import ORIGINAL, PAPAD, Sample, take_turns
from benchmarks.running import hold
from benchmarks.servers import daemon_of, folder, fresh
from tests.original.servers import Server

FEW = 10
MANY = {PAPAD: 1000, ORIGINAL: 400}
"""The original selects the pipes of each process, which fails with descriptors from 1,024 on (select(2))."""


def parts(server: Server) -> dict[tuple[str, str], float]:
    """By (part, kind) what each part of a server has, in KiB."""
    daemon = daemon_of(server)
    pids = {"daemon": daemon} if daemon == server.process.pid else {"daemon": daemon, "nursery": server.process.pid}
    found: dict[tuple[str, str], float] = {}
    for part, pid in pids.items():
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        for kind in ("Rss", "Pss"):
            (size,) = re.findall(rf"^{kind}: +(\d+) kB", text, re.MULTILINE)
            found[part, kind] = float(size)
    found["files in memory", "used"] = sum(files_in_memory(daemon)) / 1024
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


def turn(who: str) -> Callable[[], Sample]:
    def taken() -> Sample:
        with folder() as place, fresh(who, place / "server") as server:
            hold(server, *range(FEW))
            few = parts(server)
            hold(server, *range(FEW, MANY[who]))
            many = parts(server)
        found = {}
        for part, kind in few:
            found[f"{part}, {kind}, {FEW} processes", "KiB"] = few[part, kind]
            found[f"{part}, {kind}, each further process", "KiB"] = (many[part, kind] - few[part, kind]) / (
                MANY[who] - FEW
            )
        return found

    return taken


def main() -> None:
    take_turns({who: turn(who) for who in MANY})


if __name__ == "__main__":
    main()
