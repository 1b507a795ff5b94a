"""How many `get x` a second are answered, if a client sends many without waiting?"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from benchmarks.figures import Sample, repeated, take_turns
from benchmarks.servers import receive, welcomed
from benchmarks.talkers import REQUEST, answer, talkers

AT_ONCE = 1000


def turn(sock: socket.socket, expected: bytes, family: str) -> Callable[[], Sample]:
    def once() -> None:
        sock.sendall(REQUEST * AT_ONCE)
        assert receive(sock, len(expected) * AT_ONCE) == expected * AT_ONCE

    def taken() -> Sample:
        count, seconds = repeated(once)
        return {(f"{AT_ONCE:,} requests at once, {family}", "a second"): count * AT_ONCE / seconds}

    return taken


def main() -> None:
    for family in ("TCP", "Unix"):
        with talkers(family) as addresses, contextlib.ExitStack() as stack:
            turns = {
                name: turn(stack.enter_context(welcomed(address)), answer(name), family)
                for name, address in addresses.items()
            }
            take_turns(turns, warm=True)


if __name__ == "__main__":
    main()
