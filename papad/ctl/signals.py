"""`papactl signal` and `papactl pid`: signal processes from here, because papad never does.

A pid alone names nobody for long: the process may end, and a stranger get its number. So the
process is opened first, as a pidfd, and compared with papad's record then. From there on the pidfd
means this process or nobody.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import select
import signal as signals
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

from papad.client.connection import Client, connect
from papad.ctl.connect import Session
from papad.ctl.parser import Call, Usage
from papad.ctl.render import safe_text
from papad.ctl.run import FAILED, complain
from papad.errors import Error

_TO_GROUP = 4  # PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9
_RECORDED = 5.0  # seconds in which papad hears of an exit, unless it is away
_SUDO = "Run papactl as root or as the user of that process: sudo papactl signal ..."


class _Target(NamedTuple):
    """A process that is signalled."""

    name: str
    id: int
    pid: int
    pidfd: int


def pids(call: Call, session: Session) -> int:
    """Run `pid`. Raises Error if none of the processes is running."""
    running = [each for each in _matching(session.client(), call.words) if each["running"]]
    if not running:
        raise Error(f"no process that matches {_either(call.words)} is running")
    for each in running:
        print(json.dumps({"name": each["name"], "pid": each["pid"]}) if call.flag("json") else each["pid"])
    return 0


def signal(call: Call, session: Session) -> int:
    """Run `signal`. Return 1 if a process could not be signalled, or has not ended in time."""
    if call.flag("json"):
        raise Usage("signal has no --json")
    if session.host == "UP":
        raise Usage("-HUP names a host, UP", "Did you mean: -s HUP")
    number = _number(call.text("signal") or "TERM")
    wait, kill_after = _seconds(call, "wait"), _seconds(call, "kill_after")
    if wait is not None and kill_after is not None and kill_after >= wait:
        raise Usage("--kill-after must be less than --wait")
    if session.host is not None:
        return session.run_there(_words(call))
    client, group = session.client(), call.flag("group")
    with ExitStack() as stack:
        sent, failed = [], False
        for each in _running(client, call.words):
            target = _opened(each, stack)
            if target is not None and _sent(target, number, group=group):
                sent.append(target)
            else:
                failed = True
        if wait is None and kill_after is None:
            return int(failed)
        left = _waited(sent, kill_after if kill_after is not None else wait)
        if kill_after is not None and left:
            for target in left:
                _sent(target, signals.SIGKILL, group=group)
            left = _waited(left, None if wait is None else wait - kill_after)
        for target in left:
            complain(f"{safe_text(target.name)} (pid {target.pid}) is still running after {wait:g} seconds")
        _recorded(client, [target for target in sent if target not in left])
    return FAILED if failed or left else 0


def _number(text: str) -> int:
    """Parse a signal: 15, TERM, SIGTERM, RTMIN+1. Raises Usage."""
    name, plus, more = text.upper().removeprefix("SIG").partition("+")
    found = int(name) if re.fullmatch(r"\d{1,3}", name, re.ASCII) else signals.Signals.__members__.get("SIG" + name)
    if found is not None and (not plus or (name == "RTMIN" and re.fullmatch(r"\d{1,2}", more, re.ASCII))):
        found += int(more or 0)
        if found == 0 or found in signals.valid_signals():
            return int(found)
    raise Usage(f"there is no signal {text!r}", "Try: TERM, HUP, USR1, 15; kill -l lists them")


def _seconds(call: Call, key: str) -> float | None:
    text = call.text(key)
    if text is None:
        return None
    if text != "inf" and not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII):
        raise Usage(f"--{key.replace('_', '-')} must be a number of seconds, not {text!r}")
    return float(text)


def _words(call: Call) -> list[str]:
    """Return the command line for the papactl of another machine."""
    options = [f"--{option.long}" for option in call.command.options if not option.metavar and call.flag(option.key)]
    options += [
        f"--{option.long}={text}"
        for option in call.command.options
        if option.metavar
        for text in call.texts(option.key)
    ]
    return ["signal", *options, "--", *call.words]


def _either(patterns: list[str]) -> str:
    return " or ".join(map(safe_text, patterns))


def _matching(client: Client, patterns: list[str]) -> list[dict[str, Any]]:
    """Describe the processes that match. Raises Error for a name that does not exist."""
    for pattern in patterns:
        if not pattern.endswith("*") and not client.describe("processes", pattern):
            raise Error(f"{safe_text(pattern)} not found")
    return client.describe("processes", *patterns)


def _running(client: Client, patterns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the running processes that match. Raises Error if one that is named has ended."""
    found = _matching(client, patterns)
    for each in found:
        named = each["name"] in patterns or str(each["pid"]) in patterns
        if named and not each["running"]:
            raise Error(
                f"{safe_text(each['name'])} has ended already; what it has started may still run: "
                "systemd-cgls -u papad-processes.scope"
            )
    running = [each for each in found if each["running"]]
    if not running:
        raise Error(f"no process that matches {_either(patterns)} is running")
    yield from running


def _opened(process: dict[str, Any], stack: ExitStack) -> _Target | None:
    """Return a running process with a pidfd, which `stack` closes; None, and say why, if there is none."""
    name, pid = safe_text(process["name"]), process["pid"]
    if "ticks" not in process:
        raise Error("this papad is older than papactl, and does not tell processes apart well enough; upgrade it")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one for each process
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        complain(f"{name} (pid {pid}) has just ended")
        return None
    stack.callback(os.close, pidfd)
    if 0 < process["ticks"] == _start_ticks(pid):
        return _Target(process["name"], process["id"], pid, pidfd)
    if _ended(pidfd, 0):
        complain(f"{name} (pid {pid}) has just ended")
    elif not os.path.exists(f"/proc/{pid}"):
        complain(f"cannot see whether pid {pid} is still {name}: /proc hides it", _SUDO)
    else:
        complain(f"pid {pid} is not {name} here; run papactl in the container that papad runs in")
    return None


def _start_ticks(pid: int) -> int:
    """Return when a process began, in clock ticks since the boot; 0 if /proc does not show it."""
    with suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])
    return 0


def _sent(target: _Target, number: int, *, group: bool) -> bool:
    """Send a signal. If that is not possible, say why, and return False."""
    name = safe_text(target.name)
    try:
        if group:
            _send_to_group(target, number)
        else:
            signals.pidfd_send_signal(target.pidfd, number)
    except ProcessLookupError:
        complain(f"{name} (pid {target.pid}) has just ended")
    except PermissionError:
        complain(f"no permission to signal {name} (pid {target.pid})", _SUDO)
    else:
        return True
    return False


def _send_to_group(target: _Target, number: int) -> None:
    """Signal the group that the process leads; papad makes each one the leader of its own."""
    try:
        signals.pidfd_send_signal(target.pidfd, number, None, _TO_GROUP)
    except OSError as error:
        if error.errno != errno.EINVAL:  # Linux before 6.9
            raise
        if os.getpgid(target.pid) != target.pid or _ended(target.pidfd, 0):
            raise ProcessLookupError from None
        os.killpg(target.pid, number)


def _ended(pidfd: int, seconds: float | None) -> bool:
    """Wait until the process has ended, for `seconds` at most (None: no limit); return whether it has."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def _waited(targets: list[_Target], seconds: float | None) -> list[_Target]:
    """Wait until all have ended, for `seconds` at most over all. Return those that have not."""
    limited = seconds is not None and seconds != float("inf")
    deadline = time.monotonic() + (seconds or 0)
    return [
        target
        for target in targets
        if not _ended(target.pidfd, max(0.0, deadline - time.monotonic()) if limited else None)
    ]


def _recorded(client: Client, ended: list[_Target]) -> None:
    """Wait until papad knows, so that a command that follows finds them ended; also while it is restarted."""
    ids, deadline = {target.id for target in ended}, time.monotonic() + _RECORDED
    while ids and time.monotonic() < deadline:
        with suppress(Error), connect(client.address, _RECORDED) as beside:
            ids &= {each["id"] for each in beside.describe("processes") if each["running"]}
        if ids:
            time.sleep(0.01)
