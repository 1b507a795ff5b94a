"""How long is it from a write until a watcher has it?

The floor is cat(1) between two pipes: the machine wakes up two processes for each line there, too.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.figures import SECONDS, Sample, take_turns
from benchmarks.output import arguments, command
from benchmarks.servers import ask, both, unix_path, watch, welcomed
from tests.original.servers import Server

STAMPS = "stamps", max(1.0, SECONDS)


def turn(latencies: Callable[[], Iterator[float]]) -> Callable[[], Sample]:
    def taken() -> Sample:
        hundredths = statistics.quantiles(latencies(), n=100)
        return {
            ("from write to watcher, median", "ms"): hundredths[49] * 1e3,
            ("from write to watcher, 99 of 100", "ms"): hundredths[98] * 1e3,
        }

    return taken


def watched(server: Server) -> Iterator[float]:
    with welcomed(unix_path(server)) as sock:
        ask(sock, f"make process stamps {command(*STAMPS)}")
    for record in watch(unix_path(server), "stamps"):
        if record.kind == b"out":
            for written in record.data.split():
                yield record.at - float(written)


def through_cat() -> Iterator[float]:
    with (
        subprocess.Popen(arguments(*STAMPS), stdout=subprocess.PIPE) as writer,
        subprocess.Popen(["cat"], stdin=writer.stdout, stdout=subprocess.PIPE) as cat,
    ):
        assert cat.stdout is not None
        for written in cat.stdout:
            yield time.monotonic() - float(written)


def main() -> None:
    with both() as servers:
        turns = {name: turn(partial(watched, server)) for name, server in servers.items()}
        take_turns(turns | {"cat between pipes": turn(through_cat)})


if __name__ == "__main__":
    main()
