"""One connection to papad: commands, answers, watches, output.

`Papa`, papactl and the tests are built on it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from papad.client import trust
from papad.client.address import DEFAULT_PORT, Address, connected, for_people
from papad.errors import BadRequest, ConnectionLost, Error, Refused, TimedOut, Unreachable
from papad.protocol import requests, wire
from papad.protocol.reading import Reading, Selection
from papad.protocol.requests import Word
from papad.protocol.responses import DONE, Batch, Frame, Incoming

T = TypeVar("T")

RECONNECT = 10.0
"""Seconds to keep connecting, because a papad that does not answer may be restarting."""
RETRY_DELAY = 0.05  # seconds between two attempts
_MEMBERS_ONLY = "a member of the group papad"  # how papad's answer ends to who is none


class Closing(ABC):
    """A context manager that calls `close` on exit."""

    @abstractmethod
    def close(self) -> None:
        """Release all resources."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Client(Closing):
    """One connection to papad. It is a context manager, and is not thread-safe."""

    def __init__(self, address: Address = DEFAULT_PORT, timeout: float | None = 10.0) -> None:
        """Connect. `timeout` limits each wait, in seconds.

        Raises Unreachable if nothing answers at the address, Refused if papad rejects this user, or
        if a port is served by a user who is not trusted (trust.py).
        """
        self.address = address
        self.timeout = timeout
        self._incoming = Incoming()
        self.sock = connected(address, timeout)
        try:
            self._wait(self._incoming.answer)
            if isinstance(address, int):
                trust.check(self.sock, address)
        except BaseException as error:
            self.sock.close()
            own = ConnectionLost | Unreachable
            if isinstance(error, Error) and not isinstance(error, own):  # papad sent an error instead of its welcome
                raise Refused(str(error), membership=str(error).endswith(_MEMBERS_ONLY)) from None
            raise

    def close(self) -> None:
        """Close the connection. Records that were not acknowledged will be delivered again."""
        self.sock.close()

    def fileno(self) -> int:
        """Return the file descriptor of the connection, -1 if it is closed."""
        return self.sock.fileno()

    @property
    def fresh(self) -> bool:
        """Whether the connection is open with nothing unread.

        Only then is the next thing that arrives the answer to the next command.
        """
        if self.sock.fileno() < 0 or self._incoming:
            return False
        return not self._readable()

    @property
    def ready(self) -> bool:
        """Whether there is something to read, including the end of the connection."""
        return bool(self._incoming) or self._readable()

    def _readable(self) -> bool:
        """Return whether the socket is readable.

        This uses poll, because select() does not support descriptors above 1,023.
        """
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def command(self, *words: Word, options: Mapping[str, str] | None = None) -> str:
        """Send a command with its words unchanged, and return the answer.

        `options` are inserted where the command takes them: after the name for `make`, otherwise
        after the command. A word that is a pair is an option as well. Do not use this for commands
        that start a watch or follow output. Raises Error with papad's message.
        """
        at = 3 if words and str(words[0]).startswith("m") else 1
        return self.ask(requests.line([*words[:at], *(options or {}).items(), *words[at:]]))

    def plain(self, *words: str) -> str:
        """Send a command as a user would type it, and return the answer.

        Leading words with `=` are options, newlines become spaces, and empty words are dropped.
        """
        if not any(words):
            raise BadRequest("no command")
        return self.ask(wire.join_words(words))

    def ask(self, line: bytes) -> str:
        """Send a complete line and return the answer. If none arrives, close the connection."""
        with self._asking():
            self.send(line)
            return self._wait(self._incoming.answer)

    def describe(self, kind: str, *patterns: str) -> list[dict[str, Any]]:
        """Describe the `sockets`, `processes` or `values` that match, or the `server`."""
        request = requests.describe(kind, *patterns)
        return request.parse(self.ask(request.line))

    def output(self, *patterns: str, **selection: Unpack[Selection]) -> Generator[Frame, None, None]:
        """Read the captured output of the processes that match, by time, without consuming it.

        The connection is closed if the iterator is not read to its end.
        """
        return self.frames(Reading(patterns, **selection).line())

    def follow(
        self,
        *patterns: str,
        timeout: float | None = None,
        reconnect: float = RECONNECT,
        **selection: Unpack[Selection],
    ) -> Generator[Frame, None, None]:
        """Read like `output`, then follow new output, also of processes that are made later.

        It continues after a restart of papad without gap or repeat, and uses a connection of its
        own. Raises TimedOut if nothing arrives for `timeout` seconds, Unreachable if papad does not
        answer for `reconnect` seconds.
        """
        reading = Reading(patterns, follow=True, **selection)
        return read(reading, lambda: connect(self.address, reconnect, self.timeout), timeout)

    def frames(self, line: bytes, timeout: float | None = -1.0) -> Generator[Frame, None, None]:
        """Send an `output` command and yield its frames.

        `timeout` limits the wait for each frame; it defaults to that of the connection.
        """
        with self._asking():
            self.send(line)
            while (frame := self.frame(timeout)) is not DONE:
                yield frame

    def frame(self, timeout: float | None = -1.0) -> Frame:
        """Return the next frame of an `output` command that was sent, or DONE after the last."""
        return self._wait(self._incoming.frame, timeout)

    def begin_watch(self, line: bytes) -> str:
        """Send a command that starts a watch, and return the first line of its answer.

        This reads nothing after that line, so that select() reports the first batch.
        """
        with self._asking():
            self.send(line)
            while (first := self._incoming.line()) is None:
                self._receive(self.timeout, upto=b"\n")
            return first

    def batch(self, timeout: float | None = -1.0) -> Batch:
        """Return the next batch of a watch."""
        return self._wait(self._incoming.batch, timeout)

    def acknowledge(self, *, stop: bool = False) -> None:
        """Acknowledge the last batch; with `stop`, end the watch as well."""
        self.send(b"q\n" if stop else b"\n")

    def drain(self) -> None:
        """Close the connection once papad has read everything that was sent."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
            while self.sock.recv(65536):
                pass
        except OSError:
            pass
        finally:
            self.sock.close()

    def send(self, data: bytes) -> None:
        """Send bytes. Raises ConnectionLost."""
        try:
            self.sock.settimeout(self.timeout)
            self.sock.sendall(data)
        except TimeoutError:
            self.close()  # part of the data may have been sent
            raise self._timed_out() from None
        except OSError:
            raise self._lost() from None

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except Error as error:
            if isinstance(error, ConnectionLost):
                self.close()
            raise
        except BaseException:  # interrupted, or the caller dropped the iterator
            self.close()
            raise

    def _wait(self, take: Callable[[], T | None], timeout: float | None = -1.0) -> T:
        timeout = self.timeout if timeout is not None and timeout < 0 else timeout
        while (taken := take()) is None:
            self._receive(timeout)
        return taken

    def _receive(self, timeout: float | None, upto: bytes = b"") -> None:
        try:
            self.sock.settimeout(timeout)
            size = 1 << 18
            if upto:
                size = self.sock.recv(4096, socket.MSG_PEEK).find(upto) + 1 or 4096
            data = self.sock.recv(size)
        except (TimeoutError, BlockingIOError):  # BlockingIOError if the timeout is 0
            raise self._timed_out() from None
        except OSError:
            data = b""
        try:
            self._incoming.feed(data)
        except ConnectionLost:
            raise self._lost() from None

    def _lost(self) -> ConnectionLost:
        self.sock.close()
        return ConnectionLost(f"{for_people(self.address)} closed the connection")

    def _timed_out(self) -> TimedOut:
        return TimedOut(f"no answer from {for_people(self.address)} in time")


def connect(address: Address, within: float = RECONNECT, timeout: float | None = 10.0) -> Client:
    """Return a new connection. Retry for `within` seconds, because papad may be restarting."""
    deadline = time.monotonic() + within
    while True:
        try:
            client = Client(address, min(timeout or within, max(deadline - time.monotonic(), 0.001)))
        except Refused:
            raise
        except (Unreachable, ConnectionLost) as error:
            if time.monotonic() + RETRY_DELAY > deadline:
                raise Unreachable(f"could not connect to papad in {within:.3g} seconds: {error}") from None
            time.sleep(RETRY_DELAY)
        else:
            client.timeout = timeout
            return client


def read(reading: Reading, connect: Callable[[], Client], timeout: float | None) -> Generator[Frame, None, None]:
    """Yield the frames of a reading. When a connection is lost, resume on a new one."""
    while True:
        with connect() as client:
            try:
                while True:
                    if inquiry := reading.inquiry:
                        reading.locate(inquiry.parse(client.ask(inquiry.line)))
                    frames = client.frames(reading.line(), timeout)
                    for frame in list(frames) if reading.atomic else frames:
                        if reading.take(frame):
                            yield frame
                    if reading.ended():
                        return
            except TimedOut:
                raise
            except ConnectionLost:
                time.sleep(RETRY_DELAY)
