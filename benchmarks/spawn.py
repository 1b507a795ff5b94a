"""How many processes a second are started, with a pipe for each of standard output and error?

One has started when the answer to the request says so: supervisor answers after its fork, all others after its exec.
supervisor knows each process from its configuration; the others learn of it by that request.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable

from benchmarks.figures import Sample, repeated, take_turns
from benchmarks.floors import SPAWN, compiled
from benchmarks.manager import Manager, Program
from benchmarks.managers import managers
from benchmarks.servers import Address, ask, both, clear, folder, unix_path, welcomed

PROGRAM = "/bin/true"
STARTED = ("processes started", "a second")
ALL = ("processes from start to end", "a second")
AT_ONCE = 20


def turn(address: Address) -> Callable[[], Sample]:
    """One after the other is started; then all have to be seen to have ended."""

    def taken() -> Sample:
        with welcomed(address) as sock:
            names = iter(range(1 << 30))
            began = time.perf_counter()
            count, answered = repeated(lambda: ask(sock, f"make process p.{next(names)} {PROGRAM}"))
            while "running=True" in ask(sock, "list processes"):
                time.sleep(0.001)
            seconds = time.perf_counter() - began
            clear(sock)
        return {STARTED: count / answered, ALL: count / seconds}

    return taken


def managed(manager: Manager) -> Callable[[], Sample]:
    """The end of what supervisor and circus start is seen when they look for it, so it is not measured."""

    def taken() -> Sample:
        count, seconds = repeated(lambda: manager.start("p"))
        manager.clear("p")
        return {STARTED: count / seconds}

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
    with both() as servers, folder() as place, contextlib.ExitStack() as stack:
        turns = {name: turn(unix_path(server)) for name, server in servers.items()}
        for name, running in managers().items():
            turns[name] = managed(stack.enter_context(running(place / name, Program("p", PROGRAM))))
        turns["Python: subprocess"] = in_python
        if program := compiled(SPAWN):
            turns[SPAWN] = lambda: in_c(program)
        take_turns(turns, warm=True)


if __name__ == "__main__":
    main()
