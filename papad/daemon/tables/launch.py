"""What a process is started with: its spec, its descriptors, and the request to the nursery."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import resource
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from papad.daemon.tables import envfile, lookups
from papad.daemon.tables.sockets import FIRST_FILENO, Socket, Sockets, clone
from papad.errors import Error
from papad.protocol.options import number

_DEFAULT_BUFSIZE = 1 << 20
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_NO_SIZES = ("cpu", "nice", "rtprio", "rttime")  # limits of time or priority, where m is not 2^20
_SPARE_DESCRIPTORS = 64  # kept free of processes: a restart needs some to take back the others
_FIRST_PASSED = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
_MAX_BUFSIZE = 1 << 40


@dataclass(frozen=True)
class Spec:
    """What was asked for. A request with an equal spec means the same process."""

    args: list[str]
    env: dict[str, str]
    rlimits: dict[str, int | list[int]]  # soft and hard, or the two apart
    working_dir: str | None = None
    shell: bool = False
    out: int = 1
    err: int | str = 1
    bufsize: int = _DEFAULT_BUFSIZE
    uid: int | None = None
    gid: int | None = None
    journal: bool = False  # forward each line to the journal
    listen: list[str] | None = None  # names of sockets to pass as systemd does
    env_file: str | None = None  # its path, perhaps after a "-"; what is in it is read at the start, and not kept
    login_env: bool = False  # set HOME, USER, LOGNAME and SHELL
    umask: int | None = None
    nice: int | None = None
    stdin: str | None = None


def differences(asked: Spec, there: Spec) -> Iterator[str]:
    """Yield what tells one spec from another, for people. Of the environment, names only."""
    for name, new, old in _compared(_options(asked), _options(there)):
        if name == "env":
            yield from sorted(f"env.{variable}" for variable, _, _ in _compared(new, old))
        elif name == "rlimits":
            yield from (
                f"rlimit.{limit}: {_shown(one)} instead of {_shown(two)}" for limit, one, two in _compared(new, old)
            )
        else:
            shown = _octal if name == "umask" else _shown
            yield f"{name}: {shown(new)} instead of {shown(old)}"


def _options(spec: Spec) -> dict[str, Any]:
    """Return the options by their names in the protocol."""
    return {{"out": "stdout", "err": "stderr"}.get(name, name): value for name, value in asdict(spec).items()}


def _compared(new: dict[str, Any], old: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the names of which the two have different values, or only one has one, with both values."""
    for name in dict.fromkeys([*new, *old]):
        if new.get(name) != old.get(name):
            yield name, new.get(name), old.get(name)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return (":" if value and isinstance(value[0], int) else " ").join(map(str, value))
    return "none" if value is None else str(int(value)) if isinstance(value, bool) else str(value)


def _octal(value: int | None) -> str:
    return "none" if value is None else f"{value:03o}"


def parse_size(text: str) -> int:
    """Parse a number of bytes with an optional k, m or g. The ValueError says what is expected."""
    size = _with_unit(text)
    if not 0 <= size <= _MAX_BUFSIZE:
        raise ValueError("a number of bytes, with k, m or g after it if you like")
    return size


def _with_unit(text: str) -> int:
    """Return the whole number in `text` times its k, m or g, if any; it is negative if it is not one."""
    digits, unit = (text[:-1], _UNITS[text[-1].lower()]) if text[-1:].lower() in _UNITS else (text, 1)
    return number(digits) * unit


def parse_names(text: str) -> list[str]:
    """Parse names of sockets separated by commas. The ValueError says what is expected."""
    names = text.split(",")
    if not all(names) or len(names) > FIRST_FILENO - _FIRST_PASSED:
        raise ValueError(f"names of sockets with commas between, {FIRST_FILENO - _FIRST_PASSED} at most")
    return names


def specify(options: dict[str, Any], args: list[str]) -> Spec:
    """Return the spec for parsed options. Raises Error if they are invalid.

    With uid= or gid= among them it looks these up, which may take long.
    """
    bufsize = options.get("bufsize", options.get("output", _DEFAULT_BUFSIZE))
    uid, gid = _user(options.get("uid", "")), _group(options.get("gid", ""))
    if uid and gid is None:
        gid = pwd.getpwuid(uid).pw_gid
    paths: dict[str, Any] = {name: options.get(name) or None for name in ("working_dir", "env_file", "stdin")}
    for name, path in paths.items():
        if path and not os.path.isabs(path.removeprefix("-") if name == "env_file" else path):
            raise Error(f'{name} must be an absolute path, not "{path}"')
    env = options.get("env.", {})
    if any("\0" in arg for arg in args):
        raise Error("Arguments cannot hold the character NUL")
    captured = {"out": options.get("stdout", 1), "err": options.get("stderr", 1)} if bufsize else {"out": 0, "err": 0}
    if options.get("journal") and not any(captured.values()):
        raise Error(
            "journal=1 forwards what is captured, and nothing is: leave out stdout=0 and stderr=0, or bufsize=0"
        )
    limits = dict(_limit(name, text) for name, text in options.get("rlimit.", {}).items())
    return Spec(
        args,
        env,
        limits,
        shell=options.get("shell", False),
        **paths,
        **captured,
        bufsize=bufsize,
        uid=uid,
        gid=gid,
        journal=options.get("journal", False),
        listen=options.get("listen"),
        login_env=options.get("login_env", False),
        umask=options.get("umask"),
        nice=options.get("nice"),
    )


def inherit(name: str, spec: Spec, sockets: Sockets, cleanup: contextlib.ExitStack) -> tuple[dict[int, int], list[str]]:
    """Return what the process `name` inherits, and its arguments with `$(socket.…)` replaced.

    What it inherits is {number in the process: our fd}. A reuseport socket is bound anew for each
    process that uses it, and closed here by `cleanup`. Raises Error.
    """
    inherited = {each.fileno: each.sock.fileno() for each in sockets if not each.spec.reuseport}

    def own(found: Socket) -> int:
        if found.fileno not in inherited:
            inherited[found.fileno] = cleanup.enter_context(clone(found)).fileno()
        return inherited[found.fileno]

    fixed = []
    for arg in spec.args:
        text, *references = arg.split("$(socket.")
        for piece in references:
            reference, closing, rest = piece.partition(")")
            if not closing:
                raise Error(f'Process for {name} argument starts with "$(socket." but has no closing parenthesis')
            socket_name, _, what = reference.rpartition(".")
            if what not in ("port", "fileno"):
                raise Error('You forgot to specify either ".port" or ".fileno" after the name')
            found = _find(socket_name, sockets)
            if what == "port" and found.spec.port is None:
                raise Error(f"Socket {socket_name} has no port; it is a Unix socket")
            if what == "fileno":
                own(found)
            text += f"{found.spec.port if what == 'port' else found.fileno}{rest}"
        fixed.append(text)
    passed = {_FIRST_PASSED + i: own(_find(socket_name, sockets)) for i, socket_name in enumerate(spec.listen or ())}
    return inherited | passed, fixed


def _find(name: str, sockets: Sockets) -> Socket:
    found = sockets.get(name)
    if found is None:
        raise Error(f"Socket {name} not found")
    return found


def standard_streams(spec: Spec, cleanup: contextlib.ExitStack) -> tuple[list[int], dict[int, int]]:
    """Return the child's descriptors 0, 1 and 2, and the read ends of its pipes by stream.

    The child's ends are open for reading as well, as a terminal's are: a pipe stays usable while it
    has no other reader, so nobody gets SIGPIPE while papad is away, and what was written waits
    (fifo(7)). They belong to the child's user, who may thus open /dev/stdout.

    `cleanup` closes the former; the read ends become the caller's. Raises OSError.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    cleanup.callback(os.close, null)
    if null >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_DESCRIPTORS:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    standard = [null, null, null]
    readers: dict[int, int] = {}
    try:
        for stream, wanted in enumerate((spec.out, spec.err)):
            if wanted == "stdout":
                standard[2] = standard[1]
            elif wanted:
                readers[stream], writer = os.pipe2(os.O_CLOEXEC)
                try:
                    standard[1 + stream] = os.open(f"/proc/self/fd/{writer}", os.O_RDWR | os.O_CLOEXEC)
                finally:
                    os.close(writer)
                cleanup.callback(os.close, standard[1 + stream])
                if spec.uid is not None:
                    with contextlib.suppress(PermissionError):
                        os.fchown(standard[1 + stream], spec.uid, -1)
                fcntl.fcntl(readers[stream], fcntl.F_SETFL, os.O_NONBLOCK)
    except OSError:
        for reader in readers.values():
            os.close(reader)
        raise
    return standard, readers


def groups_of(spec: Spec) -> list[int] | None:
    """Return the groups of the user that a process runs as; None if it runs as papad does.

    It looks them up, which may take long.
    """
    if spec.uid is None:
        return None
    user = pwd.getpwuid(spec.uid)
    return lookups.groups_of(user.pw_name, user.pw_gid if spec.gid is None else spec.gid)


def login_env(spec: Spec) -> dict[str, str]:
    """Return the variables that a login would set for the user of a process. Raises Error.

    It looks the user up, which may take long.
    """
    uid = os.geteuid() if spec.uid is None else spec.uid
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        raise Error(f"login_env needs the entry of a user, and {uid} has none") from None
    return {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name, "SHELL": user.pw_shell or "/bin/sh"}


@dataclass(frozen=True)
class LookedUp:
    """What a process is started with that is not in its spec."""

    groups: list[int] | None = None
    env: dict[str, str] = field(default_factory=dict)
    """Variables, which those of the spec go before."""


async def looked_up(spec: Spec) -> LookedUp:
    """Look up groups and variables, aside where that may take long. Raises Error."""
    groups = await lookups.aside(groups_of, spec) if spec.uid is not None else None
    env = await lookups.aside(login_env, spec) if spec.login_env else {}
    if spec.env_file:
        env |= await lookups.aside(envfile.read, spec.env_file, source=lookups.FILES)
    return LookedUp(groups, env)


def request(spec: Spec, args: list[str], found: LookedUp) -> dict[str, Any]:
    """Return the part of a spawn request that follows from the spec and what was looked up."""
    names = ("rlimits", "working_dir", "uid", "gid", "listen", "umask", "nice", "stdin")
    wanted = {name: getattr(spec, name) for name in names}
    command = ["/bin/sh", "-c", *args] if spec.shell else args
    return wanted | {"args": command, "env": found.env | spec.env, "groups": found.groups}


def _user(text: str) -> int | None:
    if not text:
        return None
    try:
        return pwd.getpwuid(int(text)).pw_uid
    except (KeyError, OverflowError):
        raise Error(f"{text!r} is not a valid user id") from None
    except ValueError:
        return lookups.user_named(text).pw_uid


def _group(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal():
        return lookups.group_named(text)
    try:
        return grp.getgrgid(int(text)).gr_gid
    except (KeyError, ValueError, OverflowError):
        raise Error(f"No such group: {text!r}") from None


def _limit(name: str, text: str) -> tuple[str, int | list[int]]:
    if not hasattr(resource, "RLIMIT_" + name.upper()):
        raise Error(f'Unknown rlimit "{name}"')
    name = name.lower()
    soft, colon, hard = text.partition(":")
    found = [_limit_value(name, each, text) for each in ((soft, hard) if colon else (soft,))]
    if len(found) == 1 or found[0] == found[1]:
        return name, found[0]
    if found[0] == resource.RLIM_INFINITY or resource.RLIM_INFINITY != found[1] < found[0]:
        raise Error(f'The rlimit value for "{name}" must not have a soft limit above the hard one, not "{text}"')
    return name, found


def _limit_value(name: str, text: str, whole: str) -> int:
    if text in ("infinity", "unlimited", "-1"):
        return resource.RLIM_INFINITY
    value = number(text) if name in _NO_SIZES else _with_unit(text)
    if value < 0:
        raise Error(f'The rlimit value for "{name}" must be an integer, not "{whole}"')  # as the original says it
    if value >= 1 << 63:
        raise Error(f'The rlimit value for "{name}" must be from 0 to {(1 << 63) - 1}, or infinity, not "{whole}"')
    return value
