"""How long is a round trip: `get x` sent, its answer received?"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from benchmarks.figures import Sample, repeated, take_turns
from benchmarks.servers import receive, welcomed
from benchmarks.talkers import REQUEST, answer, talkers


def turn(sock: socket.socket, expected: bytes, family: str) -> Callable[[], Sample]:
    def once() -> None:
        sock.send(REQUEST)
        assert receive(sock, len(expected)) == expected

    def taken() -> Sample:
        count, seconds = repeated(once, at_once=20)
        return {(f"round trip, {family}", "µs"): seconds / count * 1e6}

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
