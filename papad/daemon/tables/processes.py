"""Managed processes: their records, their output, their end, and those who watch them.

A process is in the vault before the nursery hears of it. It is recorded again when it has started (or is erased when it could not),
when it has been removed by name, and when it has ended; only then does the nursery forget what it said. A papad that finds a
process in the vault of which the nursery, having said all that it has to say, knows nothing, may conclude that it was never begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from dataclasses import asdict, dataclass, field
from typing import Protocol

from papad.daemon.durable import parcel
from papad.daemon.durable.vault import Entry, Vault, rebuilt
from papad.daemon.nursery import pidfd
from papad.daemon.nursery.spawner import Spawner
from papad.daemon.output.capture import Capture
from papad.daemon.output.journal import Journal
from papad.daemon.output.ring import STREAMS, Ring
from papad.daemon.tables import launch
from papad.daemon.tables.launch import Spec
from papad.daemon.tables.patterns import select
from papad.daemon.tables.sockets import Sockets
from papad.errors import Error

log = logging.getLogger("papad")

UNKNOWN_CODE = 256
"""The exit code of a process whose real one nobody can tell any more: no process can end with it."""

_KEY = "process:"
_UNKNOWN_AFTER = 10.0  # seconds for init to reap what the nursery cannot


class NeverBegun(Exception):
    """The nursery was killed before it forked this process."""


class Observer(Protocol):
    """Somebody who watches processes."""

    def wake(self) -> None:
        """There is something new."""

    def lose(self, process: Process) -> None:
        """The process is in no table any more."""


class Follower(Protocol):
    """Somebody who wants to hear of every process."""

    def wake(self, process: Process) -> None:
        """Something happened to it."""


@dataclass(eq=False)
class Process:
    """One process, from the moment it is recorded until its close is acknowledged."""

    id: int
    name: str
    spec: Spec
    ring: Ring | None = None
    pipes: dict[int, int] = field(default_factory=dict)  # stream -> reading end, until end of file
    pid: int = 0
    started: float = 0.0
    pidfd: int = -1
    exit: tuple[int, float] | None = None  # code and time
    removed: bool = False
    ready: asyncio.Future[str] | None = None  # while it is being started; gives its first line
    nursery: int = 0  # the pid of its parent
    observers: set[Observer] = field(default_factory=set)

    @property
    def closed(self) -> bool:
        """Whether it has ended and all that it wrote is captured."""
        return self.exit is not None and not self.pipes

    @property
    def closed_at(self) -> float:
        """When `closed` came true: with its end, or with its last output after that."""
        assert self.exit is not None
        return max(self.exit[1], self.ring.newest if self.ring else 0.0)

    def __str__(self) -> str:
        words = [f"{self.name} pid={self.pid} running={self.exit is None} started={self.started}"]
        if self.spec.uid:
            words.append(f"uid={self.spec.uid}")
        if self.spec.gid:
            words.append(f"gid={self.spec.gid}")
        if self.spec.shell:
            words.append("shell=True")
        words.append("args=" + " ".join(self.spec.args))
        return " ".join(words)


class Processes:
    """All processes; by name those that have started and are listed."""

    def __init__(self, vault: Vault, capture: Capture, spawner: Spawner, sockets: Sockets) -> None:
        """Take back what an earlier papad left. `recover` must follow, in the event loop."""
        self._vault, self._capture, self._spawner, self._sockets = vault, capture, spawner, sockets
        self._by_id: dict[int, Process] = {}
        self._names: dict[str, Process] = {}
        self.followers: set[Follower] = set()
        self._journal = Journal()
        self._waiting: dict[int, Process] = {}  # those with lines that journald has yet to take
        self._doubtful: list[Process] = []  # whether they were started, only the nursery knows
        spawner.on_report = self._reported
        spawner.on_change = self._nursery_changed
        for key, entry in list(vault.entries.items()):
            if key.startswith(_KEY):
                try:
                    self._take_back(int(key[len(_KEY) :]), entry)
                except (KeyError, TypeError, ValueError, OSError) as error:
                    log.error("process %s cannot be recovered and is dropped: %r", entry.fields.get("name", key), error)
                    vault.erase(key)
                    parcel.close_all(list(entry.fds.values()))
        self._last_id = max(self._by_id, default=0)
        capture.finish(lambda id: self._by_id[id].ring if id in self._by_id else None)

    def _take_back(self, id: int, entry: Entry) -> None:
        fields, fds = entry.fields, entry.fds
        spec = rebuilt(Spec, fields["spec"])
        ring = Ring(fds["ring"], journal=spec.journal) if "ring" in fds else None
        process = Process(id, fields["name"], spec, ring)
        process.pipes = {stream: fds[name] for stream, name in enumerate(STREAMS) if name in fds}
        process.pid, process.started = fields.get("pid", 0), fields.get("started", 0.0)
        process.pidfd = fds.get("pidfd", -1)
        process.exit = tuple(fields["exit"]) if "exit" in fields else None
        process.removed, process.nursery = fields.get("removed", False), fields.get("nursery", 0)
        self._by_id[id] = process
        if not fields.get("forgotten"):
            self._names[process.name] = process

    async def recover(self) -> None:
        """Hear the nursery out, then go on capturing."""
        loop = asyncio.get_running_loop()
        for process in self._by_id.values():
            if not process.pid:
                process.ready = loop.create_future()
                self._doubtful.append(process)
        await self._spawner.recover()
        for process in list(self._by_id.values()):
            if process.pid:
                self._listen(process)
                self._forward(process)
                self._settle(process)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def running(self) -> int:
        """How many have not ended."""
        return sum(process.exit is None for process in self._names.values())

    async def make(self, name: str, spec: Spec) -> tuple[Process, str]:
        """The process `name` and its line: started now, unless it is there with the same spec.

        Raises Error, and then nothing is left of it; or OSError for want of resources.
        """
        while name not in self._names:
            if self._spawner.pid:
                process = self._begin(name, spec)
                break
            await self._spawner.ensure()
        else:
            process = self._names[name]
        try:
            line = str(process) if process.ready is None else await asyncio.shield(process.ready)
        except NeverBegun:  # then somebody, perhaps we, may try again
            return await self.make(name, spec)
        if process.spec != spec:
            raise Error(f"Process for {name} has already been created - {process}")
        return process, line

    def _begin(self, name: str, spec: Spec) -> Process:
        """Record a process and hand it to the nursery; `ready` tells when it has started. Raises Error, or OSError."""
        with contextlib.ExitStack() as always_cleanup, contextlib.ExitStack() as cleanup_on_fail:
            inherited, args = launch.inherit(name, spec, self._sockets, always_cleanup)
            if not args:
                raise Error("No command")
            process = Process(
                max(self._last_id + 1, time.time_ns() // 1_000_000), name, spec, nursery=self._spawner.pid
            )
            cleanup_on_fail.callback(self._release, process)
            if spec.out or spec.err:
                process.ring = Ring.create(spec.bufsize, journal=spec.journal)
            standard, process.pipes = launch.standard_streams(spec, always_cleanup)
            fds = {STREAMS[stream]: fd for stream, fd in process.pipes.items()}
            if process.ring:
                fds["ring"] = process.ring.fd
            fields = {"name": name, "spec": asdict(spec), "nursery": process.nursery}
            self._vault.write(_key(process), fields, fds)
            cleanup_on_fail.callback(self._vault.erase, _key(process))
            request = launch.request(spec, args) | {"id": process.id, "targets": [0, 1, 2, *inherited]}
            self._spawner.spawn(request, [*standard, *inherited.values()])
            cleanup_on_fail.pop_all()
        process.ready = asyncio.get_running_loop().create_future()
        self._last_id = process.id
        self._by_id[process.id] = self._names[name] = process
        return process

    def lines(self, patterns: list[str]) -> list[str]:
        """The lines of those that match, sorted."""
        return sorted(str(process) for process in self.select(patterns))

    def remove(self, patterns: list[str]) -> None:
        """Drop the output of those that match, now and in future, and forget each once it has ended. Raises Error."""
        for process in self.select(patterns, required=True):
            if process.removed:
                continue
            self._vault.write(_key(process), {"removed": True})
            process.removed = True
            if process.ring is not None:
                process.ring.acknowledge(0, process.ring.state.tail)
            for observer in list(process.observers):
                observer.lose(process)
            log.info("removed process %s", process.name, extra={"PAPAD_NAME": process.name})
            self._settle(process)

    def close(self) -> None:
        """papad ends: stop listening. With an FD store all goes on at the next start."""
        for process in self._by_id.values():
            for fd in process.pipes.values():
                asyncio.get_running_loop().remove_reader(fd)
        self._journal.close()
        self._spawner.close()

    def forget(self, process: Process) -> None:
        """Its close was acknowledged, or it was removed and has ended: its name is free."""
        drain = bool(process.pipes)  # removed, and a grandchild still writes: until it stops
        if drain:
            self._vault.write(_key(process), {"forgotten": True})
        else:
            self._vault.erase(_key(process))
        if self._names.get(process.name) is process:
            del self._names[process.name]
        if not drain:
            self._by_id.pop(process.id, None)
            self._release(process)

    def select(self, patterns: list[str], *, required: bool = False) -> list[Process]:
        """Those that match, by name. Raises Error for a name that does not exist, where `required`."""
        listed = {name: process for name, process in self._names.items() if process.ready is None}
        numbers = {process.pid: name for name, process in listed.items()}
        return [listed[name] for name in select(listed, patterns, numbers=numbers, required=required)]

    def matches(self, process: Process, patterns: list[str]) -> bool:
        """Whether one process, still listed, is among those that the patterns select."""
        numbers = {process.pid: process.name}
        return self._names.get(process.name) is process and bool(select([process.name], patterns, numbers=numbers))

    def _release(self, process: Process) -> None:
        """Close all descriptors of a process that is in no table any more."""
        for stream in list(process.pipes):
            self._close_pipe(process, stream)
        if process.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(process.pidfd)
            os.close(process.pidfd)
            process.pidfd = -1
        ring, process.ring = process.ring, None
        if ring is not None:
            ring.close(empty=True)

    def _close_pipe(self, process: Process, stream: int) -> None:
        fd = process.pipes.pop(stream)
        self._vault.withdraw(_key(process), STREAMS[stream])
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)

    # What happens to a process: the nursery's reports, output, its end.

    def _reported(self, report: parcel.Record, fds: list[int]) -> None:
        """One report, perhaps again. It is acknowledged once it is in the vault; what cannot be is told to the next papad."""
        id, what = report["id"], report["what"]
        process = self._by_id.get(id)
        try:
            if process is None:
                parcel.close_all(fds)
            elif what == "forked" and not process.pid:
                self._forked(process, report["pid"], report["started"], fds)
            elif what == "spawned":
                self._spawned(process)
            elif what == "exited" and process.exit is None:
                self._exited(process, report["code"], report["time"])
            elif what == "failed":
                self._failed(process, Error(report["error"]))
            else:
                parcel.close_all(fds)
        except (OSError, Error) as error:
            log.error("what became of process %d cannot be recorded: %s", id, error)
        else:
            self._spawner.acknowledge(id, what)

    def _forked(self, process: Process, pid: int, started: float, fds: list[int]) -> None:
        process.pid, process.started = pid, started
        process.pidfd = fds[0] if fds else -1
        self._listen(process)
        pidfds = {"pidfd": process.pidfd} if fds else {}
        self._vault.write(_key(process), {"pid": pid, "started": started}, pidfds)

    def _spawned(self, process: Process) -> None:
        if process.ready is not None:
            process.ready.set_result(str(process))
            process.ready = None
            log.info("started process %s with pid %d", process.name, process.pid, extra={"PAPAD_NAME": process.name})
            self._settle(process)

    def _failed(self, process: Process, error: Exception) -> None:
        for stream in list(process.pipes):
            self._close_pipe(process, stream)
        self.forget(process)
        log.info("process %s did not start: %s", process.name, error, extra={"PAPAD_NAME": process.name})
        if process.ready is not None:
            process.ready.set_exception(error)
            process.ready.exception()  # after a restart nobody waits for it
            process.ready = None

    def _exited(self, process: Process, code: int, when: float) -> None:
        process.exit = code, when
        try:
            self._vault.write(_key(process), {"exit": [code, when]})
        finally:
            log.info("process %s ended with code %d", process.name, code, extra={"PAPAD_NAME": process.name})
            self._settle(process)

    def _listen(self, process: Process) -> None:
        for stream, fd in process.pipes.items():
            asyncio.get_running_loop().add_reader(fd, self._readable, process, stream)

    def _readable(self, process: Process, stream: int) -> None:
        fd = process.pipes[stream]
        try:
            if process.removed or process.ring is None:
                size = self._capture.drain(fd)
            else:
                size = self._capture.pump(fd, process.ring, process.id, stream)
        except BlockingIOError:
            return
        if not size:
            self._close_pipe(process, stream)
        self._forward(process)
        self._settle(process)

    def _forward(self, process: Process) -> None:
        """Forward lines to the journal; what it does not take now waits until it does."""
        if not process.spec.journal or process.removed or self._journal.forward(process):
            self._waiting.pop(process.id, None)
            return
        self._waiting[process.id] = process
        asyncio.get_running_loop().add_writer(self._journal, self._journal_takes_more)

    def _journal_takes_more(self) -> None:
        asyncio.get_running_loop().remove_writer(self._journal)
        for process in list(self._waiting.values()):
            self._forward(process)

    def _settle(self, process: Process) -> None:
        """Something happened: tell those who watch, and let go of a removed process that has ended."""
        if process.removed and process.exit is not None:
            self.forget(process)
        for observer in list(process.observers):
            observer.wake()
        for follower in list(self.followers):
            follower.wake(process)

    # Without a nursery: ends are known from pidfds.

    def _nursery_changed(self) -> None:
        """The nursery has told all it knows, or is gone. Await the ends of those whose parent is not the living one."""
        loop = asyncio.get_running_loop()
        doubtful, self._doubtful = self._doubtful, []
        for process in doubtful:
            if process.pid:  # "spawned" may have been acknowledged before
                self._spawned(process)
            else:
                self._failed(process, NeverBegun("papad was stopped before it began"))
        for process in [
            each for each in self._by_id.values() if each.exit is None and each.nursery != self._spawner.pid
        ]:
            if not process.pid:
                self._failed(process, NeverBegun("the nursery died before it began"))
                continue
            self._spawned(process)
            if process.pidfd >= 0:
                loop.add_reader(process.pidfd, self._pidfd_readable, process, None)
            else:
                self._exited(process, UNKNOWN_CODE, time.time())

    def _pidfd_readable(self, process: Process, until: float | None) -> None:
        """It has ended. Its code can be had once init has reaped it, on kernels that keep it at all."""
        loop = asyncio.get_running_loop()
        if process.pidfd < 0 or process.exit is not None:
            return
        loop.remove_reader(process.pidfd)
        until = until or loop.time() + _UNKNOWN_AFTER
        reaped = pidfd.reaped(process.pidfd)  # asked first: it may be reaped between the two
        code = pidfd.exit_code(process.pidfd)
        if code is None and not reaped and loop.time() < until:
            loop.call_later(0.01, self._pidfd_readable, process, until)
            return
        self._exited(process, UNKNOWN_CODE if code is None else code, time.time())


def _key(process: Process) -> str:
    return f"{_KEY}{process.id}"
