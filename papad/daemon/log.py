"""papad's own log: to the journal under systemd, else to standard error, and never waiting for either.

A message that is not taken at once is dropped and counted. How many were is logged as soon as there
is room again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select

from papad.daemon.output.journal import Journald

log = logging.getLogger("papad")

_STDERR = 2
_LONGEST = 48 * 1024  # bytes; more would not go into a datagram
_PRIORITIES = {logging.DEBUG: b"7", logging.INFO: b"6", logging.WARNING: b"4", logging.ERROR: b"3"}  # of syslog(3)


def set_up(*, debug: bool, journal: bool) -> None:
    """Let what is logged go where it belongs, asyncio's complaints included."""
    handler = Handler(Journald() if journal else None)
    for logger in (log, logging.getLogger("asyncio")):
        logger.addHandler(handler)
        logger.propagate = False
    log.setLevel(logging.DEBUG if debug else logging.INFO)


class Handler(logging.Handler):
    """Writes to journald, or without one to standard error."""

    def __init__(self, journald: Journald | None) -> None:
        super().__init__()
        self._journald = journald
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message, or count it as dropped."""
        try:
            if not (self._told() and self._write(record)):
                self._dropped += 1
                self._wait()
        except Exception:
            self.handleError(record)

    def _told(self) -> bool:
        """Log how many messages were dropped; return whether none is left to tell."""
        if self._dropped:
            message = "%d log messages were dropped, because nobody took them"
            if self._write(log.makeRecord("papad", logging.WARNING, __file__, 0, message, (self._dropped,), None)):
                self._dropped = 0
        return not self._dropped

    def _wait(self) -> None:
        """Tell what was dropped once there is room, if the event loop runs."""
        with contextlib.suppress(RuntimeError, OSError):  # standard error that is a file always has room
            asyncio.get_running_loop().add_writer(self._journald or _STDERR, self._room)

    def _room(self) -> None:
        asyncio.get_running_loop().remove_writer(self._journald or _STDERR)
        self._told()

    def _write(self, record: logging.LogRecord) -> bool:
        text = self.format(record)
        if self._journald is not None:
            fields = {
                "MESSAGE": text.encode(errors="backslashreplace")[:_LONGEST],
                "PRIORITY": _PRIORITIES.get(record.levelno, b"2"),
                "SYSLOG_IDENTIFIER": b"papad",
                "CODE_FILE": record.pathname.encode(),
                "CODE_LINE": b"%d" % record.lineno,
                "CODE_FUNC": record.funcName.encode() if record.funcName else b"",
            }
            with contextlib.suppress(OSError):  # there is no journald
                return self._journald.send(fields)
        return _print(f"papad: {record.levelname}: {text}\n".encode(errors="backslashreplace"))


def _print(data: bytes) -> bool:
    """Write to standard error, without waiting: a pipe that has room takes PIPE_BUF bytes at once (pipe(7))."""
    room = select.poll()
    room.register(_STDERR, select.POLLOUT)
    for at in range(0, len(data), select.PIPE_BUF):
        if not room.poll(0):
            return at > 0
        with contextlib.suppress(OSError):  # nobody reads it any more
            os.write(_STDERR, data[at : at + select.PIPE_BUF])
    return True
