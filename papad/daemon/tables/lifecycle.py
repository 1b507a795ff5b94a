"""The life of a process from the spawn request on: reports, output, exit, until nothing is left.

A report is acknowledged once its contents are in the vault. Until then the nursery keeps it, and
sends it to the next daemon. So if the vault has a process without a pid, and the nursery has sent
all its reports and none is about this process, the process was never forked.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from papad.daemon.durable import parcel
from papad.daemon.durable.vault import Entry, Vault, rebuilt
from papad.daemon.nursery import pidfd
from papad.daemon.nursery.spawner import Spawner
from papad.daemon.output.capture import Capture
from papad.daemon.output.journal import Journal
from papad.daemon.output.ring import STREAMS, Ring
from papad.daemon.tables.launch import Spec
from papad.daemon.tables.process import IllegalTransition, Process, State
from papad.errors import Error

log = logging.getLogger("papad")

UNKNOWN_CODE = 256
"""Reported when the real exit code is unknown; no process can exit with it."""

_KEY = "process:"
_UNKNOWN_AFTER = 10.0  # seconds for init to reap the child of a nursery that is gone


class NeverBegun(Exception):
    """The nursery was killed before it forked this process."""


class Follower(Protocol):
    """Is told of changes to every process."""

    def wake(self, process: Process) -> None:
        """Handle a change to `process`."""


class Lifecycle:
    """All processes of which anything is left, listed or not, and all that happens to them."""

    # Recovery. Every start takes these steps, in this order:
    #
    # 1. The vault gives all processes, with their pipes, rings and pidfds (`__init__`).
    # 2. The capture that was interrupted is completed. It needs the rings, and must precede
    #    everything that reads, acknowledges or fills one: a staged ring is not consistent.
    # 3. The nursery sends all reports that are not acknowledged (`recover`). The channel keeps the
    #    order, so before it answers `sync` the nursery has also handled every spawn request that
    #    the earlier daemon sent. A process that still has no pid was never forked.
    # 4. Only then are the pipes read, so that output is captured for processes that are known to
    #    exist, in their final state.
    #
    # Recovery can itself be killed and repeated at any point, because a fact is first written to
    # the vault, then acted on:
    #
    # - A process is in the vault before the nursery is asked for it. A SIGKILL in between leaves
    #   one without a pid, which step 3 drops.
    # - A report is written to the vault before it is acknowledged. A SIGKILL in between makes the
    #   nursery send it again; `_reported` sees that it is no news and only acknowledges it.
    # - `spawned` is not written: a process with a pid counts as RUNNING after a restart. If
    #   `failed` follows, it is dropped.
    # - An entry is erased before its descriptors are closed and its ring is emptied. A SIGKILL in
    #   between closes them too, and the compaction at the next start frees the memory. In the other
    #   order, the vault could refer to a ring that is empty.

    def __init__(self, vault: Vault, capture: Capture, spawner: Spawner) -> None:
        """Take back what an earlier daemon left. `recover` must follow, in the event loop."""
        self._vault, self._capture, self._spawner = vault, capture, spawner
        self._journal = Journal()
        self._by_id: dict[int, Process] = {}
        self._waiting: dict[int, Process] = {}
        """Processes with lines that journald has yet to accept, by id."""
        self._doubtful: list[Process] = []
        """At a start, the processes of which only the nursery knows whether they were forked."""
        self.followers: set[Follower] = set()
        self.on_forgotten: Callable[[Process], None] = lambda process: None
        """Called when a process is no longer in any list."""
        spawner.on_report = self._reported
        spawner.on_change = self._nursery_changed
        for key, entry in list(vault.entries.items()):
            if key.startswith(_KEY):
                try:
                    self._take_back(int(key[len(_KEY) :]), entry)
                except (KeyError, TypeError, ValueError, OSError) as error:
                    log.error("dropping process %s, cannot recover it: %r", entry.fields.get("name", key), error)
                    vault.erase(key)
                    parcel.close_all(list(entry.fds.values()))
        self.last_id = max(self._by_id, default=0)
        capture.finish(lambda id: self._by_id[id].ring if id in self._by_id else None)

    def __iter__(self) -> Iterator[Process]:
        return iter(list(self._by_id.values()))

    def _take_back(self, id: int, entry: Entry) -> None:
        fields, fds = entry.fields, entry.fds
        spec = rebuilt(Spec, fields["spec"])
        ring = Ring(fds["ring"], journal=spec.journal) if "ring" in fds else None
        process = Process(id, fields["name"], spec, ring)
        process.pipes = {stream: fds[name] for stream, name in enumerate(STREAMS) if name in fds}
        process.pid, process.started = fields.get("pid", 0), fields.get("started", 0.0)
        process.pidfd = fds.get("pidfd", -1)
        process.exit = tuple(fields["exit"]) if "exit" in fields else None
        process.nursery = fields.get("nursery", 0)
        if fields.get("forgotten"):
            process.state = State.FORGOTTEN
        elif fields.get("removed"):
            process.state = State.REMOVED
        elif process.exit is not None:
            process.state = State.ENDED if process.pipes else State.CLOSED
        elif process.pid:
            process.state = State.RUNNING
        self._by_id[id] = process

    async def recover(self) -> None:
        """Receive all reports of the nursery, then continue to capture."""
        loop = asyncio.get_running_loop()
        for process in self:
            if not process.pid:
                process.ready = loop.create_future()
                self._doubtful.append(process)
        await self._spawner.recover()
        for process in self:
            if process.pid:
                self._listen(process)
                self._forward(process)
                self._settle(process)

    def close(self) -> None:
        """Stop reading pipes: the daemon stops. With an FD store, the next start continues."""
        for process in self:
            for fd in process.pipes.values():
                asyncio.get_running_loop().remove_reader(fd)
        self._journal.close()
        self._spawner.close()

    def add(self, process: Process) -> None:
        """Take over a process that is in the vault and was handed to the nursery."""
        self.last_id = process.id
        self._by_id[process.id] = process

    def remove(self, process: Process) -> None:
        """Discard the output of a process from now on, and forget it once it has ended.

        Raises Error or OSError; then nothing has changed.
        """
        self._vault.write(key(process), {"removed": True})
        if process.state is State.RUNNING:
            process.enter(State.REMOVED)
        if process.ring is not None:
            process.ring.acknowledge(0, process.ring.state.tail)
        for observer in list(process.observers):
            observer.lose(process)
        if process.exit is not None:
            self.forget(process)
        self._settle(process)

    def forget(self, process: Process) -> None:
        """Free the name of a process that has ended, and was removed or acknowledged as closed.

        Raises Error or OSError.
        """
        if process.pipes:  # a descendant still holds them: drain them until it closes them
            self._vault.write(key(process), {"forgotten": True})
            process.enter(State.FORGOTTEN)
            self.on_forgotten(process)
        else:
            self._vault.erase(key(process))
            process.enter(State.GONE)
            self._by_id.pop(process.id, None)
            self.on_forgotten(process)
            self.release(process)
        for observer in list(process.observers):
            observer.lose(process)

    def release(self, process: Process) -> None:
        """Close all descriptors of a process that is no longer in any table."""
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
        self._vault.withdraw(key(process), STREAMS[stream])
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)

    # The nursery's reports.

    def _reported(self, report: parcel.Record, fds: list[int]) -> None:
        """Handle a report, which may be a repetition, and acknowledge it once it is in the vault.

        If it cannot be recorded, it is not acknowledged, and the next daemon gets it.
        """
        id, what = report["id"], report["what"]
        process = self._by_id.get(id)
        try:
            if process is None:
                parcel.close_all(fds)
            elif what == "forked" and process.state is State.BEGUN:
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
            log.error("cannot record what happened to process %d: %s", id, error)
        except IllegalTransition as error:
            log.exception("internal error; please report this: the nursery said %r", report)
            if process is not None:
                self._give_up(process, error)
        else:
            self._spawner.acknowledge(id, what)

    def _forked(self, process: Process, pid: int, started: float, fds: list[int]) -> None:
        process.pid, process.started = pid, started
        process.pidfd = fds[0] if fds else -1
        process.enter(State.FORKED)
        self._listen(process)
        pidfds = {"pidfd": process.pidfd} if fds else {}
        self._vault.write(key(process), {"pid": pid, "started": started}, pidfds)

    def _spawned(self, process: Process) -> None:
        """Make it RUNNING: it was released. Repeated after a restart, this changes nothing."""
        if process.state in (State.BEGUN, State.FORKED):
            process.enter(State.RUNNING)
            if process.ready is not None and not process.ready.done():
                process.ready.set_result(str(process))
            process.ready = None
            log.info("started process %s with pid %d", process.name, process.pid, extra={"PAPAD_NAME": process.name})
            self._settle(process)

    def _failed(self, process: Process, error: Exception) -> None:
        for stream in list(process.pipes):
            self._close_pipe(process, stream)
        self.forget(process)
        log.info("process %s did not start: %s", process.name, error, extra={"PAPAD_NAME": process.name})
        self._give_up(process, error)

    def _give_up(self, process: Process, error: Exception) -> None:
        """Raise `error` to all who wait for its start, or will."""
        if process.ready is not None and not process.ready.done():
            process.ready.set_exception(error)
            process.ready.exception()  # mark it as retrieved: after a restart nobody waits for it

    def _exited(self, process: Process, code: int, when: float) -> None:
        self._spawned(process)  # it has run, whether or not that was reported
        process.exit = code, when
        if process.state is State.RUNNING:
            process.enter(State.ENDED)
        try:
            self._vault.write(key(process), {"exit": [code, when]})
        finally:
            log.info("process %s ended with code %d", process.name, code, extra={"PAPAD_NAME": process.name})
            self._settle(process)

    # Output.

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
        """Forward lines to the journal; those that it does not accept now wait until it does."""
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
        """After a change: make the transition that follows from it, and wake those who watch."""
        if process.state is State.ENDED and not process.pipes:
            process.enter(State.CLOSED)
        elif (process.state is State.REMOVED and process.exit is not None) or (
            process.state is State.FORGOTTEN and not process.pipes
        ):
            self.forget(process)
        for follower in list(
            self.followers
        ):  # before watchers: an acknowledgement already waiting would free what followers need
            follower.wake(process)
        for observer in list(process.observers):
            observer.wake()

    # Without a nursery: pidfds tell when processes exit.

    def _nursery_changed(self) -> None:
        """Handle that the nursery has sent all its reports, or is gone.

        From now on, wait for the pidfds of processes whose parent is not the living nursery.
        """
        loop = asyncio.get_running_loop()
        doubtful, self._doubtful = self._doubtful, []
        for process in doubtful:
            if process.pid:  # `spawned` may have been acknowledged before
                self._spawned(process)
            else:
                self._failed(process, NeverBegun("papad was stopped before it began"))
        for process in [each for each in self if each.exit is None and each.nursery != self._spawner.pid]:
            if not process.pid:
                self._failed(process, NeverBegun("the nursery died before it began"))
                continue
            self._spawned(process)
            if process.pidfd >= 0:
                loop.add_reader(process.pidfd, self._pidfd_readable, process, None)
            else:
                self._exited(process, UNKNOWN_CODE, time.time())

    def _pidfd_readable(self, process: Process, until: float | None) -> None:
        """Handle an exit. The code is available once init has reaped it, if the kernel keeps it."""
        loop = asyncio.get_running_loop()
        if process.pidfd < 0 or process.exit is not None:
            return
        loop.remove_reader(process.pidfd)
        until = until or loop.time() + _UNKNOWN_AFTER
        reaped = pidfd.reaped(process.pidfd)  # before exit_code: it may be reaped between the two
        code = pidfd.exit_code(process.pidfd)
        if code is None and not reaped and loop.time() < until:
            loop.call_later(0.01, self._pidfd_readable, process, until)
            return
        self._exited(process, UNKNOWN_CODE if code is None else code, time.time())


def key(process: Process) -> str:
    """Return the key of a process in the vault."""
    return f"{_KEY}{process.id}"
