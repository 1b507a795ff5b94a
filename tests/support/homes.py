"""Tables over an FD store, as one papad after the other has them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from papad.daemon.commands.table import GRAMMAR
from papad.daemon.durable.homes import Homes
from papad.daemon.durable.store import opened_store
from papad.daemon.nursery.spawner import Spawner
from papad.daemon.tables.sockets import Socket, Sockets, has_names, look_up, specify
from papad.daemon.tables.values import Values
from tests.support.papad import FdStore


class Home(Protocol):
    """A table, its store, and an FD store that outlives both."""

    fd_store: FdStore

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
        made.fd_store.close()


class StoreHome:
    """A store and what a papad has of it; `restart` is what a kill and a start do. There is no nursery."""

    def __init__(self) -> None:
        self.fd_store = FdStore()
        self.begin()

    def begin(self) -> None:
        """What a papad does with it when it starts."""
        self.spawner = Spawner(self.fd_store, 1024)  # type: ignore[arg-type]
        self.homes = Homes(self.fd_store, self.spawner)
        stored, self.fd_store.stored = self.fd_store.stored, {}
        self.homes.collect(stored, {}, set())
        self.store = opened_store(self.homes)

    def leave(self) -> None:
        self.store.close()
        for fd in self.homes._found.values():
            os.close(fd)

    def restart(self) -> None:
        self.leave()
        self.fd_store = self.fd_store.next()
        self.begin()


class ValuesHome(StoreHome):
    """The values of one papad."""

    def begin(self) -> None:
        super().begin()
        self.values = Values(self.store)


class SocketsHome(StoreHome):
    """The sockets of one papad."""

    def begin(self) -> None:
        super().begin()
        self.sockets = Sockets(self.homes, self.store, self.fd_store.max_sockets)

    def make(self, line: str) -> Socket:
        """As `make socket` would: the options are those of the command table."""
        name, options = parse(line)
        spec = specify(options)
        return self.sockets.make(name, *(look_up(spec) if has_names(spec) else (spec,)))

    def remove(self, *patterns: str) -> None:
        """As `remove sockets` would."""
        asyncio.run(self.sockets.remove(list(patterns)))

    def leave(self) -> None:
        for each in self.sockets:
            each.sock.close()
        super().leave()


def parse(line: str) -> tuple[str, dict[str, Any]]:
    command, _ = GRAMMAR.find(["make", "socket"])
    name, *words = line.split(" ")
    return name, command._parse(dict(word.split("=", 1) for word in words))
