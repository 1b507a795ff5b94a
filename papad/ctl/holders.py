"""Finds out by /proc who holds a pipe or a socket: on this machine, and as far as we may look."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress

_LONGEST = 2.0  # seconds; with more descriptors than can be looked at in that time, some holders are not named


def writers(inodes: Collection[int]) -> dict[int, list[str]]:
    """Return who can write into each of these pipes, for people: `sleep (pid 123)`.

    A pipe that is only read from, as papad reads it, is not held that way.
    """
    return _holders({f"pipe:[{inode}]": inode for inode in inodes}, writing=True, besides=())


def sharers(inodes: Collection[int], besides: Collection[int]) -> dict[int, list[str]]:
    """Return who has each of these sockets, for people, but for the pids `besides`.

    systemd is left out: its FD store is still letting go of them, and its forks have them until their exec.
    """
    found = _holders({f"socket:[{inode}]": inode for inode in inodes}, writing=False, besides=besides)
    return {inode: [name for name in names if not name.startswith("systemd (")] for inode, names in found.items()}


def _holders(wanted: dict[str, int], *, writing: bool, besides: Collection[int]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {inode: [] for inode in wanted.values()}
    end = time.monotonic() + _LONGEST
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()) if wanted else []
    for pid in pids:
        if pid in besides or pid == os.getpid():
            continue
        for inode in {wanted[target] for target in _targets(pid, writing=writing) if target in wanted}:
            found[inode].append(f"{_command(pid)} (pid {pid})")
        if time.monotonic() > end:
            break
    return found


def _targets(pid: int, *, writing: bool) -> Iterator[str]:
    """Yield what the descriptors of a process refer to; of those that cannot be written to, only if not `writing`."""
    with suppress(OSError):  # it has ended, or is another user's
        for fd in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{fd}"
            with suppress(OSError):
                target = os.readlink(path)
                if target.startswith(("pipe:", "socket:")) and not (writing and not os.lstat(path).st_mode & 0o200):
                    yield target


def _command(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().rstrip("\n")
    return "?"
