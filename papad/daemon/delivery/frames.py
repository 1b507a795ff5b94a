"""Delivers a reading: frames, until there are no more or, if it follows, until the client sends a line."""

from __future__ import annotations

import contextlib
import time

from papad.daemon.delivery.channel import FLUSH_SIZE, Channel, Mode
from papad.daemon.delivery.reader import Reading
from papad.protocol import wire

_TURN = 0.002  # seconds of frames; then others get a turn


class Frames:
    """The frames of one reading, sent as fast as the client reads them."""

    def __init__(self, reading: Reading, channel: Channel) -> None:
        self._reading = reading
        self._channel = channel
        self._ended = False

    def begin(self) -> bytes:
        """Begin with the next turn of the event loop."""
        self._channel.enter(Mode.READING)
        self.resume()
        return b""

    def take(self, line: str) -> bytes:
        """End following, at any line."""
        self._channel.end_delivery()
        return wire.PROMPT

    def resume(self) -> None:
        """Go on with the next turn of the event loop."""
        self._channel.soon(self._write_on)

    def end(self) -> None:
        """Stop reading."""
        self._ended = True
        self._reading.end()

    def _write_on(self) -> None:
        """Write the frames that are available, as long as the client reads them."""
        channel, reading = self._channel, self._reading
        if self._ended or channel.closing:
            return
        gathered: list[bytes] = []
        size, end, over = 0, time.monotonic() + _TURN, False
        with contextlib.closing(reading.frames()) as frames:
            for frame in frames:
                gathered.append(frame)
                size += len(frame)
                if over := size > FLUSH_SIZE or time.monotonic() >= end:
                    break
        if size:
            channel.write(b"".join(gathered))
        if over or (reading.query.follow and reading.has_news):
            self._unless_full()
        elif reading.query.follow:
            reading.on_news = self._on_news
            if channel.mode is Mode.READING:
                channel.enter(Mode.FOLLOWING)
            channel.proceed()
        else:
            channel.write(wire.PROMPT if reading.found else wire.reply(""))
            channel.end_delivery()
            channel.proceed()

    def _on_news(self) -> None:
        self._reading.on_news = lambda: None  # one call is enough
        self._unless_full()

    def _unless_full(self) -> None:
        if not self._channel.full:
            self.resume()
