"""One client's connection: its lines through the grammar, their replies, what it watches, what it reads.

    mode             what the next line is                        what comes next
    COMMANDS         a command                                    AT_WORK, OPENING, READING
    AT_WORK          left waiting, for a command has to wait      COMMANDS
    OPENING          left waiting: the client has not taken the   WATCHING, UNACKNOWLEDGED; COMMANDS if nothing is left to watch
                     first line of its watch yet
    WATCHING         left waiting: there is nothing to deliver    UNACKNOWLEDGED, COMMANDS
    UNACKNOWLEDGED   the acknowledgement of a batch               WATCHING, COMMANDS
    READING          left waiting, until the output is written    COMMANDS, FOLLOWING
    FOLLOWING        the end of following                         COMMANDS

Any other change of mode is a bug, and raises. Beside its mode a connection has flags about its transport.

Bounds: one line of wire.MAX_LINE bytes; nothing more is read from a client that does not take its answers, nor while its next line
is left waiting.
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

from papad.daemon.commands.table import GRAMMAR, Kernel, Leave, Output, Watching
from papad.daemon.delivery.reader import Reading
from papad.daemon.delivery.watch import Watch
from papad.daemon.peers import Peer, Peers
from papad.errors import Error
from papad.protocol import wire

log = logging.getLogger("papad")

_LINES_A_TURN = 1000  # then the other connections get theirs
_FLUSH_SIZE = 256 * 1024
_QUIET = 0.1  # seconds without a word from a client, when papad ends: it is not in the middle of asking
_EMPTY_BATCH_AFTER = 2.0  # seconds; the original client's `ready` makes its owner block in `read` until then
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
    """What a connection is at; see the module."""

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
    """A bug: something happened that cannot happen in this mode."""


class Host(Protocol):
    """The server, as far as a connection knows it."""

    kernel: Kernel
    peers: Peers
    exit_when_idle: bool
    on_change: Callable[[], None]

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something on the side."""

    def left(self, connection: Connection) -> None:
        """A connection is gone."""


class Connection(asyncio.Protocol):
    """One client. Its lines are taken one at a time, each answered before the next."""

    def __init__(self, server: Host, sock: socket.socket, peer: Peer) -> None:
        self._server = server
        self._sock = sock
        self._peer = peer
        self._transport: asyncio.Transport
        self._sent = 0  # bytes
        self._reader = wire.LineReader()
        self._lines: deque[bytes | wire.LineTooLong] = deque()
        self._first = True  # the next line is the first, which may be that of a browser
        self.mode = Mode.COMMANDS
        self._full = False  # the client does not take its answers
        self._ended = False  # the client sends no more
        self._leaving = False  # we close when the last answer is written
        self._scheduled = False
        self._watch: Watch | None = None  # while OPENING, WATCHING, UNACKNOWLEDGED
        self._idle: asyncio.TimerHandle | None = None  # to the empty batch that ends a long silence
        self._reading: Reading | None = None  # while READING, FOLLOWING
        self._ending: asyncio.TimerHandle | None = None  # papad ends; so do we when nothing has come for a while

    def _enter(self, mode: Mode) -> None:
        """Go on to `mode`. Raises IllegalTransition where the table has no such step."""
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
        return True  # what was asked is still answered

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._reading is not None:
            asyncio.get_running_loop().call_soon(self._read_on, self._reading)
        self._proceed_soon()  # not now: asyncio is in the middle of a write of its own

    def connection_lost(self, exc: Exception | None) -> None:
        self._lines.clear()
        if self._ending is not None:
            self._ending.cancel()
        self._end_watch()
        self._end_reading()
        self._server.left(self)

    def end_when_quiet(self) -> None:
        """papad ends. Close after _QUIET seconds in which the client has said nothing, was owed nothing, and got no new batch."""
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
        """Take as many lines as can be taken now, and read more only when they are all done."""
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
            self._transport.close()  # also a watch that nobody will acknowledge any more
        elif not self._ended:
            self._transport.resume_reading()

    def _proceed_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._proceed)

    def _takes_line(self) -> bool:
        return self.mode in _TAKES_LINES and not (self._full or self._leaving or self._transport.is_closing())

    def _take(self, line: bytes | wire.LineTooLong) -> bytes:
        """What is to be sent for one line."""
        if isinstance(line, wire.LineTooLong):
            return wire.error(f"The line is too long; at most {self._reader.limit} bytes can be taken. It was ignored")
        if self._first:
            self._first = False
            if wire.looks_like_http(line):
                log.warning("dropped a connection of %s that speaks HTTP", self._peer)
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
        return command.call(self._server.kernel, rest)

    def _answer(self, function: Callable[..., Any], *args: Any) -> bytes:
        """The reply for what `function` returns or raises."""
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
                log.error("a command failed for want of resources: %s", error)
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

    # Output: frames, until there are no more; or, following, until the client sends a line.

    def _begin_reading(self, reading: Reading) -> bytes:
        self._reading = reading
        self._enter(Mode.READING)
        asyncio.get_running_loop().call_soon(self._read_on, reading)
        return b""

    def _read_on(self, reading: Reading) -> None:
        """Write what there is to read, as long as the client takes it."""
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
        reading.on_news = lambda: None  # once is enough
        if not self._full:
            asyncio.get_running_loop().call_soon(self._read_on, reading)

    def _end_reading(self) -> None:
        if self._reading is not None:
            self._reading.end()
            self._reading = None
            self._enter(Mode.COMMANDS)

    # Watching: first line, batch, acknowledgement, batch, …

    def _begin_watch(self, watching: Watching) -> bytes:
        """The first batch must not arrive together with the first line: the original client would not notice it."""
        self._watch = watching.watch
        self._enter(Mode.OPENING)
        self._server.run(self._begin_batches(watching.watch))
        return watching.line.encode("utf-8", "surrogateescape") + b"\n"

    async def _begin_batches(self, watch: Watch) -> None:
        """Wait until the peer has taken the first line. No event tells this of TCP, so we ask, ever more rarely."""
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
        """Send what there is, if this is still the watch and its last batch was acknowledged."""
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
            log.error("an acknowledgement could not be recorded, so its output comes again: %s", error)
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
