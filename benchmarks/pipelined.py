"""How many `get x` a second are answered, if a client sends many without waiting?"""

from __future__ import annotations

import socket
from collections.abc import Callable

from benchmarks.figures import Sample, repeated
from benchmarks.servers import receive
from benchmarks.talkers import REQUEST, converse

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
    converse(turn)


if __name__ == "__main__":
    main()
