"""What the tests of the unmodified client share."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.waiting import wait_until

# The client leaves a socket to the garbage collector when a call fails.
CLIENT_LEAKS = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def read_all(watcher: Any) -> tuple[bytes, bytes, dict[str, int]]:
    """Everything up to the end of the watch: out, err and exit codes."""
    out = err = b""
    while (batch := watcher.read()) is not None:
        out += b"".join(item.data for item in batch[0])
        err += b"".join(item.data for item in batch[1])
    return out, err, watcher.exit_code


def wait_ended(p: Any, name: str) -> None:
    wait_until(lambda: not p.list_processes(name)[name]["running"], f"{name} has ended")
