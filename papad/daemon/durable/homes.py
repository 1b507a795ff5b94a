"""The two homes of every descriptor that must outlive the daemon: systemd's FD store and the nursery.

Each may be lost: the FD store when papad is stopped (systemd before 254) or fails, the nursery when
it is killed. What one of them has is enough. The store is the truth: what is held and belongs to no
entry is dropped, and what an entry needs and no home has is gone, with that entry alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterable, Mapping
from typing import Protocol

from papad.errors import Error

log = logging.getLogger("papad")


class Home(Protocol):
    """Holds descriptors by name."""

    def hold(self, name: str, fd: int) -> None:
        """Hold a duplicate of `fd`, which stays the caller's. Raises Error."""

    def drop(self, name: str) -> None:
        """Hold it no longer, if it is held."""

    async def barrier(self) -> None:
        """Wait, at most a second, until it has done what it was told."""

    @property
    def closing(self) -> bool:
        """Whether what it dropped may still be open there, although the barrier has passed."""


class Homes:
    """What is held, and in which of the homes."""

    def __init__(self, service: Home, nursery: Home) -> None:
        self._service, self._nursery = service, nursery
        self._found: dict[str, int] = {}  # what an earlier daemon left, not yet taken; ours
        self._missing: dict[str, list[Home]] = {}  # by name: the homes that lack it
        self._held: dict[str, tuple[int, bool]] = {}  # fds of their owners; whether in the FD store too
        self.withheld: set[str] = set()
        """Names of what the nursery holds, but we had no room for: left there for the next start."""

    def collect(self, stored: Mapping[str, int], held: Mapping[str, int], withheld: set[str]) -> None:
        """Take over what the FD store and the nursery returned; of two, one is closed."""
        self.withheld = withheld - stored.keys()
        for home, other, fds in ((self._service, self._nursery, stored), (self._nursery, self._service, held)):
            for name, fd in fds.items():
                if name in self._found:
                    os.close(fd)
                    self._missing[name].remove(home)
                else:
                    self._found[name] = fd
                    self._missing[name] = [other]

    def of(self, kind: str) -> list[str]:
        """Return the names of what an earlier daemon left that begin with `kind`, sorted."""
        return sorted(name for name in self._found if name.startswith(kind))

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def take(self, name: str, *, nursery_only: bool = False) -> int:
        """Return a descriptor that an earlier daemon left, which becomes the caller's.

        Like one that was given to `hold`. Raises KeyError if there is none.
        """
        fd = self._found.pop(name)
        self._held[name] = fd, not nursery_only
        for home in self._missing.pop(name):
            if home is self._nursery or not nursery_only:
                try:
                    home.hold(name, fd)
                except Error as error:  # one home is enough; the next start tries again
                    log.warning("descriptor %s has one home only: %s", name, error)
        return fd

    def take_socket(self, name: str, *, nursery_only: bool = False) -> socket.socket:
        """The same for a socket. Raises KeyError, OSError if it is none; then it is dropped."""
        fd = self.take(name, nursery_only=nursery_only)
        try:
            return socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            self.drop(name)
            raise

    def hold(self, name: str, fd: int) -> None:
        """Hold a descriptor in both homes. It stays the caller's, who keeps it open until `drop`.

        Raises Error if the service manager cannot be asked; then nothing has changed.
        """
        self._service.hold(name, fd)
        self._nursery.hold(name, fd)
        self._held[name] = fd, True

    def hold_in_nursery(self, name: str, fd: int) -> None:
        """Hold a descriptor in the nursery alone, because the FD store is small; else like `hold`."""
        self._nursery.hold(name, fd)
        self.held_in_nursery(name, fd)

    def held_in_nursery(self, name: str, fd: int) -> None:
        """Know that the nursery was told already to hold a duplicate of `fd`."""
        self._held[name] = fd, False

    def drop(self, name: str) -> None:
        """Hold it no longer; the caller closes it."""
        _, both = self._held.pop(name, (-1, True))
        self._nursery.drop(name)
        if both:
            self._service.drop(name)

    def clear(self) -> None:
        """Drop everything: papad ends, and holds nothing."""
        for name in list(self._held):
            self.drop(name)

    def furnish(self) -> None:
        """Let a new nursery hold everything."""
        for name, (fd, _) in self._held.items():
            self._nursery.hold(name, fd)

    def discard(self, name: str) -> None:
        """Drop what an earlier daemon left under this name, if anything."""
        if name in self._found:
            os.close(self._found.pop(name))
            del self._missing[name]
            self.drop(name)

    def settle(self, needed: Iterable[str]) -> bool:
        """Drop what an earlier daemon left and nobody took, but for the names that are `needed`.

        Those belong to what this version cannot use: they stay in the homes, for one that can.
        Returns whether anything was dropped: it has an address until `barrier` has passed, or as
        long as `closing` says.
        """
        needed = set(needed)
        dropped = self._found.keys() - needed
        for name in self._found.keys() & needed:
            self._held[name] = self._found[name], self._service not in self._missing[name]
        for name in dropped:
            log.warning("dropping descriptor %s: nothing uses it", name)
            self.discard(name)
        self._found.clear()
        self._missing.clear()
        return bool(dropped)

    async def barrier(self) -> None:
        """Wait, at most a second, until both homes have dropped what they were told to."""
        await asyncio.gather(self._service.barrier(), self._nursery.barrier())

    @property
    def closing(self) -> bool:
        """Whether what was dropped may still be open in one of them, although the barrier has passed."""
        return self._service.closing or self._nursery.closing

    async def pause(self, seconds: float) -> None:
        """Give it time to be closed."""
        await asyncio.sleep(seconds)
