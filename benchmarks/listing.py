"""How long does it take to list many processes? They have ended, so that there may be any number."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from benchmarks.figures import PAPAD, SECONDS, Sample, repeated, take_turns
from benchmarks.servers import ask, both, unix_path, welcomed
from tests.support.waiting import wait_until

COUNTS = (1000, 10000) if SECONDS >= 1 else (1000,) if SECONDS >= 0.1 else (100,)


def make(sock: socket.socket, numbers: range) -> None:
    for number in numbers:
        ask(sock, f"make process ended.{number} /bin/true")
    wait_until(lambda: "running=True" not in ask(sock, "list processes"), "all have ended")


def turn(sock: socket.socket, count: int, verb: str) -> Callable[[], Sample]:
    def once() -> None:
        assert ask(sock, f"{verb} processes").count("\n") == count - 1

    def taken() -> Sample:
        done, seconds = repeated(once)
        return {(f"{verb} {count:,} processes", "ms"): seconds / done * 1e3}

    return taken


def main() -> None:
    with both() as servers, contextlib.ExitStack() as stack:
        socks = {name: stack.enter_context(welcomed(unix_path(server))) for name, server in servers.items()}
        made = 0
        for count in COUNTS:
            for sock in socks.values():
                make(sock, range(made, count))
            made = count
            take_turns({name: turn(sock, count, "list") for name, sock in socks.items()})
            take_turns({PAPAD: turn(socks[PAPAD], count, "describe")})


if __name__ == "__main__":
    main()
