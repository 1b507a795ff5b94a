"""All tables of one papad in this process, without a nursery: what processes do is told to the tables here."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict

from papad.daemon.commands.table import Tables
from papad.daemon.durable import parcel
from papad.daemon.durable.vault import Vault
from papad.daemon.nursery.spawner import Spawner
from papad.daemon.output.capture import Capture
from papad.daemon.output.ring import Ring
from papad.daemon.tables.launch import specify
from papad.daemon.tables.lifecycle import key
from papad.daemon.tables.process import Process, State
from papad.daemon.tables.processes import Processes
from papad.daemon.tables.sockets import Sockets
from papad.daemon.tables.values import Values
from tests.support.papad import Store


class TablesHome:
    """Real tables; processes are put there as if a nursery had reported them, and so is what becomes of them."""

    def __init__(self) -> None:
        self.store = Store()
        self.vault = Vault(self.store)  # type: ignore[arg-type]
        self.vault.recover()
        sockets = Sockets(self.store, self.vault)  # type: ignore[arg-type]
        self._capture = Capture(self.store)  # type: ignore[arg-type]
        self.processes = Processes(self.vault, self._capture, Spawner(self.store, 1024), sockets)  # type: ignore[arg-type]
        self.tables = Tables(sockets, Values(self.vault), self.processes, lambda: {"starts": 1})
        self._ids = itertools.count(1)

    def add(self, name: str, capacity: int = 1 << 16) -> Process:
        """A process that runs; with capacity 0 nothing is captured."""
        id = next(self._ids)
        spec = specify({"bufsize": capacity}, ["/bin/cat"])
        process = Process(id, name, spec, Ring.create(capacity) if capacity else None, pid=1 << 30 | id, started=1.5)
        fds = {"ring": process.ring.fd} if process.ring else {}
        self.vault.write(key(process), {"name": name, "spec": asdict(spec)}, fds)
        process.enter(State.FORKED)
        process.enter(State.RUNNING)
        self.processes._lifecycle.add(process)
        self.processes._names[name] = process
        return process

    def write(self, process: Process, data: bytes, stream: int = 0, when: float | None = None) -> None:
        """It has written this."""
        captured(process, data, stream, when)
        self.processes._lifecycle._settle(process)

    def end(self, process: Process, code: int = 0, when: float | None = None) -> None:
        """It has ended; nobody holds its pipes."""
        self.processes._lifecycle._exited(process, code, time.time() if when is None else when)

    def leave(self) -> None:
        """Close all that dies with a papad."""
        for process in self.processes._lifecycle:
            if process.ring is not None:
                process.ring.close()
        for each in self.tables.sockets:
            each.sock.close()
        self.processes._lifecycle._journal.close()
        parcel.close_all([self._capture._null, self._capture._out, self._capture._in, self._capture._turn])
        for segment in (*self.vault._segments.values(), self.vault._writer):
            if segment is not None:
                segment.close()


def captured(process: Process, data: bytes, stream: int = 0, when: float | None = None) -> None:
    """Put bytes into a ring as a capture does."""
    ring = process.ring
    assert ring is not None
    ring.stage(len(data), stream, time.time_ns() if when is None else int(when * 1e9))
    assert ring.staged is not None
    position = ring.staged.tail - len(data)
    while data:
        offset, room = ring.place(position)
        parcel.write_all(ring.fd, data[:room], offset)
        position, data = position + len(data[:room]), data[room:]
    ring.commit()
