"""The nursery is renewed in place: it executes the program of a newer papad, and stays who it is.

Pid, children and descriptors stay over execve(2), as does being a child subreaper; the rest travels
in a memfd. A daemon that finds that the nursery runs another program than its own tries that in a
process first (`python -m papad.daemon.nursery.main --self-test`), and then tells the nursery.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import zlib

from papad.daemon.durable import parcel
from papad.daemon.nursery.keeper import NURSERY, python

TYPE_CHECKING = False  # as in typing, which is large
if TYPE_CHECKING:
    from typing import Any

STATE = 1
"""The version of what travels in the memfd."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # while there are no handlers, they wait
_FILES = ("main.py", "child.py", "keeper.py", "renewal.py", "../durable/parcel.py")


def program() -> str:
    """Return what identifies the nursery's program as it is installed now, and its interpreter."""
    found = zlib.crc32(sys.version.encode())
    for name in _FILES:
        with open(os.path.join(os.path.dirname(__file__), name), "rb") as file:
            found = zlib.crc32(file.read(), found)
    return f"{found:08x}"


def execute(executable: str, folder: str, state: dict[str, Any], fds: list[int]) -> None:
    """Become the nursery of `folder`, with `state` and these descriptors. Raises OSError.

    Then nothing has changed. SIGTERM waits until `restored`.
    """
    memfd = os.memfd_create("papad-nursery", 0)  # no MFD_CLOEXEC: it is for the next program
    try:
        parcel.write_all(memfd, json.dumps(state).encode())
        for fd in fds:
            os.set_inheritable(fd, True)
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        os.execve(executable, python(NURSERY, "--renewed", str(memfd)), os.environ | {"PYTHONPATH": folder})
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        for fd in fds:
            os.set_inheritable(fd, False)
        os.close(memfd)


def restored(memfd: int) -> dict[str, Any]:
    """Return the state, in the next program; its descriptors are there. Closes `memfd`."""
    state: dict[str, Any] = json.loads(parcel.read_all(memfd))
    os.close(memfd)
    return state


def settled() -> None:
    """Let signals come, now that there are handlers."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
