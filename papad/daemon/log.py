"""papad's own log: to the journal under systemd, else to standard error, and never waiting for either.

A message that is not taken at once waits, with a thousand others at most; more are dropped and
counted. All that is told as soon as there is room again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import time
from collections import deque

from papad.daemon.output.journal import Journald, encoded

log = logging.getLogger("papad")

_STDERR = 2
_MOST = 1000  # messages that wait
_FLUSH, _PAUSE = 1.0, 0.005  # seconds
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
        self._waiting: deque[logging.LogRecord] = deque()
        self._dropped = 0  # after those that wait

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message, or let it wait, or count it as dropped."""
        try:
            if self._deliver() and self._write(record):
                return
            if self._dropped or len(self._waiting) >= _MOST:
                self._dropped += 1
            else:
                self._waiting.append(record)
            self._listen()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Deliver what waits, as papad ends; it waits a second for that at most."""
        room, end = select.poll(), time.monotonic() + _FLUSH
        room.register(self._journald or _STDERR, select.POLLOUT)
        while not self._deliver() and (left := end - time.monotonic()) > 0:
            room.poll(min(left, 0.05) * 1000)

    def _deliver(self) -> bool:
        """Write what waits, and then how many were dropped; return whether nothing is left."""
        while self._waiting and self._write(self._waiting[0]):
            self._waiting.popleft()
        if self._dropped and not self._waiting:
            message = "%d log messages were dropped, because nobody took them"
            if self._write(log.makeRecord("papad", logging.WARNING, __file__, 0, message, (self._dropped,), None)):
                self._dropped = 0
        return not (self._waiting or self._dropped)

    def _listen(self) -> None:
        """Deliver once there is room, if the event loop runs; standard error that is a file always has room."""
        with contextlib.suppress(RuntimeError, OSError):
            asyncio.get_running_loop().add_writer(self._journald or _STDERR, self._room)

    def _room(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_writer(self._journald or _STDERR)
        if not self._deliver():
            loop.call_later(_PAUSE, self._listen)

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
                return self._journald.send(encoded(fields))
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
