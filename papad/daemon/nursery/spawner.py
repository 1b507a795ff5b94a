"""The daemon's side of the nursery: starts it and exchanges requests and reports with it.

The nursery is found by a path in the service's runtime directory. Under systemd, it gets its own
scope, papad-processes.scope, so a restart of papad.service finds no left-over processes in its control
group. `systemd-run --scope` execs in place and needs no D-Bus library.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
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
from pathlib import Path
from typing import Any

from papad.daemon.durable import parcel
from papad.daemon.durable.systemd import Service
from papad.daemon.nursery import renewal
from papad.daemon.nursery.keeper import KEEPER, NURSERY, python
from papad.errors import Error
from papad.version import FOLDER

log = logging.getLogger("papad")

_SCOPE = "papad-processes"
_SCOPE_RETRIES = (0.0, 0.3, 1.0)  # seconds; systemd answers nobody while it re-executes itself
_START_TIMEOUT = 20.0  # seconds in which the nursery must answer `hello`
_BARRIER_TIMEOUT = 1.0  # seconds


Report = Callable[[parcel.Record, list[int]], None]


def raise_nofile_limit() -> int:
    """Raise our soft RLIMIT_NOFILE to the hard limit; return the old one, which children get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


class Spawner:
    """The nursery, if there is one yet, as the daemon knows it; the second of the homes."""

    def __init__(self, service: Service, nofile: int) -> None:
        self._service = service
        self._nofile = nofile  # the soft RLIMIT_NOFILE of processes that do not set one
        self._channel: socket.socket | None = None
        # Messages that wait while the channel is full, with descriptors of our own.
        self._queue: deque[tuple[parcel.Record, list[int]]] = deque()
        self._popen: subprocess.Popen[bytes] | None = None  # the nursery, if we started it
        self._starting: asyncio.Future[None] | None = None  # shared by all who wait in `ensure`
        self._synced: asyncio.Future[None] | None = None  # done when the nursery has told all, or dies
        self._barriers: dict[int, asyncio.Future[None]] = {}
        self._early: list[tuple[parcel.Record, list[int]]] | None = []  # reports before `begin`
        self._unacknowledged: set[tuple[int, str]] = set()  # of the reports that were left in files
        self._warned = False  # the warning about a missing scope was logged
        self._program, self._state = "", 0  # of the nursery: see renewal.py
        self._told = 0  # the pid in the answer to `hello`, until the answer is complete
        self._number = time.time_ns()  # tells the answer to our `hello` from that to another's
        self.keeper = os.environ.pop(KEEPER, "")
        """The address of the nursery that keeps this daemon running, without a service manager."""
        self.held: dict[str, int] = {}
        """What the nursery held when it was met; the caller takes it over."""
        self.withheld: set[str] = set()
        """What it holds, but could not be received, for lack of descriptors."""
        self.pid = 0
        """The pid of the living nursery, or 0."""
        self.on_report: Report = lambda record, fds: parcel.close_all(fds)
        """Called with each report; takes over its descriptors."""
        self.on_change: list[Callable[[], None]] = []
        """Called when there is a new nursery, or none any more."""
        self.on_new: Callable[[], None] = lambda: None
        """Called first with a new nursery, which holds nothing yet."""

    async def meet(self) -> None:
        """Meet the nursery that outlived an earlier daemon, if any, and receive what it has.

        That is `held`, and all reports, which wait until `begin`.
        """
        path = self._address
        if path is None:
            return
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            channel.settimeout(_BARRIER_TIMEOUT)
            channel.connect(path)
        except OSError:
            channel.close()
            return
        await self._greet(channel)
        if not self.pid:
            log.warning("the nursery does not answer within %g s; continuing without it", _START_TIMEOUT)

    def begin(self) -> None:
        """Pass on the reports so far, and from now on each as it comes; then call `on_change`."""
        early, self._early = self._early or [], None
        left = self._left_behind()
        self._unacknowledged = {(record["id"], record["what"]) for records in left.values() for record in records}
        for record, fds in [*early, *((record, []) for records in left.values() for record in records)]:
            self.on_report(record, fds)
        for path, records in left.items():
            if self._unacknowledged.isdisjoint((record["id"], record["what"]) for record in records):
                path.unlink(missing_ok=True)
        self._changed()

    def _left_behind(self) -> dict[Path, list[parcel.Record]]:
        """Return the reports of nurseries that had to end before a daemon came, by their files."""
        found: dict[Path, list[parcel.Record]] = {}
        for path in sorted(self._service.runtime.glob("nursery.*.left")) if self._service.runtime else ():
            try:
                found[path] = json.loads(path.read_bytes())
            except (OSError, ValueError) as error:
                log.error("cannot read what a nursery has left in %s: %s", path, error)
        return found

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

        `fds` stay the caller's, who may close them: they are duplicated before this returns. Raises
        OSError if there are too few descriptors or too little memory.
        """
        rest = list(fds)
        while len(rest) > parcel.MAX_FDS:
            self._send({"do": "descriptors"}, rest[: parcel.MAX_FDS])
            rest = rest[parcel.MAX_FDS :]
        self._send({"do": "spawn", "nofile": self._nofile, **request}, rest)

    def acknowledge(self, id: int, what: str) -> None:
        """Let the nursery forget a report, once its contents are in the store."""
        self._unacknowledged.discard((id, what))
        self._send({"do": "ack", "id": id, "what": what})

    def cancel(self, id: int) -> None:
        """Let a process that has not executed its program yet end without; `failed` will be reported."""
        self._send({"do": "cancel", "id": id})

    def hold(self, name: str, fd: int) -> None:
        """Let the nursery hold a duplicate of `fd`, if there is one."""
        self._send({"do": "hold", "name": name}, [fd])

    def drop(self, name: str) -> None:
        """Let the nursery hold it no longer."""
        self._send({"do": "drop", "name": name})

    closing = False  # it closes at once what it drops

    async def barrier(self) -> None:
        """Wait, at most a second, until the nursery has done what it was told."""
        if self._channel is None:
            return
        number = time.time_ns()
        self._barriers[number] = passed = asyncio.get_running_loop().create_future()
        self._send({"do": "barrier", "number": number})
        await _within(_BARRIER_TIMEOUT, passed)
        self._barriers.pop(number, None)

    async def renew(self) -> None:
        """Renew the nursery if it runs another program than is installed now, and that works."""
        if not self.pid or self._program == renewal.program() or self._state > renewal.STATE:
            return
        try:
            reason = await _tried(python(NURSERY, "--self-test"))
        except OSError as error:
            reason = str(error)
        if reason:
            log.error("the nursery goes on as it was: the new one does not start: %s", reason)
        else:
            self._send({"do": "renew", "executable": sys.executable, "folder": FOLDER})

    def close(self) -> None:
        """Leave the nursery; it stays as long as it has a child, or something to hold."""
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._channel.close()
            self._channel = None

    @property
    def unreleased(self) -> set[int]:
        """Before `begin`: the ids of processes that have been forked, but not yet let go."""
        return {record["id"] for record, _ in self._early or () if record["what"] == "forked"}

    @property
    def absent(self) -> bool:
        """Whether there is no nursery, nor one that begins."""
        return self._channel is None and self._starting is None

    @property
    def _address(self) -> str | None:
        """Where the nursery is found by a daemon that did not start it."""
        if self.keeper:
            return "\0" + self.keeper
        return str(self._service.runtime / "nursery") if self._service.runtime else None

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
        # Under systemd it gets its address once it answers. Else, if we leave before that, the next papad would
        # find it, and wait for its answer, while systemd makes its scope only after that papad has started.
        address = self._address
        is_path = address is not None and address[0] == "/"
        with nursery_listener(f"{address}.new" if is_path else address) as listener:
            # By hand, where the nursery that kept us was killed, nobody starts another daemon.
            how = ["--with-daemon"] if self.keeper else []
            command = [*prefix, *python(NURSERY, str(listener.fileno()), *how)]
            environ = {key: os.environ[key] for key in ("PATH", "LANG", "XDG_RUNTIME_DIR") if key in os.environ}
            try:
                self._popen = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    env=environ | {"PYTHONPATH": FOLDER},
                    pass_fds=[listener.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                log.warning("%s: %s", command[0], error.strerror)
                return False
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            channel.connect(listener.getsockname())
        await self._greet(channel)
        if self.pid:
            if address is not None and is_path:
                os.rename(f"{address}.new", address)
            self.on_new()
            self._changed()
        return bool(self.pid)

    async def _greet(self, channel: socket.socket) -> None:
        """Say hello, and wait for the whole answer. Without one, `pid` stays 0."""
        channel.setblocking(False)
        self._channel = channel
        self._synced = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(channel, self._readable)
        self._send({"do": "hello", "number": self._number})
        if not await _within(_START_TIMEOUT, self._synced):
            self._detach()

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
        for passed in self._barriers.values():
            _resolve(passed)
        if self._popen is not None:
            self._popen.poll()

    def _send(self, record: parcel.Record, fds: Sequence[int] = ()) -> None:
        """Send, or queue with duplicates of `fds` while the channel is full; nothing without one."""
        if self._channel is None:
            return
        if not self._queue:
            try:
                parcel.send(self._channel, record, fds)
                return
            except BlockingIOError:
                asyncio.get_running_loop().add_writer(self._channel, self._writable)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # a long record needs a memfd
                    raise
                return  # the other end is closed; _readable will notice
        self._queue.append((record, [os.dup(fd) for fd in fds]))

    def _writable(self) -> None:
        assert self._channel is not None
        while self._queue:
            record, fds = self._queue[0]
            try:
                parcel.send(self._channel, record, fds)
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
            except ConnectionResetError:  # said once, if it died before it had heard all: its reports follow
                continue
            except OSError:
                data, fds = b"", []
            if not data:
                self._lost()
                return
            try:
                record = parcel.unpack(data, fds)
            except parcel.Lost as lost:  # the only long one is of a command that cannot be executed
                record = lost.record | {"error": "Cannot start a process, and no descriptor is left to learn why"}
            self._heard(record, fds)

    def _heard(self, record: parcel.Record, fds: list[int]) -> None:
        match record["what"]:
            case "hello":
                self._told = record["pid"]
                self._program, self._state = record["program"], record["state"]
                if self.pid:
                    log.info("the nursery was renewed")
            case "not renewed":
                log.warning("the nursery goes on as it was, for it cannot be renewed: %s", record["error"])
            case "held" if len(fds) < len(record["names"]):
                parcel.close_all(fds)  # to have room for other things
                self.withheld.update(record["names"])
            case "held":
                self.held.update(zip(record["names"], fds, strict=True))
            case "synced" if record["number"] == self._number:
                self.pid = self._told
                _resolve(self._synced)
            case "synced":
                pass  # the answer to an earlier daemon, which was killed before it came
            case "barrier":
                _resolve(self._barriers.get(record["number"]))
            case _ if self._early is not None:
                self._early.append((record, fds))
            case _:
                self.on_report(record, fds)

    def _lost(self) -> None:
        known = self.pid
        self._detach()
        _resolve(self._synced)
        if known:
            log.warning("the nursery is gone; its processes keep running, and get a new one")
            if self._early is None:
                self._changed()

    def _changed(self) -> None:
        for function in self.on_change:
            function()


def nursery_listener(path: str | None) -> socket.socket:
    """Return the socket at which a new nursery is found, by us alone if there is no path."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        if path is not None and path[0] == "/":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        listener.bind(path or "")
        if path is not None and path[0] == "/":
            os.chmod(path, 0o600)
        listener.listen(8)
    except BaseException:
        listener.close()
        raise
    return listener


async def _tried(command: list[str]) -> str:
    """Run a program to its end; return what it said last if it failed, else an empty string."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    output = os.memfd_create("papad-output", os.MFD_CLOEXEC)
    try:
        environ = os.environ | {"PYTHONPATH": FOLDER}
        popen = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output)  # noqa: ASYNC220
        pidfd = os.pidfd_open(popen.pid)
        loop.add_reader(pidfd, ended.set)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _START_TIMEOUT)
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            popen.kill()
        said = parcel.read_all(output).decode(errors="replace").splitlines()
        return (said or ["it does not answer"])[-1] if popen.wait() else ""
    finally:
        os.close(output)


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
