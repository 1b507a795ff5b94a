"""A client's connection: its commands and their replies, and one delivery at a time.

daemon/delivery/channel.py has its modes. Besides its mode, a connection has flags for its
transport.

Limits: a line has at most wire.MAX_LINE bytes. The daemon stops reading from a client that does not
read its answers, and while the client's next line is kept.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import logging
import socket
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any, Protocol

from papad.daemon.commands.roles import Role
from papad.daemon.commands.table import GRAMMAR, Leave, Output, Tables, Watching
from papad.daemon.delivery.batches import Batches
from papad.daemon.delivery.channel import FLUSH_SIZE, TRANSITIONS, Delivery, IllegalTransition, Mode
from papad.daemon.delivery.frames import Frames
from papad.daemon.loop import running
from papad.daemon.peers import Peer, Peers
from papad.daemon.stream import Stream
from papad.errors import Error
from papad.protocol import wire

log = logging.getLogger("papad")

_TURN = 0.002  # seconds of lines; then other connections get a turn
_QUIET = 0.1  # seconds of silence after which a client is not in the middle of a request
_RESOURCES = {
    errno.EMFILE,
    errno.EFBIG,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOSPC,
    errno.ENOBUFS,
    errno.EAGAIN,
    errno.ETOOMANYREFS,
}


# For each line: in Python 3.11, to look up a member of an Enum takes long, and so does its hash.
_TAKES_LINES = (Mode.COMMANDS, Mode.UNACKNOWLEDGED, Mode.FOLLOWING)
_OWES_ANSWER = (Mode.AT_WORK, Mode.READING)
_LOOKS = Role.VIEW
_COLON, _SLASH = b":/"  # numbers, because that is the quicker search


class Host(Protocol):
    """The part of the server that a connection uses."""

    tables: Tables
    peers: Peers
    exit_when_idle: bool

    def changed(self) -> None:
        """Handle that a command or an acknowledgement may have changed what is held."""

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background."""

    def left(self, connection: Connection) -> None:
        """Remove a connection that is closed."""


class Connection:
    """One client. Its lines are taken one at a time, each answered before the next."""

    def __init__(self, server: Host, sock: socket.socket, peer: Peer, role: Role) -> None:
        """Talk over `sock`, which becomes the connection's and must not block."""
        self._server = server
        self._sock = sock
        self.peer = peer
        self._viewer = peer.uid if role is Role.VIEW else None
        self._reader = wire.LineReader()
        self._lines: deque[bytes | wire.LineTooLong] = deque()  # received, not yet taken
        self._first = True  # no command has come yet; a browser may be at the other end
        self.mode = Mode.COMMANDS
        self.full = False  # the client is not reading its answers
        self._ended = False  # the client has finished sending
        self._leaving = False  # close when the last answer is written
        self._scheduled = False  # proceed will be called by the event loop
        self._delivery: Delivery | None = None  # from OPENING or READING on, until COMMANDS again
        self._ending: asyncio.TimerHandle | None = None  # while draining: closes a quiet connection
        self._stream = Stream(sock, self)
        self.write = self._stream.write
        """Send bytes to the client."""
        self.soon = running().soon
        """Call somebody once all that is ready now was handled."""

    def enter(self, mode: Mode) -> None:
        """Change to `mode`. Raises IllegalTransition if the table has no such transition."""
        if mode not in TRANSITIONS[self.mode]:
            raise IllegalTransition(f"a connection cannot become {mode.value}: it is {self.mode.value}")
        self.mode = mode

    def data_received(self, data: bytes) -> None:
        """Take the lines that the client has sent."""
        self._lines.extend(self._reader.feed(data))
        if self._ending is not None:
            self.end_when_quiet()
        self.proceed()

    def eof_received(self) -> None:
        """Answer what is pending, and then close: the client has finished sending."""
        self._ended = True
        self.proceed()

    def pause_writing(self) -> None:
        """Take no more lines: the client does not read."""
        self.full = True

    def resume_writing(self) -> None:
        """Go on."""
        self.full = False
        if self._delivery is not None:
            self._delivery.resume()
        self._proceed_soon()

    def connection_lost(self) -> None:
        """End everything that is under way for the client."""
        self._lines.clear()
        if self._ending is not None:
            self._ending.cancel()
        self.end_delivery()
        self._server.left(self)

    def end_when_quiet(self) -> None:
        """Close after _QUIET seconds in which the client sends nothing and no answer is pending.

        Meanwhile no new batch is delivered.
        """
        if self._ending is not None:
            self._ending.cancel()
        self._ending = asyncio.get_running_loop().call_later(_QUIET, self._end_if_quiet)

    def _end_if_quiet(self) -> None:
        if self._lines or self.mode in _OWES_ANSWER:
            self.end_when_quiet()
        else:
            self._stream.close()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._stream.abort()

    def proceed(self) -> None:
        """Take as many lines as possible now, and read more only when all are done."""
        self._scheduled = False
        lines, out, size = self._lines, [], 0
        end, over = time.monotonic() + _TURN if len(lines) > 1 else 0.0, False
        while lines and self.mode in _TAKES_LINES and not (over or self.full or self._leaving or self._stream.closing):
            answer = self._take(lines.popleft())
            out.append(answer)
            size += len(answer)
            if size > FLUSH_SIZE:
                self.write(b"".join(out))  # this may call pause_writing
                out.clear()
                size = 0
            over = bool(lines) and time.monotonic() >= end
        if out:
            self.write(b"".join(out))
        if self._stream.closing:
            return
        if lines and not self._leaving:
            self._stream.pause_reading()
            if over:
                self._proceed_soon()
        elif self._leaving or (self._ended and self.mode not in _OWES_ANSWER):
            self._stream.close()  # also a watch, which nobody can acknowledge any more
        elif not (self._ended or self._stream.reading):
            self._stream.resume_reading()

    def _proceed_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.soon(self.proceed)

    def _take(self, line: bytes | wire.LineTooLong) -> bytes:
        """Handle one line and return what to send."""
        if not isinstance(line, bytes):
            return wire.error(f"The line is too long; at most {self._reader.limit} bytes can be taken. It was ignored")
        if (self._first or _COLON in line or _SLASH in line) and self._is_http(line):
            log.warning("dropped a connection from %s that speaks HTTP", self.peer)
            self._leaving = True
            self._stream.abort()
            return b""
        if self._delivery is not None:
            answer = self._delivery.take(wire.decode(line))
            self._server.changed()
            return answer
        return self._answer(line) if line.strip() else wire.PROMPT

    def _is_http(self, line: bytes) -> bool:
        """Return whether a line is of an HTTP request: never one of a command that follows a command."""
        if not self._first and b":" not in line and b"HTTP/" not in line:
            return False
        known = self._delivery is not None or GRAMMAR.knows(wire.decode(line[:100]).lstrip("%").partition(" ")[0])
        if known and not self._first:
            return False
        self._first = self._first and not known
        return wire.looks_like_http(line, command=known)

    def _answer(self, line: bytes) -> bytes:
        """Carry out a command, and return the reply."""
        try:
            command, given = GRAMMAR.parse(line, self._viewer)
            result = command.handler(self._server.tables, given)
            if command.role is not _LOOKS:
                self._server.changed()
            if isinstance(result, str):
                return wire.reply(result)
            if inspect.iscoroutine(result):
                self.enter(Mode.AT_WORK)
                self._server.run(self._wait_for(result))
                return b""
            return self._reply(result)
        except Exception as error:
            return _refusal(error)

    async def _wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            try:
                result = await coroutine
            finally:
                self.enter(Mode.COMMANDS)
            self._server.changed()
            reply = self._reply(result)
        except Exception as error:
            reply = _refusal(error)
        if not self.closing:
            self.write(reply)
            self.proceed()
        else:
            self.end_delivery()

    def _reply(self, result: Any) -> bytes:
        """Return the reply for what a command has resulted in."""
        if isinstance(result, Watching):
            return self._begin(Batches(result.line, result.watch, self))
        if isinstance(result, Leave):
            return self._leave(result)
        if isinstance(result, Output):
            return self._begin(Frames(result.reading, self))
        return wire.reply(result)

    def _leave(self, leave: Leave) -> bytes:
        self._leaving = True
        if leave.exit:
            self._server.exit_when_idle = True
        return leave.text.encode()

    def _begin(self, delivery: Delivery) -> bytes:
        self._delivery = delivery
        return delivery.begin()

    def end_delivery(self) -> None:
        """End the current delivery, if any, and return to COMMANDS."""
        if self._delivery is not None:
            delivery, self._delivery = self._delivery, None
            delivery.end()
            self.enter(Mode.COMMANDS)

    # What a delivery uses besides

    @property
    def closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self._stream.closing

    @property
    def draining(self) -> bool:
        """Whether papad is stopping, so that no new batch may be delivered."""
        return self._ending is not None

    @property
    def unread(self) -> int:
        """How many bytes wait in memory for the client to read."""
        return self._stream.unsent

    def has_read_all(self) -> bool:
        """Return whether the client has read everything that was written."""
        sent = len(wire.WELCOME) + self._stream.written  # the server has sent the former
        return self.unread == 0 and self._server.peers.has_read_all(self._sock, sent)

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background."""
        self._server.run(coroutine)


def _refusal(error: Exception) -> bytes:
    """Return the reply for a command that has failed; what is no fault of the client's is logged."""
    if isinstance(error, Error):
        return wire.error(str(error))
    if isinstance(error, OSError) and error.errno in _RESOURCES:
        log.error("a command failed for lack of resources: %s", error)
        return wire.error(f"papad lacks a resource: {error.strerror}; nothing was changed")
    log.error("internal error; please report this", exc_info=error)
    return wire.error("internal error")
