"""After SIGKILL of the daemon, when does the next answer come, and what does it still hold?

papad was started by hand, and its keeper starts the next daemon, 0.02 s after the end of one. The original has nobody who
does that: here this program does, at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

from benchmarks.figures import ORIGINAL, PAPAD, Sample, take_turns
from benchmarks.running import hold
from benchmarks.servers import ask, daemon_of, folder, fresh, unix_path, welcomed
from tests.original.servers import Server, running_original

COUNTS = {PAPAD: (10, 100, 1000), ORIGINAL: (10, 100)}


def turn(who: str, count: int) -> Callable[[], Sample]:
    def taken() -> Sample:
        with folder() as place, fresh(who, place / "server") as server, contextlib.ExitStack() as stack:
            hold(server, *range(count))
            began = time.perf_counter()
            os.kill(daemon_of(server), signal.SIGKILL)
            if who == ORIGINAL:
                server.process.wait(10)
                again = running_original(place / "server", path=server.path)
                stack.enter_context(again)
            answer_within(server, 60)
            seconds = time.perf_counter() - began
            with welcomed(unix_path(server)) as sock:
                held = ask(sock, "list processes").count("running=True")
        return {
            (f"from SIGKILL to the first answer, {count:,} processes", "s"): seconds,
            (f"held after it, of {count:,} processes", "processes"): held,
        }

    return taken


def answer_within(server: Server, seconds: float) -> None:
    """Connect and ask until there is an answer: what does not listen yet, and what is cut off, is tried again."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, EOFError), welcomed(unix_path(server)) as sock:
            ask(sock, "get x")
            return
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.001)


def main() -> None:
    for count in COUNTS[PAPAD]:
        take_turns({who: turn(who, count) for who in COUNTS if count in COUNTS[who]})


if __name__ == "__main__":
    main()
