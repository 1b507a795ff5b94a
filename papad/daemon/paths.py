"""Notices when the path of a control socket no longer leads to papad.

Whoever unlinks it or puts another socket there, as the original client may, leaves a papad that
listens where nobody finds it. inotify(7) tells.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger("papad")

_CLOEXEC_NONBLOCK = os.O_CLOEXEC | os.O_NONBLOCK
_CHANGES = 0x40 | 0x80 | 0x100 | 0x200  # IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE

_libc = ctypes.CDLL(None, use_errno=True)


class Paths:
    """The paths of listening Unix sockets, which stay the caller's."""

    def __init__(self, listeners: list[socket.socket], known: Mapping[str, int]) -> None:
        """Watch them, in the event loop; a path that is lost already is told at once.

        `known` is what an earlier daemon had there.
        """
        self._lost: set[str] = set()
        self._inodes: dict[str, int] = {}  # of the files
        self.known: dict[str, int] = {}
        """The inode of the file at each path, by the inode of the socket; for the next daemon."""
        for each in listeners:
            path, number = each.getsockname(), str(os.fstat(each.fileno()).st_ino)
            if isinstance(path, str) and path.startswith("/"):
                self._inodes[path] = self.known[number] = known.get(number) or _inode(path)
        self._inotify = _libc.inotify_init1(_CLOEXEC_NONBLOCK)
        if self._inotify < 0:
            return
        for folder in {os.path.dirname(path) for path in self._inodes}:
            _libc.inotify_add_watch(self._inotify, os.fsencode(folder), _CHANGES)
        asyncio.get_running_loop().add_reader(self._inotify, self._changed)
        self._look()

    def close(self) -> None:
        """Watch no longer."""
        if self._inotify >= 0:
            asyncio.get_running_loop().remove_reader(self._inotify)
            os.close(self._inotify)
            self._inotify = -1

    def _changed(self) -> None:
        os.read(self._inotify, 65536)
        self._look()

    def _look(self) -> None:
        for path, inode in self._inodes.items():
            lost = inode == 0 or _inode(path) != inode
            if lost and path not in self._lost:
                log.critical(
                    "%s no longer leads to papad: somebody has removed or replaced it. "
                    "To serve it again: systemctl restart papad.socket, or start papad again",
                    path,
                )
            (self._lost.add if lost else self._lost.discard)(path)


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0
