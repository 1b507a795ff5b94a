"""How long is it from a write until a watcher has it?"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

from benchmarks.figures import SECONDS, Sample, take_turns
from benchmarks.output import command
from benchmarks.servers import ask, both, unix_path, watch, welcomed
from tests.original.servers import Server


def turn(server: Server) -> Callable[[], Sample]:
    def taken() -> Sample:
        with welcomed(unix_path(server)) as sock:
            ask(sock, f"make process stamps {command('stamps', max(1.0, SECONDS))}")
        waits = sorted(latencies(server))
        hundredths = statistics.quantiles(waits, n=100)
        return {
            ("from write to watcher, median", "ms"): hundredths[49] * 1e3,
            ("from write to watcher, 99 of 100", "ms"): hundredths[98] * 1e3,
        }

    return taken


def latencies(server: Server) -> Iterator[float]:
    for record in watch(unix_path(server), "stamps"):
        if record.kind == b"out":
            for written in record.data.split():
                yield record.at - float(written)


def main() -> None:
    with both() as servers:
        take_turns({name: turn(server) for name, server in servers.items()})


if __name__ == "__main__":
    main()
