"""A connected socket as two streams of bytes, with what asyncio's transports give a protocol.

Those allocate 256 KiB for each read, and take a task to begin with, which together cost more than
papad's answer.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol

_READ = 64 * 1024  # bytes at once
_HIGH, _LOW = 64 * 1024, 16 * 1024  # bytes that wait to be sent: above the former it is full, until the latter


class User(Protocol):
    """Who reads from a stream and writes to it."""

    def data_received(self, data: bytes) -> None:
        """Handle bytes that have come."""

    def eof_received(self) -> None:
        """Handle that no more will come. What is written is still sent."""

    def pause_writing(self) -> None:
        """Handle that the peer does not read: what is written has to wait in memory."""

    def resume_writing(self) -> None:
        """Handle that it reads again."""

    def connection_lost(self) -> None:
        """Handle that the stream has ended."""


class Stream:
    """Both directions of a socket, which becomes the stream's. It reads from the beginning."""

    def __init__(self, sock: socket.socket, user: User) -> None:
        """`sock` must not block. `user` is called by the event loop, and by `write` where that is full."""
        self._sock, self._user = sock, user
        self._loop = asyncio.get_running_loop()
        self._unsent = bytearray()
        self._full = False
        self.reading = False
        """Whether it reads: from the beginning, but for pauses."""
        self._ended = False  # connection_lost was called, or will be
        self.closing = False
        """Whether nothing can be written any more."""
        self.written = 0
        """How many bytes were written so far, sent or not."""
        self.resume_reading()

    @property
    def unsent(self) -> int:
        """How many bytes wait in memory for the peer to read."""
        return len(self._unsent)

    def pause_reading(self) -> None:
        """Read no more, until resume_reading."""
        if self.reading:
            self.reading = False
            self._loop.remove_reader(self._sock)

    def resume_reading(self) -> None:
        """Go on reading. After the end of what the peer sends, that must not be called any more."""
        if not (self.reading or self.closing):
            self.reading = True
            self._loop.add_reader(self._sock, self._readable)

    def write(self, data: bytes) -> None:
        """Send bytes, now as far as they are taken."""
        if self.closing or not data:
            return
        self.written += len(data)
        if not self._unsent:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.abort()
                return
            if sent == len(data):
                return
            data = data[sent:]
            self._loop.add_writer(self._sock, self._writable)
        self._unsent += data
        if len(self._unsent) > _HIGH and not self._full:
            self._full = True
            self._user.pause_writing()

    def close(self) -> None:
        """Read no more, and end once everything is sent."""
        if not self.closing:
            self.pause_reading()
            self.closing = True
            if not self._unsent:
                self._end()

    def abort(self) -> None:
        """End now; what is not sent is dropped."""
        self.pause_reading()
        self.closing = True
        if self._unsent:
            self._unsent.clear()
            self._loop.remove_writer(self._sock)
        self._end()

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        try:
            if data:
                self._user.data_received(data)
            else:
                self.pause_reading()
                self._user.eof_received()
        except BaseException:
            self.abort()
            raise

    def _writable(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._sock)
            if self.closing:
                self._end()
                return
        if self._full and not self.closing and len(self._unsent) <= _LOW:
            self._full = False
            self._user.resume_writing()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._loop.call_soon(self._lost)

    def _lost(self) -> None:
        try:
            self._user.connection_lost()
        finally:
            self._sock.close()
