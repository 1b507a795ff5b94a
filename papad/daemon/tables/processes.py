"""The table of processes by name.

A process is in the store before the nursery is asked for it. lifecycle.py handles what happens to
it after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time

from papad.daemon.durable.homes import Homes
from papad.daemon.durable.store import Store, recorded
from papad.daemon.nursery.spawner import Spawner
from papad.daemon.output.capture import Capture
from papad.daemon.output.ring import Ring
from papad.daemon.tables import launch
from papad.daemon.tables.launch import Spec
from papad.daemon.tables.lifecycle import Follower, Lifecycle, NeverBegun, key, pipe_name
from papad.daemon.tables.patterns import select
from papad.daemon.tables.process import Process, State
from papad.daemon.tables.sockets import Sockets
from papad.errors import Error

log = logging.getLogger("papad")

_START_TIMEOUT = 30.0  # seconds for the exec of a program
_CANCEL_TIMEOUT = 1.0  # seconds until a child is gone that is called off


class Processes:
    """All processes that hold a name, from their entry in the store until they are forgotten."""

    def __init__(self, homes: Homes, store: Store, capture: Capture, spawner: Spawner, sockets: Sockets) -> None:
        """Take back what an earlier daemon left. `recover` must follow, in the event loop."""
        self._homes, self._store, self._spawner, self._sockets = homes, store, spawner, sockets
        self._lifecycle = Lifecycle(homes, store, capture, spawner)
        self._lifecycle.on_forgotten = self._forgotten
        self._names: dict[str, Process] = {}
        self._next: dict[str, Process] = {}
        """Those that replace the one of that name which has ended, once they have started."""
        for each in self._lifecycle:
            if each.state is not State.FORGOTTEN:
                (self._names if each.replaces is None else self._next)[each.name] = each

    def recover(self) -> None:
        """Take in all reports of the nursery, then continue to capture."""
        self._lifecycle.recover()

    def close(self) -> None:
        """Stop reading pipes: the daemon stops, and the next one continues."""
        self._lifecycle.close()

    def __len__(self) -> int:
        return len(self._names)

    @property
    def running(self) -> int:
        """The number of processes that have not ended."""
        return sum(process.exit is None for process in self._names.values())

    @property
    def followers(self) -> set[Follower]:
        """The followers, who are told of every process; they add and remove themselves."""
        return self._lifecycle.followers

    async def make(self, name: str, spec: Spec, *, again: bool = False) -> tuple[Process, str]:
        """Return the process `name` and its line; start it unless it exists with the same spec.

        With `again`, one that has ended is replaced, whatever its spec. Raises Error, or OSError for
        lack of resources; then nothing is left behind, and nothing is replaced.
        """
        found = launch.LookedUp()
        if self._existing(name, again=again) is None:
            found = await launch.looked_up(spec)
        while (process := self._existing(name, again=again)) is None:
            if self._spawner.pid:
                process = self._begin(name, spec, found)
                break
            await self._spawner.ensure()
        try:
            line = str(process) if process.ready is None else await self._ready(process, process.ready)
        except NeverBegun:  # the name is as it was: try once more
            return await self.make(name, spec, again=again)
        if process.removed:
            raise Error(
                f"Process for {name} has already been created - {process} - it was removed and still runs "
                f"(pid {process.pid}); the name is free once it has ended"
            )
        if process.spec != spec:
            differences = "; ".join(launch.differences(spec, process.spec))
            raise Error(f"Process for {name} has already been created - {process} - it differs in {differences}")
        return process, line

    def _existing(self, name: str, *, again: bool) -> Process | None:
        """Return the process that a `make` of this name is about; None if one is to be started."""
        process = self._next.get(name) or self._names.get(name)
        return None if process is not None and again and process.exit is not None else process

    async def _ready(self, process: Process, ready: asyncio.Future[str]) -> str:
        """Wait for the start of a process. Raises Error, also if it takes too long; then it will not start."""
        await asyncio.wait([ready], timeout=_START_TIMEOUT)
        if not ready.done():
            self._spawner.cancel(process.id)
            await asyncio.wait([ready], timeout=_CANCEL_TIMEOUT)
            raise Error(
                f"Cannot start a process: {process.spec.args[0]} could not be executed within {_START_TIMEOUT:g} s. "
                "Does its file system hang, or does somebody hold a lease on it?"
                + (" Or does nobody write to its stdin?" if process.spec.stdin else "")
            )
        return ready.result()

    def _begin(self, name: str, spec: Spec, found: launch.LookedUp) -> Process:
        """Record a process and hand it to the nursery; `ready` tells when it has started.

        Raises Error or OSError.
        """
        with contextlib.ExitStack() as always_cleanup, contextlib.ExitStack() as cleanup_on_fail:
            inherited, args = launch.inherit(name, spec, self._sockets, always_cleanup)
            if not args:
                raise Error("No command")
            if name in self._lifecycle.kept:
                raise Error(f"{name} is the name of a process that is kept, see papad's log; take another")
            id = max(self._lifecycle.last_id + 1, time.time_ns() // 1_000_000)
            replaced = self._names.get(name)
            process = Process(id, name, spec, replaces=replaced, nursery=self._spawner.pid)
            cleanup_on_fail.callback(self._lifecycle.release, process)
            fields = {"name": name, "spec": recorded(spec), "nursery": process.nursery}
            if replaced is not None:
                fields["replaces"] = replaced.id
            if spec.out or spec.err:
                process.ring = Ring.create(self._store, spec.bufsize, journal=spec.journal)
                fields["range"] = process.ring.range
            standard, process.pipes = launch.standard_streams(spec, always_cleanup)
            pipes = {pipe_name(process, stream): fd for stream, fd in process.pipes.items()}
            fields["fds"] = list(pipes)
            fields["inodes"] = [os.fstat(fd).st_ino for fd in pipes.values()]
            self._store.begin(key(process), fields)
            cleanup_on_fail.callback(self._store.erase, key(process))
            request = launch.request(spec, args, found)
            request |= {"id": process.id, "targets": [0, 1, 2, *inherited], "hold": list(pipes)}
            self._spawner.spawn(request, [*standard, *inherited.values(), *pipes.values()])
            for held_as, fd in pipes.items():
                self._homes.held_in_nursery(held_as, fd)
            cleanup_on_fail.pop_all()
        process.ready = asyncio.get_running_loop().create_future()
        self._lifecycle.add(process)
        (self._names if replaced is None else self._next)[name] = process
        return process

    def remove(self, patterns: list[str]) -> None:
        """Discard all output of the processes that match, and forget each once it has ended.

        Raises Error.
        """
        for process in self.select(patterns, required=True):
            if not process.removed:
                self._lifecycle.remove(process)
                log.info("removed process %s", process.name, extra={"PAPAD_NAME": process.name})

    def forget(self, process: Process) -> None:
        """Free the name of a process whose end was acknowledged. Raises Error or OSError."""
        self._lifecycle.forget(process)

    def _forgotten(self, process: Process) -> None:
        name = process.name
        if self._next.get(name) is process:  # it did not start
            del self._next[name]
        elif self._names.get(name) is process:
            del self._names[name]
            if name in self._next:
                self._names[name] = self._next.pop(name)

    def select(self, patterns: list[str], *, required: bool = False) -> list[Process]:
        """Return the processes that match, sorted by name.

        Raises Error for a name that does not exist if `required`.
        """
        found = select(
            self._names,
            patterns,
            numbers=lambda: {process.pid: name for name, process in self._names.items() if process.listed},
            visible=lambda name: self._names[name].listed,
            required=required,
        )
        return [self._names[name] for name in found]

    def matches(self, process: Process, patterns: list[str]) -> bool:
        """Return whether a process still holds its name and matches the patterns."""
        return self._names.get(process.name) is process and bool(
            select([process.name], patterns, numbers=lambda: {process.pid: process.name})
        )
