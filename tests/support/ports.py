"""Ports of 127.0.0.1 for servers of tests."""

from __future__ import annotations

import contextlib
import random
import socket


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port that nobody uses, nor gets by asking for any: those are above 32,767 (ip_local_port_range, ip(7))."""
    while True:
        with socket.socket(type=kind) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(10_000, 32_768)))
            port: int = probe.getsockname()[1]
            return port
