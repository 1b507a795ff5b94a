"""The interface to systemd: sd_notify, the sockets passed in, the FD store.

The FD store holds few descriptors, which are told apart by their FDNAME: `store`, `staging-r`,
`staging-w`, and one `socket-FILENO-NAME` for each managed socket. What a later papad stores is named
likewise, KIND-NUMBER. Any other descriptor passed in is a control socket. See sd_listen_fds(3),
sd_notify(3) and "File Descriptor Store" in systemd's documentation.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from systemd import daemon

from papad.errors import Error

log = logging.getLogger("papad")

_STORED = re.compile(r"(store|staging-[rw]|[a-z]+-\d+(-.*)?)$")  # KIND-NUMBER: of later kinds, too
_ENTRIES_BESIDE_SOCKETS = 100
_BARRIER_SECONDS = 1.0
_CLOSING_SECONDS = 1.0

MAX_SOCKETS = 400
"""The most managed sockets. It is below the unit's FileDescriptorStoreMax=, which is less than half
its soft LimitNOFILE=: systemd needs two fds for each descriptor that it passes, and a start that
fails for lack of fds fails every time."""


class Service:
    """This process as a service. Without a service manager, calls do nothing."""

    def __init__(self) -> None:
        environ = os.environ
        self.managed = "NOTIFY_SOCKET" in environ
        """Whether a service manager started this process, and holds the FD store."""
        self.user = "MANAGERPID" in environ
        """Whether that is a user's service manager."""
        directory = environ.get("RUNTIME_DIRECTORY")
        self.runtime = Path(directory) if directory else None
        """The directory of this service, /run/papad, which stays while papad does not run."""
        self.max_sockets = MAX_SOCKETS
        store = environ.get("FDSTORE", "")
        if store.isdecimal():
            self.max_sockets = max(0, min(MAX_SOCKETS, int(store) - _ENTRIES_BESIDE_SOCKETS))
        self.control: dict[int, str] = {}
        """The control sockets that were passed in, with their FDNAME: the unit, unless it says otherwise."""
        self.stored: dict[str, int] = {}
        """Descriptors from the FD store that nothing has claimed yet, by FDNAME."""
        self._dropped = -_CLOSING_SECONDS  # when something was, by the monotonic clock
        self._undropped: set[str] = set()  # names that systemd could not be asked to drop
        self._adopt(daemon.listen_fds_with_names(unset_environment=True))

    def _adopt(self, passed: dict[int, str]) -> None:
        for fd, name in passed.items():
            os.set_inheritable(fd, False)
            if not _STORED.match(name):
                self.control[fd] = name
            elif name in self.stored:
                log.error("two stored descriptors are named %s; dropping the second", name)
                os.close(fd)
            else:
                self.stored[name] = fd

    def notify(self, *states: str, fds: Sequence[int] = ()) -> None:
        """Notify the service manager, if any: `READY=1`, `STATUS=…`. Raises OSError on failure."""
        if self.managed:
            extra = {"fds": list(fds)} if fds else {}
            daemon.notify("\n".join(states), **extra)

    def hold(self, name: str, fd: int) -> None:
        """Put a duplicate of `fd` into the FD store; `fd` stays the caller's.

        A name must not be in use: this replaces nothing. FDPOLL=0 keeps systemd from dropping a
        pipe that has no writers left but still holds data. Raises Error if the service manager
        cannot be notified.
        """
        try:
            if name in self._undropped:  # else systemd has two of that name, and returns the older one first
                self.notify("FDSTOREREMOVE=1", f"FDNAME={name}")
                self._undropped.remove(name)
            self.notify("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=[fd])
        except OSError as error:
            raise Error(f"systemd cannot be asked to keep this: {error.strerror}; nothing was changed") from None

    def drop(self, name: str) -> None:
        """Drop the descriptor of that name from the FD store; closes nothing here.

        If that fails, the next start drops it, or the next `hold` of that name.
        """
        self._dropped = time.monotonic()
        try:
            self.notify("FDSTOREREMOVE=1", f"FDNAME={name}")
        except OSError as error:
            log.warning("cannot ask systemd to drop %s: %s", name, error.strerror)
            self._undropped.add(name)

    @property
    def closing(self) -> bool:
        """Whether what was dropped may still be open in the service manager: it was a second ago at most.

        systemd closes it in another thread since version 254, and no event tells when: within 20 ms
        on a busy machine with two processors.
        """
        return self.managed and time.monotonic() < self._dropped + _CLOSING_SECONDS

    async def barrier(self) -> None:
        """Wait, at most a second, until the service manager has processed earlier notifications.

        It closes the descriptor sent with BARRIER=1 when it processes that message, usually within
        a millisecond; see sd_notify_barrier(3). Those that it was told to drop are closed by then,
        or will be soon: see `closing`.
        """
        if not self.managed:
            return
        loop = asyncio.get_running_loop()
        closed = asyncio.Event()
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            with suppress(OSError):
                self.notify("BARRIER=1", fds=[writer])
            os.close(writer)
            loop.add_reader(reader, closed.set)
            with suppress(TimeoutError):
                await asyncio.wait_for(closed.wait(), _BARRIER_SECONDS)
        finally:
            loop.remove_reader(reader)
            os.close(reader)


def socket_entry(fileno: int, name: str) -> str:
    """Return the FDNAME of a managed socket: unique by its fileno, short, and plain ASCII."""
    return f"socket-{fileno}-" + re.sub(r"[^A-Za-z0-9._@-]", "_", name)[:40]
