"""The file of a Unix socket: made with its mode and owner, replaced where it is stale, and removed.

Whoever owns a directory above it can make its path lead elsewhere at any instant. So its folder is
opened once, and what is looked at, changed or unlinked is in that one, whatever the path leads to
meanwhile (symlink(7), openat(2)).

Only bind(2) itself takes the path, because getsockname(2) repeats what bind was given, and programs
print that, or unlink it. So what it made is looked for in the folder, and opened. Mode and owner go
to that descriptor, if it is a socket of ours without any permission, as it was made: thus to nobody
else's file, and to nothing that takes its place later.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator

from papad.errors import Error

Node = tuple[int, int]
"""Device and inode of the file, to unlink only our own."""

Owner = tuple[int, int]
"""uid and gid, as chown(2) takes them: -1 leaves what is there."""

_NOBODYS = (-1, -1)


class InUse(Error):
    """Another socket has the address."""


def bind_path(
    sock: socket.socket, path: str, umask: int | None, *, mode: int | None = None, owner: Owner = _NOBODYS
) -> Node:
    """Bind a Unix socket to a path, replacing a stale socket file. Raises Error; then none of ours is left there.

    With `mode` or `owner`, nobody but root and this user can connect before the file has both. With
    `owner` alone, its mode is what the umask gives.
    """
    bare = mode is not None or owner != _NOBODYS
    try:
        with _folder(path) as (folder, name):
            _remove_stale(path, folder, name, sock.type)
            before = os.umask(0o777)
            try:
                usual = before if umask is None else umask
                os.umask(0o777 if bare else usual)
                sock.bind(path)
            finally:
                os.umask(before)
            if mode is None:
                mode = 0o777 & ~usual
            return _made(path, folder, name, (mode, owner) if bare else None)
    except (OSError, ValueError) as error:
        # As bind itself says it: without the folder that open(2) failed for.
        reason = OSError(error.errno, error.strerror) if isinstance(error, OSError) and error.errno else error
        raise Error(f"Bind failed: {reason}") from None


def unlink(path: str | None, node: Node | None) -> None:
    """Remove the path of a Unix socket, unless it has been replaced."""
    if path is None:
        return
    with contextlib.suppress(OSError), _folder(path) as (folder, name):
        _unlink(folder, name, node)


def _unlink(folder: int, name: str, node: Node | None) -> None:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if (status.st_dev, status.st_ino) == node:
        os.unlink(name, dir_fd=folder)


@contextlib.contextmanager
def _folder(path: str) -> Iterator[tuple[int, str]]:
    """Open the folder of a path, and give it together with the name in it. Raises OSError, ValueError."""
    parent, name = os.path.split(path)
    folder = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield folder, name
    finally:
        os.close(folder)


@contextlib.contextmanager
def _file(folder: int, name: str) -> Iterator[tuple[str, os.stat_result]]:
    """Open a file without following it; give a path that leads to this one, and what it is. Raises OSError."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        yield f"/proc/self/fd/{fd}", os.fstat(fd)
    finally:
        os.close(fd)


def _made(path: str, folder: int, name: str, wanted: tuple[int, Owner] | None) -> Node:
    """Return the node of the file that bind has made, once it has the mode and owner that are wanted."""
    try:
        with _file(folder, name) as (opened, status):
            node = status.st_dev, status.st_ino
            ours = stat.S_ISSOCK(status.st_mode)
            if wanted is not None:
                seen = stat.S_IMODE(status.st_mode), status.st_uid, status.st_nlink
                ours = ours and seen == (0, os.geteuid(), 1)
            if not ours:
                raise FileNotFoundError
            if wanted is not None:
                try:
                    _settle(path, opened, *wanted)
                except Error:
                    with contextlib.suppress(OSError):
                        _unlink(folder, name, node)
                    raise
            return node
    except FileNotFoundError:
        raise Error(
            f"Bind failed: at {path} there is another file than was made there;"
            " somebody has exchanged it, or its file system has other owners"
        ) from None


def _settle(path: str, opened: str, mode: int, owner: Owner) -> None:
    """Give the owner first, so that the mode never lets in anybody but whom it is for."""
    try:
        if owner != _NOBODYS:
            os.chown(opened, *owner)
    except OSError as error:
        who = ":".join("" if id < 0 else str(id) for id in owner).rstrip(":")
        hint = "; only root may choose it, others may choose a group of theirs" if error.errno == errno.EPERM else ""
        raise Error(f"Cannot make {who} the owner of {path}: {error.strerror}{hint}") from None
    try:
        os.chmod(opened, mode)
    except OSError as error:
        raise Error(f"Cannot give {path} the mode {mode:04o}: {error.strerror}") from None


def _remove_stale(path: str, folder: int, name: str, kind: int) -> None:
    """Unlink a socket file that no process serves; leave anything else alone. Raises Error, OSError."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return  # nothing there, or bind will report the error
    if not stat.S_ISSOCK(status.st_mode):
        raise Error(f"Bind failed: {path} exists and is not a socket; it is left alone")
    reason = _probe(folder, name, kind)
    if reason == errno.ECONNREFUSED:
        try:
            os.unlink(name, dir_fd=folder)
        except OSError as why:
            raise Error(f"Bind failed: the stale socket at {path} cannot be replaced: {why.strerror}") from None
    elif reason != errno.ENOENT:
        raise InUse(f"Bind failed: {path} is in use by another socket")


def _probe(folder: int, name: str, kind: int) -> int:
    """Return the error of connecting to a socket file, or 0."""
    with contextlib.ExitStack() as opened:
        try:
            file, status = opened.enter_context(_file(folder, name))
            if not status.st_mode & stat.S_IWUSR and status.st_uid == os.geteuid() and stat.S_ISSOCK(status.st_mode):
                # As one is whose maker was killed before it had its mode.
                os.chmod(file, stat.S_IMODE(status.st_mode) | stat.S_IWUSR)
                opened.callback(os.chmod, file, stat.S_IMODE(status.st_mode))
            probe = opened.enter_context(socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK))
            probe.connect(file)
        except OSError as error:
            return error.errno or errno.EIO
    return 0
