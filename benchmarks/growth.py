"""How do costs grow: with the processes that a server holds, with its clients, with the length of the lines it captures?

Prints lines of JSON as the other programs do, with what grew (`along`) and how far (`at`); plots.py draws them. Of the
processes, every other one has ended.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import re
import resource
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import capture, latency, memory, round_trip
from benchmarks.figures import ORIGINAL, PAPAD, SECONDS, Sample, machine, repeated, take_turns
from benchmarks.kill import after_kill
from benchmarks.running import IDLE, hold
from benchmarks.servers import ask, both, on_one_processor, unix_path, watch, welcomed
from benchmarks.talkers import ANSWER
from tests.original.servers import Server
from tests.support.waiting import wait_until

FULL = SECONDS >= 0.1
PROCESSES = (10, 30, 100, 300, 1000, 3000, 10000) if FULL else (10, 30)
CONNECTIONS = (1, 3, 10, 30, 100, 300, 1000) if FULL else (1, 3)
BYTES = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536) if FULL else (1, 64)
MOST = {ORIGINAL: 300}
"""The original selects the pipes of each process, which fails with descriptors from 1,024 on (select(2))."""
EXITS = 10 if FULL else 2
TRUE = "/bin/true"

Contender = Callable[[], Sample]


def main() -> None:
    # The original's soft limit is the one that it gets; papad raises its own.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(json.dumps({"machine": machine()}), flush=True)
    along_lines()
    along_connections()
    along_processes()


def along_processes() -> None:
    costs = (starting, exiting, listing, naming, watching, holding)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # papad has three descriptors for each process that runs.
    counts = [count for count in PROCESSES if 3 * count // 2 + 500 < most]
    with both() as servers:
        for held, count in itertools.pairwise((0, *counts)):
            print(f"{count:,} processes …", file=sys.stderr)
            here = {who: server for who, server in servers.items() if count <= MOST.get(who, count)}
            for server in here.values():
                fill(server, range(held, count))
            # First, so that each figure is that of a daemon that has come back: it has not imported what TCP takes.
            take_turns({PAPAD: recovering(servers[PAPAD], count)}, along="processes", at=count)
            for cost in costs:
                take_turns({who: cost(server) for who, server in here.items()}, along="processes", at=count)


def fill(server: Server, numbers: range) -> None:
    """One for each number: those with an even one stay, the others end."""
    hold(server, *numbers[::2])
    with welcomed(unix_path(server)) as sock:
        for number in numbers[1::2]:
            ask(sock, f"make process ended.{number} {TRUE}")
        wait_until(lambda: "running=True" not in ask(sock, "list processes ended.*"), "they have ended", 120)


def starting(server: Server) -> Contender:
    def taken() -> Sample:
        with welcomed(unix_path(server)) as sock:
            names = itertools.count()
            count, seconds = repeated(lambda: ask(sock, f"make process more.{next(names)} {TRUE}"))
            wait_until(lambda: "running=True" not in ask(sock, "list processes more.*"), "they have ended", 120)
            ask(sock, "remove processes more.*")
            wait_until(lambda: not ask(sock, "list processes more.*"), "they are gone", 120)
        return {("start a process", "ms"): seconds / count * 1e3}

    return taken


def exiting(server: Server) -> Contender:
    """From SIGKILL of a process until its watcher knows that it has ended."""

    def once(sock: socket.socket) -> float:
        (pid,) = map(int, re.findall(r" pid=(\d+) ", ask(sock, f"make process victim {IDLE}")))
        killed: list[float] = []

        def kill() -> None:
            killed.append(time.monotonic())
            os.kill(pid, signal.SIGKILL)

        timer = threading.Timer(0.05, kill)
        timer.start()
        closed = [record.at for record in watch(unix_path(server), "victim") if record.kind == b"closed"]
        timer.join()
        return closed[0] - killed[0]

    def taken() -> Sample:
        with welcomed(unix_path(server)) as sock:
            return {("exit of a process", "ms"): statistics.median(once(sock) for _ in range(EXITS)) * 1e3}

    return taken


def asking(server: Server, measure: str, line: str) -> Contender:
    def taken() -> Sample:
        with welcomed(unix_path(server)) as sock:
            count, seconds = repeated(lambda: ask(sock, line))
        return {(measure, "ms"): seconds / count * 1e3}

    return taken


def listing(server: Server) -> Contender:
    return asking(server, "list all", "list processes")


def naming(server: Server) -> Contender:
    return asking(server, "list one by name", "list processes idle.0")


def watching(server: Server) -> Contender:
    return latency.turn(functools.partial(latency.watched, server))


def holding(server: Server) -> Contender:
    return lambda: {(f"{part}, {kind}", "KiB"): size for (part, kind), size in memory.of_server(server).items()}


def recovering(server: Server, count: int) -> Contender:
    """From SIGKILL of the daemon to the next answer."""

    def taken() -> Sample:
        seconds, held = after_kill(server)
        assert held.count("\n") == count - 1
        assert held.count("running=True") == count // 2
        return {("from SIGKILL to the first answer", "s"): seconds}

    return taken


def along_connections() -> None:
    """All are on one processor, with us, as in round_trip.py."""
    with on_one_processor(), both() as servers, contextlib.ExitStack() as stack:
        socks = {who: stack.enter_context(welcomed(unix_path(server))) for who, server in servers.items()}
        for sock in socks.values():
            ask(sock, "set x 1")
        for held, count in itertools.pairwise((0, *CONNECTIONS)):
            for server in servers.values():
                for _ in range(held, count):
                    stack.enter_context(welcomed(unix_path(server)))
            talks = {who: round_trip.turn(sock, ANSWER, "Unix") for who, sock in socks.items()}
            take_turns(talks, warm=True, along="connections", at=count)
            take_turns({who: holding(server) for who, server in servers.items()}, along="connections", at=count)


def along_lines() -> None:
    with both() as servers, tempfile.TemporaryDirectory(prefix="papad-bench-") as place:
        report = Path(place) / "report"
        for size in BYTES:
            turns = {who: capture.captured(unix_path(server), size, report) for who, server in servers.items()}
            turns["cat >/dev/null"] = capture.piped(["cat"], size, report)
            take_turns({who: renamed("captured", taken) for who, taken in turns.items()}, along="bytes", at=size)


def renamed(measure: str, taken: Contender) -> Contender:
    return lambda: {(measure, unit): value for (_, unit), value in taken().items()}


if __name__ == "__main__":
    main()
