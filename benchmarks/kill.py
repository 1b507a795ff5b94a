"""After SIGKILL of the daemon, when does the next answer come, and what does it still hold?

papad was started by hand, and its keeper starts the next daemon, 0.006 s after the end of one. The original has nobody who
does that: here this program does, at once.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import ORIGINAL, PAPAD, SECONDS, Sample, leave_out, take_turns
from benchmarks.listing import make
from benchmarks.running import hold
from benchmarks.servers import Address, ask, daemon_of, folder, fresh, unix_path, welcomed
from tests.original.servers import Server, running_original

COUNTS = {PAPAD: (10, 100, 1000), ORIGINAL: (10, 100)}
MANY = 10_000
LONGEST = 60.0  # seconds


def turn(who: str, count: int, captured: int) -> Callable[[], Sample]:
    what = f"{count:,} processes" + ("" if captured == count else f", {captured:,} of them captured")

    def taken() -> Sample:
        with folder() as place, fresh(who, place / "server") as server, contextlib.ExitStack() as stack:
            hold(server, *range(captured))
            hold(server, *range(captured, count), options="stdout=0 stderr=0")

            def start_again() -> None:
                server.process.wait(10)
                stack.enter_context(running_original(place / "server", path=server.path))

            seconds, held = after_kill(server, start_again if who == ORIGINAL else lambda: None)
        return sample(what, seconds, held.count("running=True"))

    return taken


def ended(server: Server, count: int) -> Callable[[], Sample]:
    """The same with processes that have ended: these are made only once."""

    def taken() -> Sample:
        seconds, held = after_kill(server)
        return sample(f"{count:,} processes that have ended", seconds, held.count("running=False"))

    return taken


def after_kill(server: Server, start_again: Callable[[], None] = lambda: None) -> tuple[float, str]:
    """Kill the daemon; the seconds to the next answer, and what `list processes` says then."""
    seconds = until_answer(unix_path(server), daemon_of(server), start_again)
    with welcomed(unix_path(server)) as sock:
        return seconds, ask(sock, "list processes")


def until_answer(address: Address, pid: int, start_again: Callable[[], None] = lambda: None) -> float:
    """Kill the daemon with this pid; the seconds to the next answer."""
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    start_again()
    while True:  # what does not listen yet, and what is cut off, is tried again
        with contextlib.suppress(OSError, EOFError), welcomed(address) as sock:
            ask(sock, "get x")
            return time.perf_counter() - began
        assert time.perf_counter() < began + LONGEST, "it does not answer"
        time.sleep(0.001)


def sample(what: str, seconds: float, held: int) -> Sample:
    return {
        (f"from SIGKILL to the first answer, {what}", "s"): seconds,
        (f"held after it, of {what}", "processes"): held,
    }


def with_room(count: int) -> int:
    """How many of so many running processes papad has descriptors to capture: each has one, and two pipes if captured."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 1000
    return max(0, min(count, (descriptors - count) // 2))


def main() -> None:
    for count in COUNTS[PAPAD]:
        take_turns({who: turn(who, count, count) for who in COUNTS if count in COUNTS[who]})
    if SECONDS < 1:
        return
    captured = with_room(MANY)
    if captured and int(Path("/proc/sys/kernel/pid_max").read_text()) > 2 * MANY:
        take_turns({PAPAD: turn(PAPAD, MANY, captured)})
    else:
        leave_out(f"SIGKILL with {MANY:,} processes that run", "too few descriptors (RLIMIT_NOFILE) or pids (pid_max)")
    with folder() as place, fresh(PAPAD, place / "server") as server:
        with welcomed(unix_path(server)) as sock:
            make(sock, range(MANY))
        take_turns({PAPAD: ended(server, MANY)})


if __name__ == "__main__":
    main()
