"""All that welcome a client and answer lines, over TCP and over a Unix socket: for questions about a conversation."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

from benchmarks.figures import ORIGINAL, PAPAD, Sample, take_turns
from benchmarks.floors import ECHO, echo_server
from benchmarks.servers import Address, ask, folder, on_one_processor, unix_path, welcomed
from tests.original.servers import running_original, running_papad

REQUEST, ANSWER = b"get x\n", b"1\n> "


@contextlib.contextmanager
def talkers(family: str) -> Iterator[dict[str, Address]]:
    """By name their addresses, of the family TCP or Unix. Where `get x` means something, x is 1. All are on one processor, with us."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(on_one_processor())
        place = stack.enter_context(folder())
        tcp = family == "TCP"
        papad = stack.enter_context(running_papad(place / "papad"))
        original = stack.enter_context(
            running_original(place / "original", path=None if tcp else str(place / "papa.sock"))
        )
        found: dict[str, Address] = {}
        for name, server in {PAPAD: papad, ORIGINAL: original}.items():
            found[name] = server.port if tcp and server.port else unix_path(server)
            with welcomed(found[name]) as sock:
                ask(sock, "set x 1")
        echo = stack.enter_context(echo_server(place, tcp=tcp))
        yield found | ({ECHO: echo} if echo else {})


def converse(turn: Callable[[socket.socket, bytes, str], Callable[[], Sample]]) -> None:
    """Have all take turns over each family: `turn` gets a connection, what it answers to REQUEST, and the family."""
    for family in ("TCP", "Unix"):
        with talkers(family) as addresses, contextlib.ExitStack() as stack:
            turns = {
                name: turn(stack.enter_context(welcomed(address)), _answer(name), family)
                for name, address in addresses.items()
            }
            take_turns(turns, warm=True)


def _answer(name: str) -> bytes:
    """What it answers to REQUEST."""
    return REQUEST if name == ECHO else ANSWER
