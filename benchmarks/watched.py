"""How much output a second reaches a watcher who acknowledges it, and how much of it is lost on the way?"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import SECONDS, Sample, take_turns
from benchmarks.output import MIB, command, written
from benchmarks.servers import ask, both, folder, unix_path, watch, welcomed
from tests.original.servers import Server

RATES = {20: "a writer of 20 MiB/s", 0: "a writer as fast as it can"}


def turn(server: Server, rate: int, report: Path) -> Callable[[], Sample]:
    def taken() -> Sample:
        words = ["flood", max(1.0, SECONDS), report, 1 << 16, *([rate] if rate else [])]
        with welcomed(unix_path(server)) as sock:
            ask(sock, f"make process flood {command(*words)}")
        records = watch(unix_path(server), "flood")
        first = next(records)
        received = len(first.data) + sum(len(record.data) for record in records)
        seconds = time.monotonic() - first.at
        size, _ = written(report)
        return {
            (f"watched, {RATES[rate]}", "MiB/s"): received / seconds / MIB,
            (f"lost to the watcher, {RATES[rate]}", "%"): 100 * (1 - received / size),
        }

    return taken


def main() -> None:
    with both() as servers, folder() as place:
        for rate in RATES:
            take_turns({name: turn(server, rate, place / "report") for name, server in servers.items()})


if __name__ == "__main__":
    main()
