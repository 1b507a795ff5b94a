"""Servers that hold processes which do nothing."""

from __future__ import annotations

import re

from benchmarks.servers import ask, unix_path, welcomed
from tests.original.servers import Server

IDLE = "/bin/sleep 100000"


def hold(server: Server, *numbers: int) -> None:
    """Start a process for each of these numbers, which stays until the server is ended by us."""
    with welcomed(unix_path(server)) as sock:
        for number in numbers:
            answer = ask(sock, f"make process idle.{number} {IDLE}")
            server.children.update(map(int, re.findall(r" pid=(\d+) ", answer)))
