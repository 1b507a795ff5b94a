"""The nursery: the parent of all managed processes, which is not restarted with the daemon.

A separate program: `python -m papad.daemon.nursery.main LISTENER`. It forks, execs, reaps and
holds, and does nothing else. The daemon finds it by the address of LISTENER, a SOCK_SEQPACKET
socket, so it needs nothing from the FD store for that. The newest daemon to connect wins. It
imports everything at its start, because an upgrade may replace the files, and no more than it
needs, because each fork copies the tables of its memory (fork(2)).

It keeps each report (a process was forked, has started, has failed to start, has exited) until the
daemon acknowledges it, and holds descriptors by name: those of the pipes of its processes, and
others that the daemon hands to it. To `hello` it answers with all of these.

daemon -> nursery  {"do": "hello", "number"}
                   {"do": "spawn", "id", "targets", "hold": [name, …], …} + descriptors: one for
                       each target, then one for each name
                   {"do": "descriptors"} + descriptors that do not fit into the spawn that follows
                   {"do": "ack", "id", "what"}   {"do": "cancel", "id"}: it shall not exec any more
                   {"do": "hold", "name"} + descriptor   {"do": "drop", "name"}
                   {"do": "barrier", "number"}
                   {"do": "renew", "executable", "folder"}: go on as the program there
nursery -> daemon  {"what": "hello", "pid", "protocol", "program", "state"}; again once renewed
                   {"what": "held", "names"} + descriptors
                   {"what": "forked", "id", "pid", "started"} + pidfd, gate: a byte releases it
                   {"what": "spawned", "id"}   {"what": "failed", "id", "error"}
                   {"what": "exited", "id", "code", "time"}
                   {"what": "synced", "number"}   {"what": "barrier", "number"}
                   {"what": "not renewed", "error"}
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections import deque

from papad.daemon.durable import parcel
from papad.daemon.nursery import renewal
from papad.daemon.nursery.child import become, become_drainer, ignored, is_read_end
from papad.daemon.nursery.keeper import Keeper

TYPE_CHECKING = False  # as in typing, which is large
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 2
"""The version of the messages above."""

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2), Linux 3.4
_AT_ONCE = 64  # messages of the daemon
_FIRST = 60  # seconds in which the first daemon must come
_LINGER = 10.0  # seconds after SIGTERM for the daemon to take the last exits
_LINGER_ALONE = 1.0  # the same if there is none; systemd starts none as long as it is stopping us


class Child:
    """A process of ours, from its fork until it is reaped."""

    def __init__(self, id: int, fd: int, told: bytes = b"", *, cancelled: bool = False) -> None:
        self.id = id
        self.fd = fd
        """Our end of a socketpair: a byte releases the child, which says so with one of its own, and
        then what failed, until its exec closes the other end. -1 once that was reported."""
        self.told = told
        """What it has told so far."""
        self.cancelled = cancelled
        """Whether it was killed before its exec, as the daemon wanted."""

    @property
    def error(self) -> str:
        """Why it could not exec; empty if it could."""
        return self.told[1:].decode(errors="replace") or ("It was cancelled" if self.cancelled else "")

    def listen(self) -> bool:
        """Take in what it tells; return whether it has come to its end."""
        try:
            while data := os.read(self.fd, 4096):
                self.told += data
        except BlockingIOError:
            return False
        except OSError:  # it was killed; its exit code will tell
            pass
        return True


class Nursery:
    """The event loop, which waits for the daemon, for children, and for signals by a wakeup pipe."""

    # No process may run without a record of it: if all of papad is killed, nobody would ever know of
    # it. So a child waits for a byte on a socketpair, its gate, before it does anything. We report
    # `forked`, with pid, pidfd and gate; the daemon writes the pid into the store, and only then the
    # byte, itself: if we did, much else that we were asked for might come first, and SIGKILL before
    # it. Then it acknowledges the report, and we send the byte, too, should it have lacked
    # descriptors. If SIGKILL hits the nursery
    #
    # - before it has sent the report: the gate closes with us, so the child reads end of file and
    #   exits without exec. It never began: the daemon starts it again, if somebody waits for it.
    # - afterwards: the report with the gate waits for the daemon, who releases the child. That
    #   execs, or fails to and exits with 127. The daemon knows its pid, so it need not hear
    #   `spawned` or `failed`: it treats the process as running, and takes its exit from the pidfd.
    #
    # If SIGKILL hits the daemon instead, at any of these points, the reports wait in _reports until
    # the next daemon has put them into the store and acknowledges them.
    #
    # The child's end of the socketpair is close-on-exec, so its end of file tells us that exec
    # succeeded. Nothing waits for that: an exec that takes long (a hung mount, a lease on the
    # program) delays that child alone.

    def __init__(self, listener: socket.socket, keeper: Keeper | None = None, *, with_daemon: bool = False) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._keeper = keeper
        self._with_daemon = with_daemon  # no other daemon would find us: end with the first
        self._channel: socket.socket | None = None  # to the newest daemon, as long as it lives
        self._children: dict[int, Child] = {}  # by pid
        self._waiting: dict[int, Child] = {}  # by id: to be released
        self._starting: dict[int, Child] = {}  # by the fd of its socket: released, may exec
        self.held: dict[str, int] = {}
        """What it holds by name, for the daemon; ours."""
        # Reports that are not acknowledged, by id and kind, each with a pidfd or -1.
        self._reports: dict[tuple[int, str], tuple[parcel.Record, int]] = {}
        # What the channel has yet to take, in order. These descriptors belong to `held`, _reports or a child.
        self._unsent: deque[tuple[parcel.Record, list[int]]] = deque()
        self._extra: list[int] = []  # descriptors received ahead of their spawn
        self._program = renewal.program()
        self._renew: tuple[str, str] | None = None  # executable and folder, once there is nothing unsent
        self._ending = False  # SIGTERM received: exit once there are no children
        self._deadline = 0.0  # when ending: for the daemon to take the last reports

    def run(self) -> None:
        """Serve as long as there is a daemon, a child, or something to hold."""
        wakeup, self._wakeup_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wakeup_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._terminate)
        for number in (signal.SIGINT, signal.SIGHUP):
            kept = self._keeper is not None and signal.getsignal(number) is not signal.SIG_IGN
            signal.signal(number, self._terminate if kept else signal.SIG_IGN)
        self._ignored = ignored()
        renewal.settled()
        self._reap()
        first = True
        while first or self._needed():
            if self._keeper is not None:
                self._keeper.turn()
            poll = select.poll()
            poll.register(wakeup, select.POLLIN)
            poll.register(self._listener, select.POLLIN)
            if self._channel is not None:
                poll.register(self._channel, select.POLLIN | (select.POLLOUT if self._unsent else 0))
            for fd in self._starting:
                poll.register(fd, 0)  # its end is enough (POLLHUP, POLLERR): what the child tells is read then
            for fd, _ in poll.poll(self._timeout(first=first)):
                if fd == wakeup:
                    os.read(wakeup, 4096)
                    self._reap()  # only at SIGCHLD: the kernel looks at every child to answer
                elif fd == self._listener.fileno():
                    self._meet()
                elif fd in self._starting:
                    self._started(self._starting[fd])
                else:
                    self._hear()
            self._flush()
            if self._renew is not None and not self._unsent:
                self._become_new(*self._renew)
            first = False
        if self._keeper is not None or self._with_daemon:
            self._drain()
        self._leave_reports()

    def _leave_reports(self) -> None:
        """Write what is not acknowledged to a file beside our socket, for the next daemon."""
        address = self._listener.getsockname()
        if not self._reports or not isinstance(address, str):  # without a path, that daemon has none either
            return
        path = f"{address}.{os.getpid()}.left"
        with contextlib.suppress(OSError):
            fd = os.open(f"{path}~", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                parcel.write_all(fd, json.dumps([report for report, _ in self._reports.values()]).encode("ascii"))
            finally:
                os.close(fd)
            os.rename(f"{path}~", path)

    def _drain(self) -> None:
        """Leave somebody behind who empties the pipes of processes that run on, so that none stops.

        Their exits are of no interest any more: their parent is gone.
        """
        pipes = {fd for fd in self.held.values() if is_read_end(fd)}
        # Before anybody is left behind: once we have ended, the addresses are free.
        parcel.close_all([fd for fd in self.held.values() if fd not in pipes])
        if not pipes or os.fork():
            return
        try:
            become_drainer(pipes)
        finally:
            os._exit(0)

    def _timeout(self, *, first: bool) -> float | None:
        """Return for how many milliseconds to wait, at most."""
        if self._keeper is not None and self._keeper.due is not None:
            return max(0.0, self._keeper.due - time.monotonic()) * 1000
        return 1000 if self._ending else _FIRST * 1000 if first else None

    def _needed(self) -> bool:
        if self._keeper is not None:
            return not self._keeper.over
        if self._with_daemon:
            return self._channel is not None
        if self._ending and not self._children:
            self._deadline = self._deadline or time.monotonic() + _LINGER
            early = 0 if self._channel is not None else max(0.0, _LINGER - _LINGER_ALONE)
            return bool(self._reports) and time.monotonic() < self._deadline - early
        return bool(self._channel or self._children or self.held)

    def _terminate(self, *_: object) -> None:
        """Exit after the last child: the scope is being stopped, and all in it got the signal.

        A daemon that we keep ends first, and children run on.
        """
        self._ending = True
        if self._keeper is not None:
            self._keeper.stop()

    def _meet(self) -> None:
        """Accept a daemon, after all that the one before it has said."""
        try:
            channel, _ = self._listener.accept()
        except OSError:
            return
        credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", credentials)
        if uid not in (0, os.geteuid()):
            channel.close()
            return
        while self._listen():
            pass
        self._leave()
        channel.setblocking(False)
        self._channel = channel

    def _leave(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._unsent.clear()
        parcel.close_all(self._extra)
        self._extra = []

    def _hear(self) -> None:
        """Do what the daemon has said, but not all at once: others want a turn, too."""
        for _ in range(_AT_ONCE):
            if not self._listen():
                return

    def _listen(self) -> bool:
        """Do what the daemon says next; return whether there was anything."""
        if self._channel is None:
            return False
        try:
            data, fds = parcel.receive(self._channel)
        except BlockingIOError:
            return False
        except ConnectionResetError:  # said once, if it left before it had heard all: what it has said follows
            return True
        except OSError:
            data, fds = b"", []
        if not data:
            self._leave()
            return False
        try:
            message = parcel.unpack(data, fds)
        except parcel.Lost as lost:
            parcel.close_all(self._extra)
            self._extra = []
            if lost.record.get("do") == "spawn":
                self._cannot_spawn(lost.record["id"], errno.EMFILE)
        except ValueError:
            parcel.close_all(fds)
        else:
            try:
                self._do(message, fds)
            except (KeyError, TypeError, ValueError, OverflowError) as error:  # nobody but papad can have sent it
                with contextlib.suppress(OSError):
                    os.write(2, f"papad: ERROR: the nursery leaves out a message: {error!r}\n".encode())
        return True

    def _do(self, message: parcel.Record, fds: list[int]) -> None:
        match message["do"]:
            case "hello":
                self._tell_all(message["number"])
            case "descriptors":
                self._extra += fds
            case "spawn":
                fds, self._extra = self._extra + fds, []
                self._spawn(message, fds)
            case "ack":
                self._acknowledged(message["id"], message["what"])
            case "cancel":
                self._cancel(message["id"])
            case "hold" if fds:
                self._drop(message["name"])
                self.held[message["name"]] = fds[0]
            case "drop":
                self._drop(message["name"])
            case "renew":
                self._renew = message["executable"], message["folder"]
            case "barrier":
                self._say({"what": "barrier", "number": message["number"]})

    def _cancel(self, id: int) -> None:
        """Let a child that has not executed its program end without; `failed` is reported then."""
        if child := self._waiting.get(id):
            self._close(child)
        for pid, child in self._children.items():
            if child.id == id and child.fd in self._starting:
                if child.listen():
                    self._started(child)
                else:
                    child.cancelled = True
                    os.kill(pid, signal.SIGKILL)

    def _tell_all(self, number: int) -> None:
        """Answer `hello`: all that is held, and all that is not acknowledged."""
        self._unsent.clear()
        self._introduce()
        names = list(self.held)
        for at in range(0, len(names), parcel.MAX_FDS):
            some = names[at : at + parcel.MAX_FDS]
            self._say({"what": "held", "names": some}, [self.held[name] for name in some])
        for report, pidfd in self._reports.values():
            self._say(report, self._with(report, pidfd))
        self._say({"what": "synced", "number": number})

    def _introduce(self) -> None:
        about = {"protocol": PROTOCOL, "program": self._program, "state": renewal.STATE}
        self._say({"what": "hello", "pid": os.getpid()} | about)

    def _become_new(self, executable: str, folder: str) -> None:
        """Go on as another program, if that can be executed."""
        self._renew = None
        try:
            renewal.execute(executable, folder, self.state, self._descriptors)
        except OSError as error:
            self._say({"what": "not renewed", "error": str(error)})

    @property
    def state(self) -> dict[str, Any]:
        """What `renewed` needs in another program."""
        children = [
            [pid, child.id, child.fd, child.told.decode("latin-1"), child.cancelled]
            for pid, child in self._children.items()
        ]
        return {
            "listener": self._listener.fileno(),
            "channel": self._channel.fileno() if self._channel is not None else -1,
            "children": children,
            "waiting": list(self._waiting),
            "held": self.held,
            "reports": list(self._reports.values()),
            "keeper": self._keeper and self._keeper.state,
            "ending": self._ending,
            "with daemon": self._with_daemon,
        }

    @classmethod
    def renewed(cls, state: dict[str, Any]) -> Nursery:
        """Return the nursery that an earlier program was."""
        nursery = cls(socket.socket(fileno=state["listener"]), state["keeper"] and Keeper.restored(state["keeper"]))
        nursery.held = state["held"]
        nursery._ending = state["ending"]
        nursery._with_daemon = state["with daemon"]
        if state["channel"] >= 0:
            nursery._channel = socket.socket(fileno=state["channel"])
        for pid, id, fd, told, cancelled in state["children"]:
            child = nursery._children[pid] = Child(id, fd, told.encode("latin-1"), cancelled=cancelled)
            if id in state["waiting"]:
                nursery._waiting[id] = child
            elif fd >= 0:
                nursery._starting[fd] = child
        for record, pidfd in state["reports"]:
            nursery._reports[record["id"], record["what"]] = record, pidfd
        for fd in nursery._descriptors:
            os.set_inheritable(fd, False)
        nursery._introduce()
        return nursery

    @property
    def _descriptors(self) -> list[int]:
        """All that is to outlive this program."""
        found = [self._listener.fileno(), *self.held.values()]
        found += [child.fd for child in self._children.values()] + [pidfd for _, pidfd in self._reports.values()]
        if self._channel is not None:
            found.append(self._channel.fileno())
        return [fd for fd in found if fd >= 0]

    def _acknowledged(self, id: int, what: str) -> None:
        _, pidfd = self._reports.pop((id, what), ({}, -1))
        if pidfd >= 0:
            self._forget(pidfd)
        if what == "forked" and id in self._waiting:
            child = self._waiting.pop(id)
            self._starting[child.fd] = child
            with contextlib.suppress(OSError):  # it was killed; its exit code will tell
                os.write(child.fd, b"!")

    def _drop(self, name: str) -> None:
        fd = self.held.pop(name, None)
        if fd is not None:
            self._forget(fd)

    def _forget(self, fd: int) -> None:
        """Close a descriptor, of which something that is not yet sent may speak."""
        for record, fds in self._unsent:
            if fd in fds:
                at = fds.index(fd)
                del fds[at]
                if record["what"] == "held":
                    del record["names"][at]
        os.close(fd)

    def _report(self, record: parcel.Record, pidfd: int = -1) -> None:
        """Report, until the daemon acknowledges it."""
        self._reports[record["id"], record["what"]] = record, pidfd
        self._say(record, self._with(record, pidfd))

    def _with(self, record: parcel.Record, pidfd: int) -> list[int]:
        """Return what goes with a report: the pidfd, if there is one, and the gate while it is closed."""
        child = self._waiting.get(record["id"])
        gate = [child.fd] if child is not None and child.fd >= 0 else []
        return [pidfd, *gate] if pidfd >= 0 else []

    def _say(self, record: parcel.Record, fds: list[int] | None = None) -> None:
        if self._channel is not None:
            self._unsent.append((record, fds or []))
            self._flush()

    def _flush(self) -> None:
        while self._unsent and self._channel is not None:
            record, fds = self._unsent[0]
            try:
                parcel.send(self._channel, record, fds)
            except BlockingIOError:
                return
            except OSError:  # the other end is closed; the next read will tell
                return
            self._unsent.popleft()

    def _spawn(self, spawn: dict[str, Any], fds: list[int]) -> None:
        """Fork, and report the child, which waits to be released."""
        id, targets, names = spawn["id"], spawn["targets"], spawn["hold"]
        given, kept = fds[: len(targets)], fds[len(targets) :]
        with contextlib.ExitStack() as always_cleanup:
            always_cleanup.callback(parcel.close_all, given)
            try:
                # The kernel drops descriptors beyond our limit on the way; see cmsg(3).
                if len(fds) != len(targets) + len(names):
                    parcel.close_all(kept)
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                for name, fd in zip(names, kept, strict=True):
                    self._drop(name)
                    self.held[name] = fd
                ours, theirs = socket.socketpair()
                with theirs:
                    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # one for the child ends it
                    try:
                        pid = os.fork()
                        if pid == 0:
                            become(spawn, given, theirs.fileno(), self._ignored)
                    finally:
                        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            except OSError as reason:
                self._cannot_spawn(id, reason.errno)
                return
        ours.setblocking(False)
        self._children[pid] = self._waiting[id] = Child(id, ours.detach())
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            pidfd = -1
        self._report({"what": "forked", "id": id, "pid": pid, "started": time.time()}, pidfd)

    def _cannot_spawn(self, id: int, reason: int | None) -> None:
        self._report({"what": "failed", "id": id, "error": f"Cannot start a process: {os.strerror(reason or 0)}"})

    def _close(self, child: Child) -> None:
        fd, child.fd = child.fd, -1
        if fd >= 0:
            self._forget(fd)

    def _started(self, child: Child) -> None:
        """Handle what comes from a child that was released: end of file, or why it cannot exec."""
        if not child.listen():
            return
        self._starting.pop(child.fd, None)
        self._close(child)
        if child.error:
            self._report({"what": "failed", "id": child.id, "error": child.error})
        else:
            self._report({"what": "spawned", "id": child.id})

    def _reap(self) -> None:
        while True:
            try:
                status = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return
            if status is None:
                return
            code = status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
            if self._keeper is not None and status.si_pid == self._keeper.pid:
                self._keeper.ended(code)
            child = self._children.pop(status.si_pid, None)
            if child is None:
                continue
            if self._waiting.pop(child.id, None) and not (child.fd >= 0 and child.listen() and child.told):
                self._close(child)
                self._report({"what": "failed", "id": child.id, "error": "It was killed before it could start"})
                continue
            if child.fd >= 0:
                self._started(child)
            if not child.error:
                self._report({"what": "exited", "id": child.id, "code": code, "time": time.time()})


def main() -> None:
    """Run the nursery for the daemons that connect to the socket whose fd is the first argument.

    With a second argument it keeps a daemon itself: it holds the control sockets with these fds,
    which have commas between, and starts daemons with the arguments that follow.

    With `--with-daemon` in their place it ends with the first daemon that connects. `--renewed FD`
    goes on as renewal.py says; `--self-test` tries that without a nursery.
    """
    if sys.argv[1] == "--self-test":
        nursery = Nursery(socket.socket(socket.AF_UNIX))
        Nursery.renewed(json.loads(json.dumps(nursery.state)))
        os._exit(0)  # both have the same descriptors
    nursery = Nursery.renewed(renewal.restored(int(sys.argv[2]))) if sys.argv[1] == "--renewed" else _new(sys.argv[1:])
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with open("/proc/self/comm", "w") as comm:
        comm.write("papad-nursery")
    json.dumps({})
    gc.freeze()
    nursery.run()


def _new(arguments: list[str]) -> Nursery:
    listener = socket.socket(fileno=int(arguments[0]))
    listener.set_inheritable(False)
    if not arguments[1:] or arguments[1] == "--with-daemon":
        return Nursery(listener, with_daemon=bool(arguments[1:]))
    nursery = Nursery(listener, Keeper(listener.getsockname()[1:].decode(), arguments[2:]))
    for number, fd in enumerate(map(int, arguments[1].split(","))):
        os.set_inheritable(fd, False)
        nursery.held[f"control-{number}"] = fd
    return nursery


if __name__ == "__main__":
    main()
