"""Keeps a daemon running where there is no service manager: by hand, or as PID 1 of a container.

Then the program that is started is the nursery, and the daemon is its child, which is started anew
whenever it ends unless its status is 0: then it was told to, and with it ends the nursery.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

from papad.version import FOLDER

TYPE_CHECKING = False  # as in typing, which is large
if TYPE_CHECKING:
    from typing import Any

KEEPER = "PAPAD_NURSERY"
"""The variable that tells the daemon the abstract address of the nursery that keeps it (unix(7)),
without its leading NUL."""

NURSERY = "papad.daemon.nursery.main"
"""The nursery's program."""

_DELAY, _LONGEST_DELAY = 0.005, 2.0  # seconds before a new daemon
_GROWTH = 1.28  # of the delay, with each that dies at once: after 25 of them it is at its longest
_AT_ONCE = 5.0  # seconds


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of papad, which it finds by PYTHONPATH=FOLDER."""
    return [sys.executable, "-P", "-m", module, *arguments]


class Keeper:
    """The daemon, as its parent sees it."""

    def __init__(self, address: str, arguments: list[str]) -> None:
        self._address, self._arguments = address, arguments
        self._command = python("papad.daemon.main", *arguments)
        self._environ = os.environ | {KEEPER: address, "PYTHONPATH": FOLDER}
        self._began = 0.0
        self._delay = _DELAY
        self._stopping = False  # papad was told to end
        self._told = False  # so was the daemon
        self.pid = 0
        """The pid of the daemon, or 0."""
        self.due: float | None = 0.0
        """When to start the next daemon, by the monotonic clock; None while there is one."""
        self.over = False
        """Whether papad has ended."""

    @property
    def state(self) -> dict[str, Any]:
        """What `restored` needs in another program."""
        return {
            "address": self._address,
            "arguments": self._arguments,
            "pid": self.pid,
            "stopping": self._stopping,
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Keeper:
        """Return the keeper that an earlier program had."""
        keeper = cls(state["address"], state["arguments"])
        keeper.pid = state["pid"]
        keeper.due = None if keeper.pid else 0.0
        keeper._stopping = state.get("stopping", False)
        return keeper

    def turn(self) -> None:
        """Start a daemon, if it is time; tell it to end, if papad is to end."""
        if self.over:
            return
        if self._stopping and not self.pid:
            self._end()
        elif self._stopping and not self._told:
            self._told = True
            os.kill(self.pid, signal.SIGTERM)
        elif self.due is not None and time.monotonic() >= self.due:
            self._start()

    def _start(self) -> None:
        # In a session of its own: Ctrl-C, or the end of a terminal, is for us, who end it in order.
        # SIGTERM waits until the daemon is ready for it.
        self._began, self.due = time.monotonic(), None
        try:
            self.pid = os.posix_spawn(
                sys.executable,
                self._command,
                self._environ,
                setsid=True,
                setsigdef=[signal.SIGCHLD],
                setsigmask=[signal.SIGTERM],
            )
        except OSError as error:  # no memory, or Python is just being replaced: later it may work
            with contextlib.suppress(OSError):
                os.write(2, f"papad: ERROR: cannot start the daemon, and will try again: {error}\n".encode())
            self._again()

    def ended(self, code: int) -> None:
        """Handle that the daemon has ended, by a signal if `code` is negative."""
        self.pid = 0
        if code == 0 or self._stopping:
            self._end()
        else:
            self._again()

    def _again(self) -> None:
        now = time.monotonic()
        at_once = now - self._began < _AT_ONCE
        self._delay = min(self._delay * _GROWTH, _LONGEST_DELAY) if at_once else _DELAY
        self.due = now + self._delay

    def _end(self) -> None:
        self.over, self.due = True, 0.0

    def stop(self) -> None:
        """Let papad end at the next turn. For signal handlers: it only takes note."""
        self._stopping, self._told = True, False
