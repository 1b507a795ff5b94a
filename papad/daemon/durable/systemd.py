"""What papad and systemd say to each other: sd_notify, the sockets passed in, the FD store.

The FD store holds few entries, told apart by the first part of their FDNAME: `vault-N`, `nursery`, `staging`, `turn` and one
`socket-FILENO-NAME` for each managed socket. Everything else that comes in is a control socket.
See sd_listen_fds(3), sd_notify(3) and "File Descriptor Store" in systemd's documentation.
"""

from __future__ import annotations

import logging
import os
import re
import select
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress

from systemd import daemon

from papad.errors import Error

log = logging.getLogger("papad")

_STORED = re.compile(r"(vault-\d+|nursery|staging-[rw]|turn|socket-\d+-.*)$")
_ENTRIES_BESIDE_SOCKETS = 100

MAX_SOCKETS = 400
"""Managed sockets at most: under FileDescriptorStoreMax= of the unit, which is less than half its soft LimitNOFILE=, for systemd needs
two numbers for each descriptor when it hands them over, and a start that fails for want of numbers fails for ever."""


class Service:
    """This process as a service. Without a service manager every call is harmless and nothing survives."""

    def __init__(self) -> None:
        environ = os.environ
        self.managed = "NOTIFY_SOCKET" in environ
        self.user = "MANAGERPID" in environ
        self.max_sockets = MAX_SOCKETS
        store = environ.get("FDSTORE", "")
        if store.isdecimal():
            self.max_sockets = max(0, min(MAX_SOCKETS, int(store) - _ENTRIES_BESIDE_SOCKETS))
        self.control: list[int] = []
        self.stored: dict[str, int] = {}
        self._adopt(daemon.listen_fds_with_names(unset_environment=True))

    def _adopt(self, passed: dict[int, str]) -> None:
        for fd, name in passed.items():
            os.set_inheritable(fd, False)
            if not _STORED.match(name):
                self.control.append(fd)
            elif name in self.stored:
                log.error("two descriptors are stored as %s; the second is dropped", name)
                os.close(fd)
            else:
                self.stored[name] = fd

    def take_socket(self, name: str) -> socket.socket:
        """The stored socket of that name, the caller's from now on.

        Raises KeyError when there is none, OSError when it is no socket; then it is dropped.
        """
        fd = self.stored.pop(name)
        try:
            return socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            self.unstore(name)
            raise

    def notify(self, *states: str, fds: Sequence[int] = ()) -> None:
        """Tell the service manager, if there is one: `READY=1`, `STATUS=…`. Raises OSError when it cannot be told."""
        if self.managed:
            extra = {"fds": list(fds)} if fds else {}
            daemon.notify("\n".join(states), **extra)

    def store(self, name: str, fd: int) -> None:
        """Put a duplicate of `fd` into the FD store; `fd` stays the caller's. Replaces nothing: names are used once.

        FDPOLL=0, or systemd drops a pipe whose writers are gone with the data still in it.
        Raises Error when the service manager cannot be told.
        """
        try:
            self.notify("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=[fd])
        except OSError as error:
            raise Error(f"systemd cannot be asked to keep this: {error.strerror}; nothing was changed") from None

    def unstore(self, name: str) -> None:
        """Drop the entry of that name from the FD store; closes nothing here. If that fails, the next start discards it."""
        try:
            self.notify("FDSTOREREMOVE=1", f"FDNAME={name}")
        except OSError as error:
            log.warning("systemd cannot be asked to drop %s: %s", name, error.strerror)

    def barrier(self) -> None:
        """Wait, a second at most, until the service manager has done what it was told: what it dropped is closed there, too.

        It closes the descriptor sent with BARRIER=1 when it gets there, mostly within a millisecond; see sd_notify_barrier(3).
        """
        if not self.managed:
            return
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            with suppress(OSError):
                self.notify("BARRIER=1", fds=[writer])
            os.close(writer)
            poll = select.poll()
            poll.register(reader)
            poll.poll(1000)
        finally:
            os.close(reader)

    def discard(self, names: Iterable[str]) -> None:
        """Close and drop stored descriptors that nothing claimed."""
        names = list(names)
        for name in names:
            log.warning("stored descriptor %s belongs to nothing; dropped", name)
            os.close(self.stored.pop(name))
            self.unstore(name)
        if names:
            self.barrier()


def socket_entry(fileno: int, name: str) -> str:
    """The FDNAME of a managed socket: unique by its file number, readable in systemd's tools, short, plain ASCII."""
    return f"socket-{fileno}-" + re.sub(r"[^A-Za-z0-9._@-]", "_", name)[:40]
