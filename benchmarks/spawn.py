"""How many processes a second are started, with a pipe for each of standard output and error?"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from benchmarks.figures import Sample, repeated, take_turns
from benchmarks.floors import SPAWN, compiled
from benchmarks.servers import ask, both, clear, unix_path, welcomed
from tests.original.servers import Server

PROGRAM = "/bin/true"
ALL = ("processes from start to end", "a second")
AT_ONCE = 20


def turn(server: Server) -> Callable[[], Sample]:
    """One after the other is started; then all have to be seen to have ended."""

    def taken() -> Sample:
        with welcomed(unix_path(server)) as sock:
            names = iter(range(1 << 30))
            began = time.perf_counter()
            count, answered = repeated(lambda: ask(sock, f"make process p.{next(names)} {PROGRAM}"))
            while "running=True" in ask(sock, "list processes"):
                time.sleep(0.001)
            seconds = time.perf_counter() - began
            clear(sock)
        return {("processes started", "a second"): count / answered, ALL: count / seconds}

    return taken


def in_c(program: str) -> Sample:
    count, seconds = repeated(lambda: subprocess.run([program, "spawn", str(AT_ONCE)], check=True))
    return {ALL: count * AT_ONCE / seconds}


def in_python() -> Sample:
    def once() -> None:
        subprocess.run(
            [PROGRAM], stdin=subprocess.DEVNULL, capture_output=True, env={}, start_new_session=True, check=True
        )

    count, seconds = repeated(once)
    return {ALL: count / seconds}


def main() -> None:
    with both() as servers:
        turns = {name: turn(server) for name, server in servers.items()}
        turns["Python: subprocess"] = in_python
        if program := compiled(SPAWN):
            turns[SPAWN] = lambda: in_c(program)
        take_turns(turns, warm=True)


if __name__ == "__main__":
    main()
