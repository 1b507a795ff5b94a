"""Papads that live one after the other: each is a forked child that puts the tables together as main does, and is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from papad.daemon.commands.table import Tables
from papad.daemon.durable import parcel
from papad.daemon.durable.homes import Homes
from papad.daemon.durable.store import opened_store
from papad.daemon.loop import Loop
from papad.daemon.nursery.spawner import Spawner
from papad.daemon.output.capture import Capture
from papad.daemon.tables.launch import specify
from papad.daemon.tables.process import Process
from papad.daemon.tables.processes import Processes
from papad.daemon.tables.sockets import Sockets
from papad.daemon.tables.values import Values
from tests.support.papad import FdStore, in_child

Act = Callable[[Tables], Awaitable[Any]]


class Lives:
    """What outlives a papad: the store, and the nursery with its processes."""

    def __init__(self, runtime: Path) -> None:
        self.store = FdStore(runtime=runtime)
        self.pids: set[int] = set()

    def live(self, act: Act) -> None:
        """One papad, which ends by SIGKILL after `act`; the next `live` is the next papad."""

        def papad() -> None:
            with asyncio.Runner(loop_factory=Loop) as runner:
                runner.run(life(self.store, act))
            os.kill(os.getpid(), signal.SIGKILL)

        try:
            assert in_child(papad) == signal.SIGKILL, "papad failed by itself"
        finally:
            self.next()

    def next(self) -> None:
        self.store = self.store.next()

    def report(self, act: Act) -> Any:
        """A papad that tells what `act` returned, as JSON, before it is killed."""
        told = os.memfd_create("test")

        async def telling(tables: Tables) -> None:
            parcel.write_all(told, json.dumps(await act(tables)).encode())

        try:
            self.live(telling)
            return json.loads(parcel.read_all(told))
        finally:
            os.close(told)


async def life(fd_store: FdStore, act: Act, patch: Callable[[Tables], None] = lambda tables: None) -> None:
    spawner = Spawner(fd_store, 1024)  # type: ignore[arg-type]
    homes = Homes(fd_store, spawner)
    await spawner.meet()
    homes.collect(fd_store.stored, spawner.held, spawner.withheld)
    store = opened_store(homes)
    sockets = Sockets(homes, store, fd_store.max_sockets)
    capture = Capture(homes, store)
    spawner.on_new = homes.furnish
    processes = Processes(homes, store, capture, spawner, sockets)
    tables = Tables(sockets, Values(store), processes, dict)
    patch(tables)
    processes.recover()
    if homes.settle(store.names):
        await homes.barrier()
    store.sweep()
    await act(tables)


async def everything_killed(tables: Tables) -> int:
    """Returns the pid of the nursery, or 0."""
    for process in tables.processes.select([]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    await tables.sockets.remove([])
    return tables.processes._spawner.pid


async def until(condition: Callable[[], Any], what: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.002)


async def make(tables: Tables, name: str, script: str, **options: Any) -> Process:
    environ = {"env.": {"PATH": "/bin:/usr/bin"}}
    process, _ = await tables.processes.make(name, specify(environ | options, ["/bin/sh", "-c", script]))
    return process


def process_of(tables: Tables, name: str) -> Process:
    (process,) = tables.processes.select([name], required=True)
    return process


def output(process: Process) -> dict[str, str]:
    chunks = list(process.ring.read(0, 1 << 40)) if process.ring else []
    return {
        name: b"".join(chunk.data for chunk in chunks if chunk.stream == stream).decode()
        for stream, name in enumerate(("out", "err"))
    }


def seen(process: Process) -> dict[str, Any]:
    return {**output(process), "code": process.exit and process.exit[0], "pid": process.pid, "started": process.started}
