"""How long is a round trip: `get x` sent, its answer received?"""

from __future__ import annotations

import socket
from collections.abc import Callable

from benchmarks.figures import Sample, repeated
from benchmarks.servers import receive
from benchmarks.talkers import REQUEST, converse


def turn(sock: socket.socket, expected: bytes, family: str) -> Callable[[], Sample]:
    def once() -> None:
        sock.send(REQUEST)
        assert receive(sock, len(expected)) == expected

    def taken() -> Sample:
        count, seconds = repeated(once, at_once=20)
        return {(f"round trip, {family}", "µs"): seconds / count * 1e6}

    return taken


def main() -> None:
    converse(turn)


if __name__ == "__main__":
    main()
