"""The life of a process from the spawn request on: reports, output, exit, until nothing is left.

A report is acknowledged once its contents are in the store. Until then the nursery keeps it, and
sends it to the next daemon. So if the store has a process without a pid, and the nursery has sent
all its reports and none is about this process, the process was never forked.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from papad.daemon.durable import parcel
from papad.daemon.durable.homes import Homes
from papad.daemon.durable.store import Store, rebuilt
from papad.daemon.nursery import pidfd, proc
from papad.daemon.nursery.spawner import Spawner
from papad.daemon.output.capture import Capture
from papad.daemon.output.journal import Journal
from papad.daemon.output.ring import STREAMS, Ring
from papad.daemon.tables.launch import Spec
from papad.daemon.tables.process import IllegalTransition, Process, State
from papad.errors import Error
from papad.protocol.exits import UNKNOWN_CODE, abnormal, exit_text

log = logging.getLogger("papad")

_KEY = "process:"
_LARGE_PIPE = 1 << 20  # bytes: pipe-max-size (pipe(7))
_REST = 0.005  # seconds
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
    # 1. The nursery, if it lives, returns the pipes that it holds and tells all reports that are not
    #    acknowledged (`Spawner.meet`). The order is kept, so before it answers it has also handled
    #    every spawn request that the earlier daemon sent. The reports wait.
    # 2. The store gives all processes, with their rings, and each takes its pipes (`__init__`).
    # 3. The capture that was interrupted is completed. It needs the rings, and must precede
    #    everything that reads, acknowledges or fills one: a staged ring is not consistent.
    # 4. The reports are taken in (`recover`). A process that still has no pid was never forked.
    # 5. Only then are the pipes read, so that output is captured for processes that are known to
    #    exist, in their final state. Of one that is reported as exited they are read right before
    #    that is taken in: what it wrote comes before its end.
    #
    # Recovery can itself be killed and repeated at any point, because a fact is first written to
    # the store, then acted on:
    #
    # - A process is in the store before the nursery is asked for it. A SIGKILL in between leaves
    #   one without a pid, which step 4 drops.
    # - A report is written to the store before it is acknowledged. A SIGKILL in between makes the
    #   nursery send it again; `_reported` sees that it is no news and only acknowledges it.
    # - `spawned` is not written: a process with a pid counts as RUNNING after a restart. If
    #   `failed` follows, it is dropped.
    # - An entry is erased before its pipes are dropped and its ring is freed. A SIGKILL in between
    #   leaves what belongs to no entry, which the next start drops and frees. In the other order,
    #   the store could refer to a ring that is empty.
    # - A process that replaces one that has ended has that one's id in its entry, from the
    #   beginning, and removes it before `spawned` is acknowledged. So as long as the old one is
    #   there and was not removed, `spawned` or `failed` will still be reported of the new one.

    def __init__(self, homes: Homes, store: Store, capture: Capture, spawner: Spawner) -> None:
        """Take back what an earlier daemon left. `recover` must follow, in the event loop."""
        self._homes, self._store, self._capture, self._spawner = homes, store, capture, spawner
        self._journal = Journal()
        self._by_id: dict[int, Process] = {}
        self.kept: set[str] = set()
        """Names of processes that this version, or this start, cannot use; see papad's log."""
        self._open_pipes = proc.Pipes()
        self._waiting: dict[int, Process] = {}
        """Processes with lines that journald has yet to accept, by id."""
        self.followers: set[Follower] = set()
        self.on_forgotten: Callable[[Process], None] = lambda process: None
        """Called when a process is no longer in any list."""
        spawner.on_report = self._reported
        spawner.on_change.append(self._nursery_changed)
        self.last_id = 0
        for number, entry in store.of(_KEY):
            try:
                id = int(number)
                self.last_id = max(self.last_id, id)
                self._by_id[id] = self._taken_back(id, entry)
            except (KeyError, TypeError, ValueError, OSError) as error:
                name = entry.get("name", number)
                self.kept.add(str(name))
                log.error("process %s cannot be taken back now, and is kept for the next start: %s", name, error)
        capture.finish(lambda id: self._by_id[id].ring if id in self._by_id else None)
        for process in self:
            if process.ring is not None and process.ring.staged is not None:
                process.ring.abandon()  # it was kept while the staging pipe was emptied

    def __iter__(self) -> Iterator[Process]:
        return iter(list(self._by_id.values()))

    def _taken_back(self, id: int, entry: dict[str, Any]) -> Process:
        spec = rebuilt(Spec, entry["spec"])
        process = Process(id, entry["name"], spec, started=entry.get("started", 0.0), nursery=entry.get("nursery", 0))
        process.pid, process.ticks = entry.get("pid", 0), entry.get("ticks", 0)
        process.exit = tuple(entry["exit"]) if "exit" in entry else None
        if withheld := self._homes.withheld.intersection(entry.get("fds", ())):
            raise OSError(f"no descriptors are left for {len(withheld)} of its pipes; raise LimitNOFILE=")
        if "range" in entry:
            process.ring = Ring(self._store.fd, entry["range"][0], journal=spec.journal)
        for held_as, inode in zip(entry.get("fds", ()), entry.get("inodes", ()), strict=True):
            if (fd := self._pipe(process, held_as, inode)) >= 0:
                process.pipes[STREAMS.index(held_as.partition("-")[0])] = fd
        replaced = self._by_id.get(entry.get("replaces", 0))
        if replaced is not None and replaced.state in (State.ENDED, State.CLOSED):
            process.replaces = replaced
        if entry.get("forgotten"):
            process.state = State.FORGOTTEN
        elif entry.get("removed"):
            process.state = State.REMOVED
        elif process.exit is not None:
            process.state = State.ENDED if process.pipes else State.CLOSED
        elif process.pid:
            waits = id in self._spawner.unreleased or process.replaces is not None
            process.state = State.FORKED if waits else State.RUNNING
        if process.pid and process.exit is None:
            process.pidfd = pidfd.opened(process.pid, process.ticks)
        return process

    def _pipe(self, process: Process, held_as: str, inode: int) -> int:
        """Return the read end of a pipe: from a home, else opened anew; -1 after its end of file."""
        if held_as in self._homes:
            return self._homes.take(held_as, nursery_only=True)
        if self._spawner.pid == process.nursery or not process.pid:
            return -1  # the nursery held it, until it was told that the end of file was reached
        fd = self._open_pipes.open(inode, process.pid)
        if fd >= 0:
            self._homes.hold_in_nursery(held_as, fd)
        return fd

    def recover(self) -> None:
        """Take in all reports of the nursery, then continue to capture."""
        loop = asyncio.get_running_loop()
        for process in self:
            if process.state in (State.BEGUN, State.FORKED):
                process.ready = loop.create_future()
        self._spawner.begin()
        for process in self:
            if process.state is State.BEGUN:
                self._failed(process, NeverBegun("papad was stopped before it began"))
            elif process.pid:
                self._listen(process)
                self._forward(process)
                self._settle(process)

    def close(self) -> None:
        """Stop reading pipes: the daemon stops, and the next one continues."""
        for process in self:
            for fd in process.pipes.values():
                asyncio.get_running_loop().remove_reader(fd)
        self._journal.close()
        self._spawner.close()

    def add(self, process: Process) -> None:
        """Take over a process that is in the store and was handed to the nursery."""
        self.last_id = process.id
        self._by_id[process.id] = process

    def remove(self, process: Process) -> None:
        """Discard the output of a process from now on, and forget it once it has ended.

        Raises Error or OSError; then nothing has changed.
        """
        self._store.write(key(process), {"removed": True})
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
            self._store.write(key(process), {"forgotten": True})
            process.enter(State.FORGOTTEN)
            self.on_forgotten(process)
        else:
            self._store.erase(key(process))
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
        self._close_pidfd(process)
        ring, process.ring = process.ring, None
        if ring is not None:
            self._store.free(*ring.range)

    def _close_pidfd(self, process: Process) -> None:
        if process.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(process.pidfd)
            os.close(process.pidfd)
            process.pidfd = -1

    def _close_pipe(self, process: Process, stream: int) -> None:
        fd = process.pipes.pop(stream)
        self._homes.drop(pipe_name(process, stream))
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)

    # The nursery's reports.

    def _reported(self, report: parcel.Record, fds: list[int]) -> None:
        """Handle a report, which may be a repetition, and acknowledge it once it is in the store.

        If it cannot be recorded, it is not acknowledged, and the next daemon gets it; but a process
        that cannot be recorded as forked does not begin.
        """
        id, what = report["id"], report["what"]
        if id not in self._by_id and f"{_KEY}{id}" in self._store.entries:  # one that is kept
            parcel.close_all(fds)
            return
        gate = fds[1:]
        try:
            if self._recorded(report, fds[:1]):
                for fd in gate:
                    with contextlib.suppress(OSError):  # it was killed; its exit code will tell
                        os.write(fd, b"!")
                self._spawner.acknowledge(id, what)
        finally:
            parcel.close_all(gate)

    def _recorded(self, report: parcel.Record, fds: list[int]) -> bool:
        """Put a report into the store; return whether that was possible."""
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
            if process is not None and what in ("forked", "spawned"):
                self._give_up(process, error)
                self._spawner.cancel(id)
        except IllegalTransition as error:
            log.exception("internal error; please report this: the nursery said %r", report)
            if process is not None:
                self._give_up(process, error)
        else:
            return True
        return False

    def _forked(self, process: Process, pid: int, started: float, fds: list[int]) -> None:
        process.pidfd = fds[0] if fds else -1
        ticks = proc.start_ticks(pid)
        self._store.write(key(process), {"pid": pid, "started": started, "ticks": ticks})
        process.pid, process.started, process.ticks = pid, started, ticks
        process.enter(State.FORKED)
        self._listen(process)

    def _spawned(self, process: Process) -> None:
        """Make it RUNNING: it was released. Repeated after a restart, this changes nothing.

        What it replaces is removed. Raises Error or OSError; then nothing has changed.
        """
        if process.state in (State.BEGUN, State.FORKED):
            if process.state is State.FORKED and process.replaces is not None and process.replaces.listed:
                self.remove(process.replaces)
            process.enter(State.RUNNING)
            process.replaces = None
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
        for stream in () if process.removed else list(process.pipes):  # what it wrote comes before its end
            with contextlib.suppress(OSError):
                self._readable(process, stream)
        process.exit = code, when
        if process.state is State.RUNNING:
            process.enter(State.ENDED)
        try:
            self._store.write(key(process), {"exit": [code, when]})
        finally:
            level = logging.ERROR if abnormal(code) else logging.INFO
            log.log(level, "process %s %s", process.name, exit_text(code), extra={"PAPAD_NAME": process.name})
            self._close_pidfd(process)
            self._settle(process)

    # Output.

    def _listen(self, process: Process) -> None:
        for stream, fd in process.pipes.items():
            asyncio.get_running_loop().add_reader(fd, self._readable, process, stream)

    def _readable(self, process: Process, stream: int) -> None:
        fd = process.pipes[stream]
        ring = None if process.removed else process.ring
        try:
            size = self._capture.pump(fd, ring, process.id, stream) if ring is not None else self._capture.drain(fd)
        except BlockingIOError:
            return
        if not size:
            self._close_pipe(process, stream)
        elif ring is None:
            self._rest(process, stream)
            return
        if process.spec.journal:
            self._forward(process, stream)
        if size:
            self._wake(process)
        else:
            self._settle(process)

    def _rest(self, process: Process, stream: int) -> None:
        """Let a pipe whose contents are discarded fill, instead of emptying it at every write."""
        loop, fd = asyncio.get_running_loop(), process.pipes[stream]
        with contextlib.suppress(OSError):  # beyond the user's limit for pipes (pipe(7))
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _LARGE_PIPE)
        loop.remove_reader(fd)

        def read_on() -> None:
            if process.pipes.get(stream) == fd:
                loop.add_reader(fd, self._readable, process, stream)

        loop.call_later(_REST, read_on)

    def _forward(self, process: Process, stream: int | None = None) -> None:
        """Forward lines to the journal; those that it does not accept now wait until it does.

        With `stream`, only that one has anything new.
        """
        streams = range(len(STREAMS)) if stream is None or process.id in self._waiting else (stream,)
        if not process.spec.journal or process.removed or self._journal.forward(process, streams):
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
        self._wake(process)

    def _wake(self, process: Process) -> None:
        """Wake those who follow or watch."""
        # Followers before watchers: an acknowledgement already waiting would free what followers need.
        for follower in list(self.followers):
            follower.wake(process)
        for observer in list(process.observers):
            observer.wake()

    # Without a nursery: pidfds tell when processes exit.

    def _nursery_changed(self) -> None:
        """Handle that the nursery has sent all its reports, or is new, or is gone.

        From now on, wait for the pidfds of processes whose parent is not the living nursery.
        """
        loop = asyncio.get_running_loop()
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
    """Return the key of a process in the store."""
    return f"{_KEY}{process.id}"


def pipe_name(process: Process, stream: int) -> str:
    """Return the name of the pipe of a stream in the homes."""
    return f"{STREAMS[stream]}-{process.id}"
