"""Starts papad if none answers: through its socket unit, or else as a detached process.

However many programs try at the same time, only one papad is started for each address.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec

from papad.client.address import DEFAULT_PORT, SYSTEM
from papad.client.connection import Client
from papad.errors import ConnectionLost, Error, Refused, TimedOut, Unreachable
from papad.version import FOLDER

_STRANGERS = (
    "NOTIFY_SOCKET",
    "LISTEN_",
    "WATCHDOG_",
    "FDSTORE",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "RUNTIME_DIRECTORY",
)
"""Variables that a service manager sets for the calling process; papad must not inherit them."""
_NEEDED = "systemd"
"""A module that only the daemon needs. The client library may be installed without it."""
_DELAY = 0.02  # seconds between two attempts
_TRIES = 3
"""How often to start papad. Another client may end it with exit-if-idle before we connect."""


def start(address: str | int, deadline: float) -> None:
    """Start papad at the address before `deadline` (of time.monotonic()).

    Raises Error if papad cannot be started in time. It may still come up after that.
    """
    if not _by_systemd(address, deadline):
        _by_hand(address, deadline)


def own_socket() -> str | None:
    """Return the socket path of the user's own papad, or None without a user service manager."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return f"{runtime}/papad.sock" if runtime and os.path.exists(f"{runtime}/systemd/private") else None


def _by_systemd(address: str | int, deadline: float) -> bool:
    """Start the socket unit that serves the address, if there is one. Return whether it started."""
    if address == own_socket():
        manager = ["--user"]
    elif address in (DEFAULT_PORT, SYSTEM) and os.path.exists("/run/systemd/system"):
        manager = ["--system"]
    else:
        return False
    command = ["systemctl", *manager, "--no-ask-password", "--quiet", "start", "papad.socket"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=max(deadline - time.monotonic(), 0.1),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Error("systemctl start papad.socket timed out") from None
    except OSError:
        return False
    return done.returncode == 0


def _by_hand(address: str | int, deadline: float) -> None:
    """Start papad as a detached process, unless another program is already starting it."""
    if getattr(find_spec(_NEEDED), "origin", None) is None:
        raise Error(f"cannot start papad: it needs the Python module {_NEEDED}; on Debian, apt-get install papad")
    with _alone(address, deadline):
        if _listens(address, deadline):
            return
        command = _command(address)
        with contextlib.suppress(subprocess.CalledProcessError, OSError):
            for _ in range(_TRIES):
                pid = _spawn(command)
                while _runs(pid) and time.monotonic() < deadline:
                    if _listens(address, deadline):
                        return
                    time.sleep(_DELAY)
                if time.monotonic() >= deadline:
                    break
        raise Error(f"failed to start papad; to see why, run: {' '.join(command)}")


def _spawn(command: list[str]) -> int:
    """Start the command, detached from this process. Return its pid."""
    script = 'echo $$; exec "$@" >/dev/null'
    done = subprocess.run(
        ["setsid", "--fork", "sh", "-c", script, "sh", *command],
        cwd="/",
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        umask=0o022,
        check=True,
        text=True,
    )
    return int(done.stdout)


def _runs(pid: int) -> bool:
    """Return whether the process is still running.

    Its entry in /proc is not enough: a zombie that is never reaped keeps it.
    """
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(") ")[2][:1] not in "ZX"
    except OSError:
        return False


def _command(address: str | int) -> list[str]:
    where = ["-u", address] if isinstance(address, str) else ["-p", str(address)]
    return [sys.executable, "-m", "papad.daemon.main", *where]


def _environment() -> dict[str, str]:
    """Return the environment for papad.

    It is that of this process without _STRANGERS; PYTHONPATH leads to the same version of papad.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith(_STRANGERS)}
    return env | {"PYTHONPATH": os.pathsep.join(filter(None, (FOLDER, env.get("PYTHONPATH"))))}


def _listens(address: str | int, deadline: float) -> bool:
    """Return whether there is a papad, even one that does not answer in time."""
    try:
        Client(address, max(deadline - time.monotonic(), _DELAY)).close()
    except Refused:
        raise
    except TimedOut:
        return True
    except (Unreachable, ConnectionLost):
        return False
    return True


@contextlib.contextmanager
def _alone(address: str | int, deadline: float) -> Iterator[None]:
    """Hold the lock for starting papad at this address.

    Raises Error if another process holds it until the deadline.
    """
    path = _lock_path(address)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Error(f"cannot start papad: cannot open {path}: {error.strerror}") from None
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
            raise Error(f"cannot start papad: {path} is not a regular file owned by this user")
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Error(f"timed out while another process starts papad; it holds the lock {path}") from None
                time.sleep(_DELAY)
        yield
    finally:
        os.close(fd)


def _lock_path(address: str | int) -> str:
    """Return the path of the lock file for this user and address.

    It is in a directory in which nobody else can make or hold it first. Raises Error if there is none.
    """
    key = hashlib.sha256(str(address).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{_lock_folder()}/papad-start-{os.geteuid()}-{key}.lock"


def _lock_folder() -> str:
    uid = os.geteuid()
    # XDG_RUNTIME_DIR may be another user's: sudo can keep it.
    for folder in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{uid}"):
        if folder and _is_own(folder):
            return folder
    if uid == 0 and _is_own("/run", open_to_others=0o055):
        return "/run"
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    for folder in (f"{state}/papad", f"/tmp/papad-{uid}"):
        if os.path.isabs(folder):
            with contextlib.suppress(OSError):
                os.makedirs(folder, 0o700)
            if _is_own(folder):
                return folder
    raise Error(
        f"cannot start papad: {folder} must be a directory of this user's with mode 0700; set XDG_RUNTIME_DIR to one"
    )


def _is_own(folder: str, *, open_to_others: int = 0) -> bool:
    """Return whether a directory is this user's, writable, and has no permissions for others but these."""
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and os.access(folder, os.W_OK)
    return own and not status.st_mode & 0o077 & ~open_to_others
