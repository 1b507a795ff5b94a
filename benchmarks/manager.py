"""What supervisor, circus and pm2 have in common as peers: managers whose processes are their own children.

What they capture goes to files beside their configuration.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.original.servers import MARKER, end_session_leader, marked_pids


@dataclass
class Program:
    """What a manager is configured to run: so many processes from its start on, or with 0 one at each request."""

    name: str
    command: str
    count: int = 0


class Manager(Protocol):
    """One of them, running, and its client."""

    process: subprocess.Popen[bytes]

    def start(self, name: str) -> None:
        """Start a process of a program; returns once the manager says that it runs."""

    def count(self, name: str) -> int:
        """How many processes of a program run."""

    def clear(self, name: str) -> None:
        """Once what was started of a program has ended, forget it."""


class Running(Protocol):
    """Starts a manager with some programs, in a folder that is not there yet."""

    def __call__(self, place: Path, *programs: Program) -> AbstractContextManager[Manager]: ...


@contextlib.contextmanager
def daemon(place: Path, command: list[str], **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Such a daemon; afterwards it is ended, with all that it started: what has the same MARKER in its environment."""
    env = {**os.environ, MARKER: uuid.uuid4().hex, **variables}
    with open(place / "log", "wb") as log:
        process = subprocess.Popen(
            command,
            cwd=place,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _, most = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (most, most))
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        for pid in marked_pids(env[MARKER]):
            end_session_leader(pid)


def exchange(client: subprocess.Popen[str], message: object) -> Any:
    """Have a client that is a program of its own send this; the answer. Both are a line of JSON."""
    assert client.stdin
    assert client.stdout
    client.stdin.write(json.dumps(message) + "\n")
    return json.loads(client.stdout.readline())
