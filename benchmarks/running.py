"""Servers that hold processes which do nothing."""

from __future__ import annotations

import re

from benchmarks.servers import Address, ask, unix_path, welcomed
from tests.original.servers import Server

IDLE = "/bin/sleep 100000"


def hold(server: Server, *numbers: int, options: str = "") -> None:
    """Start a process for each of these numbers, which stays until the server is ended by us."""
    server.children.update(start_idle(unix_path(server), *numbers, options=options))


def start_idle(address: Address, *numbers: int, options: str = "") -> list[int]:
    """Start a process that does nothing for each of these numbers; their pids."""
    with welcomed(address) as sock:
        answers = [ask(sock, f"make process idle.{number} {options} {IDLE}") for number in numbers]
    return [int(pid) for answer in answers for pid in re.findall(r" pid=(\d+) ", answer)]
