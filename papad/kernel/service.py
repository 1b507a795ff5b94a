"""What papad and systemd say to each other: sd_notify, the sockets passed in, the FD store.

The FD store holds few entries, told apart by the first part of their FDNAME: `vault-N`, `nursery`, `staging`, `turn` and one
`socket-FILENO-NAME` for each managed socket. Everything else that comes in is a control socket.
See sd_listen_fds(3), sd_notify(3) and "File Descriptor Store" in systemd's documentation.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable

from systemd import daemon

from papad.errors import Error

log = logging.getLogger("papad")

_STORED = re.compile(r"(vault-\d+|nursery|staging-[rw]|turn|socket-\d+-.*)$")
_ENTRIES_BESIDE_SOCKETS = 100

MAX_SOCKETS = 800
"""Managed sockets at most: under FileDescriptorStoreMax= of the unit, which stays under its soft LimitNOFILE=."""


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

    def notify(self, *states: str) -> None:
        """Tell the service manager, if there is one: `READY=1`, `STATUS=…`."""
        if self.managed:
            daemon.notify("\n".join(states))

    def store(self, name: str, fd: int) -> None:
        """Put a duplicate of `fd` into the FD store; `fd` stays the caller's. Replaces nothing: names are used once.

        FDPOLL=0, or systemd drops a pipe whose writers are gone with the data still in it.
        Raises Error when the service manager cannot be told.
        """
        if self.managed:
            try:
                daemon.notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", fds=[fd])
            except OSError as error:
                raise Error(f"systemd cannot be asked to keep this: {error.strerror}; nothing was changed") from None

    def unstore(self, name: str) -> None:
        """Drop the entry of that name from the FD store; closes nothing here."""
        if self.managed:
            daemon.notify(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def discard(self, names: Iterable[str]) -> None:
        """Close and drop stored descriptors that nothing claimed."""
        for name in list(names):
            log.warning("stored descriptor %s belongs to nothing; dropped", name)
            os.close(self.stored.pop(name))
            self.unstore(name)


def socket_entry(fileno: int, name: str) -> str:
    """The FDNAME of a managed socket: unique by its file number, readable in systemd's tools, short, plain ASCII."""
    return f"socket-{fileno}-" + re.sub(r"[^A-Za-z0-9._@-]", "_", name)[:40]
