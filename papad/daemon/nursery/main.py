"""The nursery: the parent of all managed processes, which is not restarted with the daemon.

A separate program: `python -m papad.daemon.nursery.main FD`. It forks, execs and reaps, and does
nothing else. It talks to the daemon over a SOCK_SEQPACKET channel, whose other end is in the FD
store, so it outlives the daemon. It keeps each report (a process was forked, has started, has
failed to start, has exited) until the daemon acknowledges it; `sync` makes it send all of these
again. It imports everything at its start, because an upgrade may replace the files.

daemon -> nursery  {"do": "spawn", "id", …} + descriptors
                   {"do": "descriptors"} + descriptors that do not fit into the spawn that follows
                   {"do": "ack", "id", "what"}   {"do": "sync", "number"}
nursery -> daemon  {"what": "hello", "pid"}   {"what": "synced", "pid", "number"}
                   {"what": "forked", "id", "pid", "started"} + pidfd
                   {"what": "spawned", "id"}   {"what": "failed", "id", "error"}
                   {"what": "exited", "id", "code", "time"}
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections import deque
from typing import Any, NoReturn

from papad.daemon.durable import parcel

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2), Linux 3.4
_DEFAULT_PATH = os.defpath


class Nursery:
    """The event loop, which waits for the channel and, through a wakeup pipe, for SIGCHLD."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel: socket.socket | None = channel  # None once the other end is closed
        self._ids: dict[int, int] = {}  # pid -> id, of living children
        # Reports that are not acknowledged, by id and kind, each with a pidfd or -1.
        self._reports: dict[tuple[int, str], tuple[parcel.Record, int]] = {}
        # What the channel has yet to take, in order. A pidfd here belongs to _reports.
        self._unsent: deque[tuple[parcel.Record, int]] = deque()
        self._extra: list[int] = []  # descriptors received ahead of their spawn
        self._ending = False  # SIGTERM received: exit once there are no children

    def run(self) -> None:
        """Serve until the channel is closed for good and every child has exited."""
        wakeup, self._wakeup_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wakeup_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._terminate)
        for ignored in (signal.SIGINT, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)
        self._say({"what": "hello", "pid": os.getpid()})
        while self._channel is not None or self._ids:
            if self._ending and not self._ids:
                break
            poll = select.poll()
            poll.register(wakeup, select.POLLIN)
            if self._channel is not None:
                poll.register(self._channel, select.POLLIN | (select.POLLOUT if self._unsent else 0))
            for fd, _ in poll.poll():
                if fd == wakeup:
                    os.read(wakeup, 4096)
                    self._reap()  # only at SIGCHLD: the kernel looks at every child to answer
                else:
                    self._listen()
            self._flush()

    def _terminate(self, *_: object) -> None:
        """Exit after the last child: the scope is being stopped, and all in it got the signal."""
        self._ending = True

    def _listen(self) -> None:
        assert self._channel is not None
        try:
            data, fds = parcel.receive(self._channel)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._channel.close()
            self._channel = None
            self._unsent.clear()
            return
        message = parcel.unpack(data, fds)
        match message["do"]:
            case "descriptors":
                self._extra += fds
            case "spawn":
                fds, self._extra = self._extra + fds, []
                self._spawn(message, fds)
            case "ack":
                _, pidfd = self._reports.pop((message["id"], message["what"]), ({}, -1))
                if pidfd >= 0:
                    # After a sync, a second copy of the report may still be waiting.
                    self._unsent = deque(each for each in self._unsent if each[1] != pidfd)
                    os.close(pidfd)
            case "sync":
                parcel.close_all(self._extra)
                self._extra = []
                self._unsent = deque(self._reports.values())
                self._say({"what": "synced", "pid": os.getpid(), "number": message.get("number")})

    def _say(self, record: parcel.Record, pidfd: int = -1) -> None:
        if "id" in record:
            self._reports[record["id"], record["what"]] = record, pidfd
        if self._channel is not None:
            self._unsent.append((record, pidfd))
            self._flush()

    def _flush(self) -> None:
        while self._unsent and self._channel is not None:
            record, pidfd = self._unsent[0]
            try:
                parcel.send(self._channel, record, [pidfd] if pidfd >= 0 else [])
            except BlockingIOError:
                return
            except OSError:  # the other end is closed; the next read will tell
                return
            self._unsent.popleft()

    def _spawn(self, spawn: dict[str, Any], fds: list[int]) -> None:
        """Fork, report the child, and only then release it to exec."""
        # No process may run without a record of it, or the daemon would start it a second time. The
        # daemon has put the process into the vault, without a pid, before it asks for it. The child
        # waits for a byte on a socketpair before it does anything, and we send this byte only after
        # `forked` has been reported with pid and pidfd. If SIGKILL hits the nursery
        #
        # - before the fork: nothing has run. The daemon has heard no `forked`, concludes that the
        #   process never began, and starts it again if somebody waits for it.
        # - between fork and `forked`: the only other end of the socketpair closes with us, so the
        #   child reads end of file and exits without exec. For the daemon this is the same case.
        # - between `forked` and the byte: the child exits likewise, with code 127. The daemon has
        #   its pid, or will read it from the channel, whose end is in the FD store; it takes the
        #   exit from the pidfd.
        # - after the byte: the child execs, or fails to and exits with 127. The daemon knows its
        #   pid, so it need not hear `spawned` or `failed`: it treats a process with a pid as
        #   running, and takes the exit from the pidfd.
        #
        # The last two hold only if the channel took `forked`. If it is full, the report is only in
        # our memory, and lost with us.
        #
        # If SIGKILL hits the daemon instead, at any of these points, we go on; the reports wait in
        # _reports until the next daemon has put them into the vault and acknowledges them.
        #
        # The child's end of the socketpair is close-on-exec, so its end of file tells us that exec
        # succeeded. Until then the nursery blocks, and does not reap: the pid stays valid for
        # pidfd_open and waitpid.
        id = spawn["id"]
        with contextlib.ExitStack() as always_cleanup:
            always_cleanup.callback(parcel.close_all, fds)
            try:
                # The kernel drops descriptors beyond our limit on the way; see cmsg(3).
                if len(fds) != len(spawn["targets"]):
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                ours, theirs = socket.socketpair()
                always_cleanup.enter_context(ours)
                with theirs:
                    pid = os.fork()
                    if pid == 0:
                        ours.close()
                        _become(spawn, fds, theirs)
            except OSError as reason:
                self._say({"what": "failed", "id": id, "error": f"Cannot start a process: {reason.strerror}"})
                return
            self._ids[pid] = id
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                pidfd = -1
            self._say({"what": "forked", "id": id, "pid": pid, "started": time.time()}, pidfd)
            error = _let_go(ours)
        if error:
            del self._ids[pid]
            os.waitpid(pid, 0)
            self._say({"what": "failed", "id": id, "error": error})
        else:
            self._say({"what": "spawned", "id": id})

    def _reap(self) -> None:
        while True:
            try:
                status = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return
            if status is None:
                return
            id = self._ids.pop(status.si_pid, None)
            if id is not None:
                code = status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
                self._say({"what": "exited", "id": id, "code": code, "time": time.time()})


def _let_go(child: socket.socket) -> str:
    """Release the child to exec; return its error, or "" on success."""
    error = b""
    with contextlib.suppress(OSError):  # the child was killed; its exit code will tell
        child.send(b"!")
        while data := child.recv(4096):  # until exec closes the other end
            error += data
    return error.decode(errors="replace")


def _become(spawn: dict[str, Any], fds: list[int], nursery: socket.socket) -> NoReturn:
    """In the child: wait to be released, set up everything, exec; report errors to `nursery`."""
    step = "Bad command"
    try:
        if not nursery.recv(1):
            os._exit(127)  # the nursery was killed before it could release us
        signal.set_wakeup_fd(-1)
        os.setsid()
        nursery = _arrange(spawn["targets"], fds, nursery)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.umask(0o022)
        _reset_oom_score()
        step = "Bad rlimit"
        _limit(spawn["nofile"], spawn["rlimits"])
        step = "Bad uid or gid"
        _change_user(spawn["uid"], spawn["gid"], spawn["groups"])
        if spawn["working_dir"]:
            step = "Bad working_dir"
            os.chdir(spawn["working_dir"])
        step = "Bad command"
        _exec(spawn["args"], spawn["env"] | _listen_variables(spawn.get("listen")))
    except BaseException as error:
        with contextlib.suppress(OSError):
            nursery.send(f"{step} - {error}".encode(errors="replace"))
    finally:
        os._exit(127)


def _arrange(targets: list[int], fds: list[int], nursery: socket.socket) -> socket.socket:
    """Duplicate each of `fds` to the number in `targets`; exec closes everything else.

    A descriptor may go to several numbers. Returns `nursery`, moved out of the way of `targets`.
    """
    base = 1 + max(targets)
    moved = {fd: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, base) for fd in set(fds)}
    nursery = socket.socket(fileno=fcntl.fcntl(nursery, fcntl.F_DUPFD_CLOEXEC, base))
    for fd, target in zip(fds, targets, strict=True):
        os.dup2(moved[fd], target)
    return nursery


def _limit(nofile: int, rlimits: dict[str, int]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinity = resource.RLIM_INFINITY
    soft = hard if nofile == infinity else nofile if hard == infinity else min(nofile, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for name, value in rlimits.items():
        resource.setrlimit(getattr(resource, "RLIMIT_" + name.upper()), (value, value))


def _change_user(uid: int | None, gid: int | None, groups: list[int] | None) -> None:
    """Set groups, gid and uid, in this order because the last step drops the privilege to do so.

    Without privilege, only our own identity is possible.
    """
    if os.geteuid() == 0 and groups is not None:
        os.setgroups(groups)
    if gid is not None:
        os.setgid(gid)
    if uid is not None:
        os.setuid(uid)


def _listen_variables(names: list[str] | None) -> dict[str, str]:
    """Return the variables for sd_listen_fds(3). LISTEN_PID is known only in the child.

    A colon in a name is replaced, because it separates names.
    """
    if not names:
        return {}
    joined = ":".join(name.replace(":", "_") for name in names)
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": joined}


def _reset_oom_score() -> None:
    """Drop the protection from the OOM killer that papad has."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) < 0:
            file.seek(0)
            file.write("0")


def _exec(args: list[str], env: dict[str, str]) -> NoReturn:
    """Call execve, searching the PATH of the new environment."""
    path = env.get("PATH") or _DEFAULT_PATH
    name = args[0]
    candidates = [name] if "/" in name else [os.path.join(directory, name) for directory in path.split(":")]
    refused: OSError | None = None
    for candidate in candidates:
        try:
            os.execve(candidate, args, env)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refused = refused or error
    reason = refused or FileNotFoundError(2, os.strerror(2))
    raise OSError(reason.errno, reason.strerror, name)


def main() -> None:
    """Run the nursery on the channel whose fd is the argument."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.setblocking(False)
    channel.set_inheritable(False)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with open("/proc/self/comm", "w") as comm:
        comm.write("papad-nursery")
    json.dumps({})
    gc.freeze()
    Nursery(channel).run()


if __name__ == "__main__":
    main()
