"""What /proc tells of processes, for the case that the nursery is gone. See proc(5)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def start_ticks(pid: int) -> int:
    """Return when a process began, in clock ticks since the boot, or 0 if there is none.

    A pid and this number name a process as long as the machine runs.
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(fd, 4096).rpartition(b")")[2].split()[19])
        finally:
            os.close(fd)
    except (OSError, ValueError, IndexError):
        return 0


class Pipes:
    """The pipes that processes have open."""

    def __init__(self) -> None:
        self._all: dict[str, str] | None = None  # what /proc/PID/fd/N refers to -> such a path

    def open(self, inode: int, pid: int) -> int:
        """Open the read end of a pipe anew that `pid` or a descendant of it has open.

        Returns a descriptor that is the caller's, or -1 if nobody has this pipe: then its end of
        file was reached. Everybody's descriptors are looked at only once.
        """
        likely = {_target(path): path for path in (f"/proc/{pid}/fd/1", f"/proc/{pid}/fd/2")}
        wanted = f"pipe:[{inode}]"
        if wanted not in likely:
            if self._all is None:
                self._all = {_target(path): path for path in _descriptors()}
            likely = self._all
        with contextlib.suppress(OSError, KeyError):
            fd = os.open(likely[wanted], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            if os.fstat(fd).st_ino == inode:
                return fd
            os.close(fd)
        return -1


def _descriptors() -> Iterator[str]:
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                yield from (f"/proc/{name}/fd/{fd}" for fd in os.listdir(f"/proc/{name}/fd"))


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
