"""Talking to papad over one connection: commands, answers, watches, output. What `Papa`, `papactl` and the tests are built on."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from papad.client.address import DEFAULT_PORT, Address, connected, for_people
from papad.errors import ConnectionLost, Error, Refused, TimedOut, Unreachable
from papad.protocol import requests, wire
from papad.protocol.reading import Reading, Selection
from papad.protocol.requests import Word
from papad.protocol.responses import DONE, Batch, Frame, Incoming

T = TypeVar("T")

RECONNECT = 10.0
"""Seconds for which a papad that does not answer is believed to be restarting."""
RETRY_DELAY = 0.05  # seconds between two attempts


class Closing(ABC):
    """A context manager that is closed at its end."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what it holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Client(Closing):
    """One connection to a papad. A context manager; not for several threads at once."""

    def __init__(self, address: Address = DEFAULT_PORT, timeout: float | None = 10.0) -> None:
        """Connect. `timeout` is in seconds, for each wait.

        Raises Unreachable when nobody answers there, Refused if papad rejects this user.
        """
        self.address = address
        self.timeout = timeout
        self._incoming = Incoming()
        self.sock = connected(address, timeout)
        try:
            self._wait(self._incoming.answer)
        except BaseException as error:
            self.sock.close()
            if type(error) is Error:  # what papad says instead of its welcome
                raise Refused(str(error)) from None
            raise

    def close(self) -> None:
        """End the connection. What a watch delivered and nobody acknowledged will be delivered again."""
        self.sock.close()

    def fileno(self) -> int:
        """The connection's file number; -1 when it is closed."""
        return self.sock.fileno()

    @property
    def fresh(self) -> bool:
        """Whether the connection stands, with nothing unread: a command can be sent and its answer will be what comes."""
        if self.sock.fileno() < 0 or self._incoming:
            return False
        return not self._readable()

    @property
    def ready(self) -> bool:
        """Whether there is something to read, the end of the connection included."""
        return bool(self._incoming) or self._readable()

    def _readable(self) -> bool:
        """Whether there is something to receive. select() would not do: it knows no file number above 1,023."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def command(self, *words: Word, options: Mapping[str, str] | None = None) -> str:
        """Send one command, its words exactly as they are, and return the answer. Raises Error with what papad says.

        `options` go where the command takes them: after the name with `make`, after the command otherwise; a word that is a pair is an
        option, too. Not for commands that begin to watch or follow: these answer with more than an answer.
        """
        at = 3 if words and str(words[0]).startswith("m") else 1
        return self.ask(requests.line([*words[:at], *(options or {}).items(), *words[at:]]))

    def plain(self, *words: str) -> str:
        """The same as somebody would type it: leading words with `=` are options, newlines turn to blanks, empty words are lost."""
        if not any(words):
            raise Error("no command")
        return self.ask(wire.join_words(words))

    def ask(self, line: bytes) -> str:
        """Send a complete line and return the answer. Where none comes, the connection is of no more use, and closed."""
        with self._asking():
            self.send(line)
            return self._wait(self._incoming.answer)

    def describe(self, kind: str, *patterns: str) -> list[dict[str, Any]]:
        """Everything known about `sockets`, `processes`, `values` (those that match), or `server`."""
        request = requests.describe(kind, *patterns)
        return request.parse(self.ask(request.line))

    def output(self, *patterns: str, **selection: Unpack[Selection]) -> Generator[Frame, None, None]:
        """The output that papad holds of the processes that match, by time; nothing is consumed.

        An iterator that is not read to its end takes the connection with it.
        """
        return self.frames(Reading(patterns, **selection).line())

    def follow(
        self,
        *patterns: str,
        timeout: float | None = None,
        reconnect: float = RECONNECT,
        **selection: Unpack[Selection],
    ) -> Generator[Frame, None, None]:
        """The same, and what comes, of processes made later too; goes on over restarts of papad without gap or repeat.

        It has a connection of its own. Raises TimedOut when nothing comes for `timeout` seconds, Unreachable when papad is gone
        for `reconnect` seconds.
        """
        reading = Reading(patterns, follow=True, **selection)
        return read(reading, lambda: connect(self.address, reconnect, self.timeout), timeout)

    def frames(self, line: bytes, timeout: float | None = -1.0) -> Generator[Frame, None, None]:
        """Send an `output` command and give its frames; `timeout` is for each, by default that of the connection."""
        with self._asking():
            self.send(line)
            while (frame := self._wait(self._incoming.frame, timeout)) is not DONE:
                yield frame

    def begin_watch(self, line: bytes) -> str:
        """Send a command that begins to watch, and return its first line. Nothing after that line is read yet.

        So that select() tells of the first batch.
        """
        with self._asking():
            self.send(line)
            while (first := self._incoming.line()) is None:
                self._receive(self.timeout, upto=b"\n")
            return first

    def batch(self, timeout: float | None = -1.0) -> Batch:
        """The next batch of a watch."""
        return self._wait(self._incoming.batch, timeout)

    def acknowledge(self, *, stop: bool = False) -> None:
        """Acknowledge the last batch; with `stop`, end the watch as well."""
        self.send(b"q\n" if stop else b"\n")

    def drain(self) -> None:
        """Close, but only once papad has read everything that was sent."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
            while self.sock.recv(65536):
                pass
        except OSError:
            pass
        finally:
            self.sock.close()

    def send(self, data: bytes) -> None:
        """Send bytes; raises ConnectionLost."""
        try:
            self.sock.settimeout(self.timeout)
            self.sock.sendall(data)
        except TimeoutError:
            self.close()  # a part of it may have been sent
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
        except BaseException:  # interrupted, or nobody wants the rest
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
        except (TimeoutError, BlockingIOError):  # the latter with a timeout of 0
            raise self._timed_out() from None
        except OSError:
            data = b""
        try:
            self._incoming.feed(data)
        except ConnectionLost:
            raise self._lost() from None

    def _lost(self) -> ConnectionLost:
        self.sock.close()
        return ConnectionLost(f"{for_people(self.address)} ended the connection")

    def _timed_out(self) -> TimedOut:
        return TimedOut(f"no answer from {for_people(self.address)} in time")


def connect(address: Address, within: float = RECONNECT, timeout: float | None = 10.0) -> Client:
    """A new connection, tried again and again for `within` seconds where nobody answers: papad may be restarting."""
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
    """The frames of a reading; on a new connection whenever papad ends the old one, from where it stood."""
    while True:
        with connect() as client:
            try:
                if inquiry := reading.inquiry:
                    reading.locate(inquiry.parse(client.ask(inquiry.line)))
                frames = client.frames(reading.line(), timeout)
                for frame in list(frames) if reading.atomic else frames:
                    if reading.take(frame):
                        yield frame
                return
            except TimedOut:
                raise
            except ConnectionLost:
                time.sleep(RETRY_DELAY)
