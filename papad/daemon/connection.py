"""A client's connection: its commands and their replies, its watch, its reading.

    mode             the next line is                            next mode
    COMMANDS         a command                                   AT_WORK, OPENING, READING
    AT_WORK          kept: a command is still at work            COMMANDS
    OPENING          kept: the client has not yet read the       WATCHING, UNACKNOWLEDGED;
                     first line of its watch                     COMMANDS if nothing is left
    WATCHING         kept: there is nothing to deliver           UNACKNOWLEDGED, COMMANDS
    UNACKNOWLEDGED   the acknowledgement of a batch              WATCHING, COMMANDS
    READING          kept until the output is written            COMMANDS, FOLLOWING
    FOLLOWING        the end of following                        COMMANDS

Any other change of mode is a bug and raises. Besides its mode, a connection has flags for its
transport.

Limits: a line has at most wire.MAX_LINE bytes. The daemon stops reading from a client that does not
read its answers, and while the client's next line is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import functools
import inspect
import logging
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from papad.daemon.commands.table import GRAMMAR, Leave, Output, Tables, Watching
from papad.daemon.delivery.reader import Reading
from papad.daemon.delivery.watch import Watch
from papad.daemon.peers import Peer, Peers
from papad.errors import Error
from papad.protocol import wire

log = logging.getLogger("papad")

_LINES_A_TURN = 1000  # then other connections get a turn
_FLUSH_SIZE = 256 * 1024
_QUIET = 0.1  # seconds of silence after which a client is not in the middle of a request
_EMPTY_BATCH_AFTER = 2.0  # seconds; the original client blocks in `read` after `ready` until then
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


class Mode(enum.Enum):
    """The mode of a connection; see the module's docstring."""

    COMMANDS = "commands"
    AT_WORK = "at work"
    OPENING = "opening"
    WATCHING = "watching"
    UNACKNOWLEDGED = "unacknowledged"
    READING = "reading"
    FOLLOWING = "following"


TRANSITIONS = {
    Mode.COMMANDS: {Mode.AT_WORK, Mode.OPENING, Mode.READING},
    Mode.AT_WORK: {Mode.COMMANDS},
    Mode.OPENING: {Mode.WATCHING, Mode.UNACKNOWLEDGED, Mode.COMMANDS},
    Mode.WATCHING: {Mode.UNACKNOWLEDGED, Mode.COMMANDS},
    Mode.UNACKNOWLEDGED: {Mode.WATCHING, Mode.COMMANDS},
    Mode.READING: {Mode.COMMANDS, Mode.FOLLOWING},
    Mode.FOLLOWING: {Mode.COMMANDS},
}
_TAKES_LINES = {Mode.COMMANDS, Mode.UNACKNOWLEDGED, Mode.FOLLOWING}
_OWES_ANSWER = {Mode.AT_WORK, Mode.READING}


class IllegalTransition(Exception):
    """A bug: something happened that this mode does not allow."""


class Host(Protocol):
    """The part of the server that a connection uses."""

    tables: Tables
    peers: Peers
    exit_when_idle: bool
    on_change: Callable[[], None]

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background."""

    def left(self, connection: Connection) -> None:
        """Remove a connection that is closed."""


class Connection(asyncio.Protocol):
    """One client. Its lines are taken one at a time, each answered before the next."""

    def __init__(self, server: Host, sock: socket.socket, peer: Peer) -> None:
        self._server = server
        self._sock = sock
        self._peer = peer
        self._transport: asyncio.Transport
        self._sent = 0  # bytes written so far, to tell whether the peer has read all of them
        self._reader = wire.LineReader()
        self._lines: deque[bytes | wire.LineTooLong] = deque()  # received, not yet taken
        self._first = True  # the next line is the first, which may be HTTP from a browser
        self.mode = Mode.COMMANDS
        self._full = False  # the client is not reading its answers
        self._ended = False  # the client has finished sending
        self._leaving = False  # close when the last answer is written
        self._scheduled = False  # _proceed will be called by the event loop
        self._watch: Watch | None = None  # while OPENING, WATCHING, UNACKNOWLEDGED
        self._idle: asyncio.TimerHandle | None = None  # sends an empty batch after a long silence
        self._reading: Reading | None = None  # while READING, FOLLOWING
        self._ending: asyncio.TimerHandle | None = None  # while draining: closes a quiet connection

    def _enter(self, mode: Mode) -> None:
        """Change to `mode`. Raises IllegalTransition if the table has no such transition."""
        if mode not in TRANSITIONS[self.mode]:
            raise IllegalTransition(f"a connection cannot become {mode.value}: it is {self.mode.value}")
        self.mode = mode

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._write(wire.WELCOME)

    def data_received(self, data: bytes) -> None:
        self._lines.extend(self._reader.feed(data))
        if self._ending is not None:
            self.end_when_quiet()
        self._proceed()

    def eof_received(self) -> bool:
        self._ended = True
        self._proceed()
        return True  # keep the transport open: pending commands are still answered

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._reading is not None:
            asyncio.get_running_loop().call_soon(self._read_on, self._reading)
        self._proceed_soon()  # not now: asyncio is in the middle of a write

    def connection_lost(self, exc: Exception | None) -> None:
        self._lines.clear()
        if self._ending is not None:
            self._ending.cancel()
        self._end_watch()
        self._end_reading()
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
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._transport.abort()

    def _write(self, data: bytes) -> None:
        self._sent += len(data)
        self._transport.write(data)

    def _proceed(self) -> None:
        """Take as many lines as possible now, and read more only when all are done."""
        self._scheduled = False
        out: list[bytes] = []
        size = taken = 0
        while self._lines and self._takes_line() and taken < _LINES_A_TURN:
            answer = self._take(self._lines.popleft())
            out.append(answer)
            size += len(answer)
            taken += 1
            if size > _FLUSH_SIZE:
                self._write(b"".join(out))  # this may call pause_writing
                out.clear()
                size = 0
        if out:
            self._write(b"".join(out))
        if self._transport.is_closing():
            return
        if self._lines and not self._leaving:
            self._transport.pause_reading()
            if taken == _LINES_A_TURN:
                self._proceed_soon()
        elif self._leaving or (self._ended and self.mode not in _OWES_ANSWER):
            self._transport.close()  # also a watch, which nobody can acknowledge any more
        elif not self._ended:
            self._transport.resume_reading()

    def _proceed_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._proceed)

    def _takes_line(self) -> bool:
        return self.mode in _TAKES_LINES and not (self._full or self._leaving or self._transport.is_closing())

    def _take(self, line: bytes | wire.LineTooLong) -> bytes:
        """Handle one line and return what to send."""
        if isinstance(line, wire.LineTooLong):
            return wire.error(f"The line is too long; at most {self._reader.limit} bytes can be taken. It was ignored")
        if self._first:
            self._first = False
            if wire.looks_like_http(line):
                log.warning("dropped a connection from %s that speaks HTTP", self._peer)
                self._transport.abort()
                return b""
        text = wire.decode(line)
        if self.mode is Mode.FOLLOWING:
            self._end_reading()
            return wire.PROMPT
        if self.mode is Mode.UNACKNOWLEDGED:
            return self._acknowledged(stop=text.lower() == "q")
        return self._answer(self._call, line, text) if text else wire.PROMPT

    def _call(self, line: bytes, text: str) -> Any:
        words = wire.exact_words(line) if line.startswith(b"%") else wire.split_words(text)
        if not words:
            raise Error("No command")
        command, rest = GRAMMAR.find(words)
        return command.call(self._server.tables, rest)

    def _answer(self, function: Callable[..., Any], *args: Any) -> bytes:
        """Return the reply for what `function` returns or raises."""
        try:
            result = function(*args)
            if inspect.iscoroutine(result):
                self._enter(Mode.AT_WORK)
                self._server.run(self._wait_for(result))
                return b""
            self._server.on_change()
            if isinstance(result, Watching):
                return self._begin_watch(result)
            if isinstance(result, Leave):
                return self._leave(result)
            if isinstance(result, Output):
                return self._begin_reading(result.reading)
            return wire.reply(result)
        except Error as error:
            return wire.error(str(error))
        except OSError as error:
            if error.errno in _RESOURCES:
                log.error("a command failed for lack of resources: %s", error)
                return wire.error(f"papad lacks a resource: {error.strerror}; nothing was changed")
            log.exception("internal error; please report this")
        except Exception:
            log.exception("internal error; please report this")
        return wire.error("internal error")

    async def _wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        outcome: Callable[[], Any]
        try:
            result = await coroutine
        except Exception as error:
            outcome = functools.partial(_raise, error)
        else:
            outcome = lambda: result  # noqa: E731
        self._enter(Mode.COMMANDS)
        reply = self._answer(outcome)
        if not self._transport.is_closing():
            self._write(reply)
            self._proceed()
        else:
            self._end_watch()
            self._end_reading()

    def _leave(self, leave: Leave) -> bytes:
        self._leaving = True
        if leave.exit:
            self._server.exit_when_idle = True
        return leave.text.encode()

    # Reading: frames, until there are no more or, when following, until the client sends a line.

    def _begin_reading(self, reading: Reading) -> bytes:
        self._reading = reading
        self._enter(Mode.READING)
        asyncio.get_running_loop().call_soon(self._read_on, reading)
        return b""

    def _read_on(self, reading: Reading) -> None:
        """Write the frames that are available, as long as the client reads them."""
        if self._reading is not reading or self._transport.is_closing():
            return
        gathered: list[bytes] = []
        size = 0
        with contextlib.closing(reading.frames()) as frames:
            for frame in frames:
                gathered.append(frame)
                size += len(frame)
                if size > _FLUSH_SIZE:
                    break
        if gathered:
            self._write(b"".join(gathered))
        if size > _FLUSH_SIZE:
            if not self._full:
                asyncio.get_running_loop().call_soon(self._read_on, reading)
        elif reading.query.follow:
            reading.on_news = functools.partial(self._read_soon, reading)
            if self.mode is Mode.READING:
                self._enter(Mode.FOLLOWING)
            self._proceed()
        else:
            self._write(wire.PROMPT if reading.found else wire.reply(""))
            self._end_reading()
            self._proceed()

    def _read_soon(self, reading: Reading) -> None:
        reading.on_news = lambda: None  # one call is enough
        if not self._full:
            asyncio.get_running_loop().call_soon(self._read_on, reading)

    def _end_reading(self) -> None:
        if self._reading is not None:
            self._reading.end()
            self._reading = None
            self._enter(Mode.COMMANDS)

    # Watching: first line, batch, acknowledgement, batch, …

    def _begin_watch(self, watching: Watching) -> bytes:
        """Begin a watch and return its first line.

        The first batch must not arrive together with it: the original client would not notice it.
        """
        self._watch = watching.watch
        self._enter(Mode.OPENING)
        self._server.run(self._begin_batches(watching.watch))
        return watching.line.encode("utf-8", "surrogateescape") + b"\n"

    async def _begin_batches(self, watch: Watch) -> None:
        """Deliver the first batch once the peer has read the first line.

        No event signals that, so this polls at growing intervals.
        """
        delay = 0.0005
        await asyncio.sleep(0)
        while not self._transport.is_closing() and not self._has_read_all():
            await asyncio.sleep(delay)
            delay = min(delay * 2, 0.05)
        if self._watch is watch:
            loop = asyncio.get_running_loop()
            watch.on_news = functools.partial(loop.call_soon, self._deliver, watch)
            self._deliver(watch)

    def _has_read_all(self) -> bool:
        return self._transport.get_write_buffer_size() == 0 and self._server.peers.has_read_all(self._sock, self._sent)

    def _deliver(self, watch: Watch, *, even_empty: bool = False) -> None:
        """Send a batch if this watch is current and its last batch was acknowledged."""
        if self._watch is not watch or self.mode is Mode.UNACKNOWLEDGED:
            return
        if self._transport.is_closing() or self._ending is not None:
            return
        if not len(watch):
            self._write(self._watched(wire.NOTHING_LEFT))
            self._proceed()
            return
        records = watch.batch()
        if records or even_empty:
            self._enter(Mode.UNACKNOWLEDGED)
            self._cancel_idle()
            self._write(b"".join(records) + wire.BATCH_END)
            self._proceed()
            return
        if self.mode is Mode.OPENING:
            self._enter(Mode.WATCHING)
        if self._idle is None:
            self._idle = asyncio.get_running_loop().call_later(_EMPTY_BATCH_AFTER, self._deliver_empty, watch)

    def _deliver_empty(self, watch: Watch) -> None:
        self._idle = None
        self._deliver(watch, even_empty=True)

    def _acknowledged(self, *, stop: bool) -> bytes:
        watch = self._watch
        assert watch is not None
        try:
            watch.acknowledge()
        except (OSError, Error) as error:
            log.error("cannot record an acknowledgement; its output will be sent again: %s", error)
        self._server.on_change()
        if not len(watch):
            return self._watched(wire.NOTHING_LEFT)
        if stop:
            return self._watched(wire.STOPPED)
        self._enter(Mode.WATCHING)
        asyncio.get_running_loop().call_soon(self._deliver, watch)
        return b""

    def _watched(self, text: str) -> bytes:
        self._end_watch()
        return wire.reply(text)

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.end()
            self._watch = None
            self._enter(Mode.COMMANDS)
            self._cancel_idle()

    def _cancel_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None


def _raise(error: Exception) -> None:
    raise error
