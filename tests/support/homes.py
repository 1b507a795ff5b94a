"""Tables over an FD store, as one papad after the other has them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from papad.daemon.commands.table import GRAMMAR
from papad.daemon.durable import parcel
from papad.daemon.durable.vault import Vault
from papad.daemon.tables.sockets import Socket, Sockets, specify
from tests.support.papad import Store

Content = dict[str, tuple[dict[str, Any], dict[str, int]]]  # key -> fields, inodes


class Home(Protocol):
    """A table, its vault, and an FD store that outlives both."""

    store: Store

    def leave(self) -> None:
        """Close all that dies with a process."""


H = TypeVar("H", bound=Home)


@contextlib.contextmanager
def opened(kind: Callable[[], H]) -> Iterator[H]:
    """A new home, closed at the end with all that it holds."""
    made = kind()
    try:
        yield made
    finally:
        made.leave()
        made.store.close()


class VaultHome:
    """A vault, its store, and the descriptors that its table would hold."""

    def __init__(self) -> None:
        self.store = Store()
        self.vault = Vault(self.store)
        self.model: Content = {}

    def write(self, key: str, fields: dict[str, Any], *names: str) -> None:
        fds = {name: os.memfd_create(name) for name in names}
        old = self.vault.entries[key].fds if key in self.vault.entries else {}
        replaced = [old[name] for name in names if name in old]
        self.vault.write(key, fields, fds)
        parcel.close_all(replaced)
        known, inodes = self.model.setdefault(key, ({}, {}))
        known.update(fields)
        inodes.update({name: os.fstat(fd).st_ino for name, fd in fds.items()})

    def erase(self, key: str) -> None:
        fds = list(self.vault.entries[key].fds.values()) if key in self.vault.entries else []
        self.vault.erase(key)
        parcel.close_all(fds)
        self.model.pop(key, None)

    def withdraw(self, key: str, name: str) -> None:
        fd = self.vault.entries[key].fds[name]
        self.vault.withdraw(key, name)
        os.close(fd)
        del self.model[key][1][name]

    def restart(self) -> None:
        """Leave as a killed papad does, and start again."""
        self.leave()
        self.store = self.store.next()
        self.vault = Vault(self.store)
        self.vault.recover()

    def leave(self) -> None:
        """Close all that dies with a process."""
        for entry in self.vault.entries.values():
            parcel.close_all([*entry.fds.values(), *entry.spilled])
        for each in (*self.vault._segments.values(), self.vault._writer):
            if each is not None:
                each.close()

    def content(self) -> Content:
        return {
            key: (entry.fields, {name: os.fstat(fd).st_ino for name, fd in entry.fds.items()})
            for key, entry in self.vault.entries.items()
        }


class SocketsHome:
    """The sockets of one papad, its vault and store; `restart` is what a kill and a start do."""

    def __init__(self) -> None:
        self.store = Store()
        self._begin()

    def _begin(self) -> None:
        self.vault = Vault(self.store)
        self.vault.recover()
        self.sockets = Sockets(self.store, self.vault)

    def make(self, line: str) -> Socket:
        """As `make socket` would: the options are those of the command table."""
        name, options = parse(line)
        return self.sockets.make(name, specify(options))

    def leave(self) -> None:
        for each in self.sockets:
            each.sock.close()
        for segment in (*self.vault._segments.values(), self.vault._writer):
            if segment is not None:
                segment.close()

    def restart(self) -> None:
        self.leave()
        self.store = self.store.next()
        self._begin()


def parse(line: str) -> tuple[str, dict[str, Any]]:
    command, _ = GRAMMAR.find(["make", "socket"])
    name, *words = line.split(" ")
    return name, command._parse(dict(word.split("=", 1) for word in words))
