"""What a child of the nursery does between fork and exec, or instead of an exec."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import select
import signal
import stat

TYPE_CHECKING = False  # as in typing, which is large
if TYPE_CHECKING:
    from typing import Any, NoReturn

_DEFAULT_PATH = os.defpath
_KEYCTL = {
    "x86_64": 250,
    "aarch64": 219,
    "riscv64": 219,
    "loongarch64": 219,
    "ppc64le": 271,
    "s390x": 280,
}  # syscalls(2)
_KEYCTL |= {"i686": 288, "armv7l": 311, "armv6l": 311}
_KEYCTL_JOIN_SESSION_KEYRING = 1

_syscall = ctypes.CDLL(None).syscall


def ignored() -> list[int]:
    """Return the signals that are ignored, which exec would not change. To look takes too long for each child."""
    return [int(number) for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN]


def become(spawn: dict[str, Any], fds: list[int], nursery: int, ignored: list[int]) -> NoReturn:
    """In the child: wait to be released, set up everything, exec; report errors to the socket `nursery`.

    What `ignored` has returned is reset.
    """
    step = "Bad command"
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        _close_all_but([0, 1, 2, nursery, *fds])
        if not os.read(nursery, 1):
            os._exit(127)  # the nursery was killed, and nobody else has the gate
        with contextlib.suppress(OSError):  # then the nursery was killed
            os.write(nursery, b"!")
        os.setsid()
        _join_session_keyring()
        nursery = _arrange(spawn["targets"], fds, nursery)
        for number in ignored:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        umask = spawn.get("umask")
        os.umask(0o022 if umask is None else umask)
        _reset_oom_score()
        step = "Bad rlimit"
        _limit(spawn["nofile"], spawn["rlimits"])
        if spawn.get("nice") is not None:
            step = "Bad nice"
            os.setpriority(os.PRIO_PROCESS, 0, spawn["nice"])
        step = "Bad uid or gid"
        _change_user(spawn["uid"], spawn["gid"], spawn["groups"])
        if spawn["working_dir"]:
            step = "Bad working_dir"
            os.chdir(spawn["working_dir"])
        if spawn.get("stdin"):
            step = "Bad stdin"
            os.dup2(os.open(spawn["stdin"], os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC), 0)
        step = "Bad command"
        _exec(spawn["args"], spawn["env"] | _listen_variables(spawn.get("listen")))
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(nursery, f"{step} - {error}".encode(errors="replace"))
    finally:
        os._exit(127)


def _close_all_but(kept: list[int]) -> None:
    """Close what is the nursery's, at once: while we wait, or exec hangs, it may close it, or end."""
    at = 0
    for fd in [*sorted(kept), 1 << 20]:  # fs.nr_open
        if fd > at:  # closerange(0, 0) closes everything
            os.closerange(at, fd)
        at = fd + 1


def _arrange(targets: list[int], fds: list[int], nursery: int) -> int:
    """Duplicate each of `fds` to the number in `targets`; exec closes everything else.

    A descriptor may go to several numbers. Returns `nursery`, moved out of the way of `targets`.
    """
    base = 1 + max(targets)
    moved = {fd: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, base) for fd in set(fds)}
    nursery = fcntl.fcntl(nursery, fcntl.F_DUPFD_CLOEXEC, base)
    for fd, target in zip(fds, targets, strict=True):
        os.dup2(moved[fd], target)
    return nursery


def _limit(nofile: int, rlimits: dict[str, int | list[int]]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinity = resource.RLIM_INFINITY
    soft = hard if nofile == infinity else nofile if hard == infinity else min(nofile, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for name, value in rlimits.items():
        both = (value, value) if isinstance(value, int) else (value[0], value[1])
        resource.setrlimit(getattr(resource, "RLIMIT_" + name.upper()), both)


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


def _join_session_keyring() -> None:
    """Get a session keyring of its own (keyctl(2)): papad's may hold keys of whoever started it."""
    if number := _KEYCTL.get(os.uname().machine):
        # Without permission (a container), or room for another key, it is not to be had.
        _syscall(number, _KEYCTL_JOIN_SESSION_KEYRING, None)


def _reset_oom_score() -> None:
    """Drop the protection from the OOM killer that papad has."""
    with contextlib.suppress(OSError):
        fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        if os.read(fd, 16).startswith(b"-"):
            os.write(fd, b"0")
        os.close(fd)


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


def is_read_end(fd: int) -> bool:
    """Return whether this is an end of a pipe that can only be read."""
    reading = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    return reading and stat.S_ISFIFO(os.fstat(fd).st_mode)


def become_drainer(pipes: set[int]) -> None:
    """In a child: discard what comes from the pipes, up to the end of each."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    os.chdir("/")
    with open("/proc/self/comm", "w") as comm:
        comm.write("papad-drain")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    # The writing end of the staging pipe is among these: with it open, the other would never end.
    _close_all_but([0, 1, 2, *pipes])
    poll = select.poll()
    for fd in pipes:
        poll.register(fd, select.POLLIN)
    while pipes:
        for fd, _ in poll.poll():
            if not os.splice(fd, 1, 1 << 20):
                poll.unregister(fd)
                pipes.remove(fd)
                os.close(fd)
