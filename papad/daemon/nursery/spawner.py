"""The daemon's side of the nursery: starts it and exchanges requests and reports with it.

The FD store holds the channel. Under systemd, the nursery gets its own scope,
papad-processes.scope, so a restart of papad.service finds no left-over processes in its control
group. `systemd-run --scope` execs in place and needs no D-Bus library.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from papad.daemon.durable import parcel
from papad.daemon.durable.systemd import Service
from papad.errors import Error
from papad.version import FOLDER

log = logging.getLogger("papad")

_ENTRY = "nursery"
_SCOPE = "papad-processes"
_SCOPE_RETRIES = (0.0, 0.3, 1.0)  # seconds; systemd answers nobody while it re-executes itself
_START_TIMEOUT = 20.0  # seconds in which a new nursery must send `hello`
_SYNC_TIMEOUT = 2.0  # seconds that a start waits for a nursery that survived


Report = Callable[[parcel.Record, list[int]], None]


def raise_nofile_limit() -> int:
    """Raise our soft RLIMIT_NOFILE to the hard limit; return the old one, which children get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


class Spawner:
    """The nursery that starts new processes, if there is one yet."""

    def __init__(self, service: Service, nofile: int) -> None:
        self._service = service
        self._nofile = nofile  # the soft RLIMIT_NOFILE of processes that do not set one
        self._channel: socket.socket | None = None
        # Requests that wait while the channel is full, with descriptors of our own.
        self._queue: deque[tuple[parcel.Record, list[int]]] = deque()
        self._popen: subprocess.Popen[bytes] | None = None  # the nursery, if we started it
        self._starting: asyncio.Future[None] | None = None  # shared by all who wait in `ensure`
        self._hello: asyncio.Future[None] | None = None  # done when a new nursery answers or dies
        self._synced: asyncio.Future[None] | None = None  # the same for one that survived
        self._warned = False  # the warning about a missing scope was logged
        self._number = time.time_ns()
        """Tells the answer to our `sync` from that to another daemon's. A nursery of 0.2.0 does not
        return it."""
        self.pid = 0
        """The pid of the living nursery, or 0."""
        self.on_report: Report = lambda record, fds: parcel.close_all(fds)
        """Called with each report; takes over its descriptors."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when the nursery has sent all that is not acknowledged, or is gone."""

    async def recover(self) -> None:
        """Attach to a nursery that outlived an earlier daemon, and receive all its reports."""
        try:
            self._attach(self._service.take_socket(_ENTRY))
        except (KeyError, OSError):
            self.on_change()
            return
        self._synced = asyncio.get_running_loop().create_future()
        self._send({"do": "sync", "number": self._number})
        if not await _within(_SYNC_TIMEOUT, self._synced):
            log.warning("no answer from the nursery within %g s; continuing without its reports", _SYNC_TIMEOUT)

    async def ensure(self) -> None:
        """Wait for a nursery, and start one if there is none. Raises Error on failure."""
        while not self.pid:
            if self._channel is not None and self._synced is not None and not self._synced.done():
                if not await _within(_START_TIMEOUT, self._synced):
                    raise Error("the nursery, the parent of processes, does not answer; see papad's log")
                continue
            if self._starting is None:
                self._starting = asyncio.ensure_future(self._start())
                self._starting.add_done_callback(self._started)
            await asyncio.shield(self._starting)

    def spawn(self, request: dict[str, Any], fds: Sequence[int]) -> None:
        """Ask the nursery for a process, after `ensure`. A report, or the nursery's end, answers.

        `fds` stay the caller's, who may close them: they are duplicated before this returns.
        """
        rest = list(fds)
        while len(rest) > parcel.MAX_FDS:
            self._send({"do": "descriptors"}, rest[: parcel.MAX_FDS])
            rest = rest[parcel.MAX_FDS :]
        self._send({"do": "spawn", "nofile": self._nofile, **request}, rest)

    def acknowledge(self, id: int, what: str) -> None:
        """Let the nursery forget a report, once its contents are in the vault."""
        if self._channel is not None:
            self._send({"do": "ack", "id": id, "what": what})

    def close(self) -> None:
        """Close the channel here; under systemd the FD store keeps it open."""
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._channel.close()
            self._channel = None

    def _started(self, task: asyncio.Future[None]) -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # mark it as retrieved; those who wait in `ensure` get it

    async def _start(self) -> None:
        if self._service.managed and await self._start_in_scope():
            return
        if self._service.managed and not self._warned:
            self._warned = True
            log.warning("systemd-run gives no scope: processes run in papad's own control group")
        if not await self._launch([]):
            raise Error("cannot start the nursery, the parent of processes; see papad's log")

    async def _start_in_scope(self) -> bool:
        name = _SCOPE
        for delay in (0.0, *_SCOPE_RETRIES):
            await asyncio.sleep(delay)
            if await self._launch(_scope_command(name, user=self._service.user)):
                return True
            if shutil.which("systemd-run") is None:
                return False
            # The first scope may still hold the children of a lost nursery.
            name = f"{_SCOPE}-{os.getpid()}"
        return False

    async def _launch(self, prefix: list[str]) -> bool:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [*prefix, sys.executable, "-P", "-m", "papad.daemon.nursery.main", str(theirs.fileno())]
        environ = {key: os.environ[key] for key in ("PATH", "LANG", "XDG_RUNTIME_DIR") if key in os.environ}
        try:
            with theirs:
                self._popen = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    env=environ | {"PYTHONPATH": FOLDER},
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except OSError as error:
            log.warning("%s: %s", command[0], error.strerror)
            ours.close()
            return False
        self._hello = asyncio.get_running_loop().create_future()
        self._attach(ours)
        await _within(_START_TIMEOUT, self._hello)
        if not self.pid:
            self._detach()
            return False
        self._service.store(_ENTRY, ours.fileno())
        return True

    def _attach(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        asyncio.get_running_loop().add_reader(channel, self._readable)

    def _detach(self) -> None:
        channel, self._channel, self.pid = self._channel, None, 0
        if channel is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(channel)
        loop.remove_writer(channel)
        channel.close()
        for _, fds in self._queue:
            parcel.close_all(fds)
        self._queue.clear()
        self._service.unstore(_ENTRY)
        if self._popen is not None:
            self._popen.poll()

    def _send(self, record: parcel.Record, fds: Sequence[int] = ()) -> None:
        """Send, or queue with duplicates of `fds` while the channel is full."""
        assert self._channel is not None
        if not self._queue:
            try:
                self._transmit(record, fds)
                return
            except BlockingIOError:
                asyncio.get_running_loop().add_writer(self._channel, self._writable)
            except OSError:  # the other end is closed; _readable will notice
                return
        self._queue.append((record, [os.dup(fd) for fd in fds]))

    def _transmit(self, record: parcel.Record, fds: Sequence[int]) -> None:
        assert self._channel is not None
        spilled = parcel.send(self._channel, record, fds)
        if spilled is not None:
            os.close(spilled)

    def _writable(self) -> None:
        assert self._channel is not None
        while self._queue:
            record, fds = self._queue[0]
            try:
                self._transmit(record, fds)
            except BlockingIOError:
                return
            except OSError:
                break
            self._queue.popleft()
            parcel.close_all(fds)
        asyncio.get_running_loop().remove_writer(self._channel)

    def _readable(self) -> None:
        for _ in range(256):  # then let other callbacks run
            if self._channel is None:
                return
            try:
                data, fds = parcel.receive(self._channel)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self._lost()
                return
            self._heard(parcel.unpack(data, fds), fds)

    def _heard(self, record: parcel.Record, fds: list[int]) -> None:
        match record["what"]:
            case "hello":
                self.pid = record["pid"]
                _resolve(self._hello)
            case "synced" if record.get("number", self._number) != self._number:
                pass  # the answer to an earlier daemon, which was killed before it came
            case "synced":
                self.pid = record["pid"]
                _resolve(self._synced)
                self.on_change()
            case _:
                self.on_report(record, fds)

    def _lost(self) -> None:
        if self._hello is None or self._hello.done():
            log.warning("the nursery is gone; its processes keep running; the next process gets a new one")
        self._detach()
        _resolve(self._hello)
        _resolve(self._synced)
        self.on_change()


async def _within(seconds: float, future: asyncio.Future[None]) -> bool:
    """Wait at most `seconds` for the future; return whether it is done."""
    await asyncio.wait([future], timeout=seconds)
    return future.done()


def _resolve(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


def _scope_command(name: str, *, user: bool) -> list[str]:
    # After= has two effects. At a shutdown, papad captures the output of processes to the end. And
    # systemd does not unload a unit, with its FD store, while another is ordered after it, even if
    # it is stopped and nothing enables papad.socket.
    return [
        "systemd-run",
        *(["--user"] if user else []),
        "--scope",
        "--quiet",
        "--collect",
        f"--unit={name}",
        "--description=Processes started by papad",
        "--property=After=papad.service",
        "--property=Delegate=yes",
        "--property=TasksMax=infinity",
        "--",
    ]
