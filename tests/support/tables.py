"""All tables of one papad in this process, without a nursery: what processes do is told to the tables here."""

from __future__ import annotations

import itertools
import time

from papad.daemon.commands.table import Tables
from papad.daemon.durable import parcel
from papad.daemon.durable.store import recorded
from papad.daemon.output.capture import Capture
from papad.daemon.output.ring import Ring
from papad.daemon.tables.launch import specify
from papad.daemon.tables.lifecycle import key
from papad.daemon.tables.process import Process, State
from papad.daemon.tables.processes import Processes
from papad.daemon.tables.sockets import Sockets
from papad.daemon.tables.values import Values
from tests.support.homes import StoreHome


class TablesHome(StoreHome):
    """Real tables; processes are put there as if a nursery had reported them, and so is what becomes of them."""

    def begin(self) -> None:
        super().begin()
        sockets = Sockets(self.homes, self.store, self.fd_store.max_sockets)
        self._capture = Capture(self.homes, self.store)
        self.processes = Processes(self.homes, self.store, self._capture, self.spawner, sockets)
        self.tables = Tables(sockets, Values(self.store), self.processes, lambda: {"starts": 1})
        self._ids = itertools.count(1)

    def add(self, name: str, capacity: int = 1 << 16) -> Process:
        """A process that runs; with capacity 0 nothing is captured."""
        id = next(self._ids)
        spec = specify({"bufsize": capacity}, ["/bin/cat"])
        ring = Ring.create(self.store, capacity) if capacity else None
        process = Process(id, name, spec, ring, pid=1 << 30 | id, started=1.5)
        fields = {"name": name, "spec": recorded(spec)}
        self.store.begin(key(process), fields | ({"range": list(ring.range)} if ring else {}))
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
        for each in self.tables.sockets:
            each.sock.close()
        self.processes._lifecycle._journal.close()
        parcel.close_all([self._capture._null, self._capture._out, self._capture._in])
        super().leave()


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
