"""A log file, and how far the output in it has got, in a state file beside it.

Each piece of output is written in two steps: first the state file gets the position and the size of
the file before and after the piece, then the piece is appended. Each is one system call. Whoever is
killed in between, the size of the file tells afterwards whether the piece is there. A piece that is
there in part is cut off, and written again. So each line is in the files once.

The state is one pwrite of a few bytes in one page, which SIGKILL does not cut. Nothing but rotation
is synced to the disk: a power failure ends the papad whose positions these are as well.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from collections.abc import Container
from contextlib import suppress
from typing import NamedTuple, Self

from papad.ctl.cursor import Cursor, Reached
from papad.errors import Error

SUFFIX = ".log"
STATE = re.compile(r"\.(.+\.log)\.state", re.DOTALL)
_STATE_SIZE = 512
_ROTATED = re.compile(r"\.\d{8}T\d{6}\.\d{6}")
_LONGEST = 180  # characters of a file name, of the 255 bytes that file systems take
_UNSAFE = re.compile(r"[/%\x00-\x1f\x7f]|^\.")


def file_name(name: str) -> str:
    """Return the name of the log file of a process; no two processes have the same."""
    safe = _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", name)
    data = safe.encode("utf-8", "surrogateescape")
    if len(data) > _LONGEST:
        safe = f"{data[: _LONGEST - 34].decode('utf-8', 'ignore')}%{hashlib.sha256(data).hexdigest()[:32]}"
    return safe + SUFFIX


class Rotation(NamedTuple):
    """When to begin a new file, and how many of the older ones to keep (None: all)."""

    size: int | None = None
    seconds: float | None = None
    keep: int | None = None


class _State(NamedTuple):
    """The contents of a state file: of one process id, before and after the piece that was written last."""

    inode: int
    begun: float
    before: Cursor
    size: int
    after: Cursor
    grown: int

    @classmethod
    def read(cls, data: bytes) -> Self | None:
        """Return None if there is no state, or if a power failure has damaged it."""
        try:
            inode, begun, before, size, after, grown = data.decode("ascii").split()
            return cls(int(inode), float(begun), Cursor(before), int(size), Cursor(after), int(grown))
        except ValueError:
            return None

    def write(self, fd: int) -> None:
        text = f"{self.inode} {self.begun:.3f} {self.before} {self.size} {self.after} {self.grown}"
        os.pwrite(fd, text.ljust(_STATE_SIZE - 1).encode() + b"\n", 0)


class LogFile:
    """The log file of a process name. The descriptors are its own; `close` closes them."""

    def __init__(self, folder: str, name: str, live: Container[int], rotation: Rotation) -> None:
        """Open the file, or make it, and bring it in order. `live` are the ids that papad knows.

        Raises OSError, and Error where one of its files is a link.
        """
        self._folder, self._name, self._rotation = folder, name, rotation
        self._path = os.path.join(folder, name)
        self._state_fd = _open(os.path.join(folder, f".{name}.state"))
        self._fd = self._opened()
        self._begun = time.time()
        self.at = Cursor()
        """How far the output in the file has got, of one process id; empty at the beginning."""
        state = _State.read(os.pread(self._state_fd, _STATE_SIZE, 0))
        if state is not None:
            self._recover(state, live)

    def _opened(self) -> int:
        fd = _open(self._path, os.O_APPEND)
        found = os.fstat(fd)
        self._inode, self._size = found.st_ino, found.st_size
        return fd

    def _recover(self, state: _State, live: Container[int]) -> None:
        """Cut off a piece that is there in part only. What papad has forgotten stays as it is."""
        self.at = state.after
        if state.inode != self._inode:  # the rotation was cut short, or somebody has taken the file away
            return
        self._begun = state.begun
        if any(id in live for id in state.after.reached):
            if state.size <= self._size < state.grown:
                os.ftruncate(self._fd, state.size)
                self._size, self.at = state.size, state.before
        elif self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
            self._size += os.write(self._fd, b"\n")

    def write(self, data: bytes, id: int, reached: Reached) -> None:
        """Append a piece of output. `reached` is how far it gets, of the process with this id. Raises OSError."""
        rotation = self._rotation
        if data and self._size:
            full = rotation.size is not None and self._size + len(data) > rotation.size
            if full or (rotation.seconds is not None and time.time() - self._begun >= rotation.seconds):
                self._rotate()
        if data and not self._size:
            self._begun = time.time()
        after = Cursor()
        after.reached[id] = reached
        self._record(self.at if self.at.reached else _nothing_of(id), after, self._size + len(data))
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._size += len(data)
        self.at = after

    def _record(self, before: Cursor, after: Cursor, grown: int) -> None:
        _State(self._inode, self._begun, before, self._size, after, grown).write(self._state_fd)

    def _rotate(self) -> None:
        """Put the file aside, and begin a new one."""
        if self.at.reached:
            self._record(self.at, self.at, self._size)  # so it does not matter whether the new file is there yet
        os.fsync(self._fd)
        now = time.time()
        stamp = time.strftime(".%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06}"
        os.rename(self._path, self._path + stamp)
        os.close(self._fd)
        self._fd = self._opened()
        if self.at.reached:
            self._record(self.at, self.at, self._size)
        if self._rotation.keep is not None:
            for old in self.rotated()[: -self._rotation.keep or None]:
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._folder, old))

    def rotated(self) -> list[str]:
        """Return the names of the files that were put aside, the oldest first."""
        own = len(self._name)
        names = os.listdir(self._folder)
        return sorted(each for each in names if each.startswith(self._name) and _ROTATED.fullmatch(each[own:]))

    def close(self, *, sync: bool = False) -> None:
        """Close the descriptors; with `sync`, have the file on the disk before."""
        if sync:
            os.fsync(self._fd)
        os.close(self._fd)
        os.close(self._state_fd)


def _open(path: str, flags: int = 0) -> int:
    """Open a file for reading and writing, or make it. Raises OSError, and Error if it is a link.

    Whoever may write to the directory could make root write to any file by a link.
    """
    try:
        return os.open(path, flags | os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise Error(f"cannot write to {path}: it is a link") from None


def _nothing_of(id: int) -> Cursor:
    cursor = Cursor()
    cursor.reached[id] = Reached()
    return cursor
