"""Delivers a watch: first line, batch, acknowledgement, batch, …"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from typing import ClassVar

from papad.daemon.delivery.channel import Channel, Mode
from papad.daemon.delivery.watch import MAX_BATCH, Watch
from papad.errors import Error
from papad.protocol import wire

log = logging.getLogger("papad")

_UNREAD = 64 << 20  # bytes that may wait for all watchers together, until batches become small
_SMALL = 64 << 10  # bytes of output in such a batch
_LONGEST_DELAY = 1.0  # seconds
_TRIM_AFTER = 10.0  # seconds after an acknowledgement; sooner, and busy processes would get the same memory again
_EMPTY_BATCH_AFTER = 2.0  # seconds; the original client blocks in `read` after `ready` until then


class Batches:
    """The batches of one watch, each sent once the one before it is acknowledged."""

    def __init__(self, line: str, watch: Watch, channel: Channel) -> None:
        self._line = line
        self._watch = watch
        self._channel = channel
        self._ended = False
        self._idle: asyncio.TimerHandle | None = None  # sends an empty batch after a long silence
        # By the monotonic clock:
        self._silent_since = 0.0  # from then on there was nothing to deliver
        self._trimmed = 0.0  # so far, what is acknowledged will be trimmed; that goes on after the end

    _unacknowledged: ClassVar[set[Batches]] = set()

    def begin(self) -> bytes:
        """Return the first line of the watch.

        The first batch must not arrive together with it: the original client would not notice it.
        """
        self._channel.enter(Mode.OPENING)
        self._channel.run(self._open())
        return self._line.encode("utf-8", "surrogateescape") + b"\n"

    def take(self, line: str) -> bytes:
        """Handle an acknowledgement."""
        self._unacknowledged.discard(self)
        try:
            self._watch.acknowledge()
        except (OSError, Error) as error:
            log.error("cannot record an acknowledgement; its output will be sent again: %s", error)
        self._silent_since = time.monotonic()
        if self._silent_since >= self._trimmed:
            self._trimmed = self._silent_since + _TRIM_AFTER
            asyncio.get_running_loop().call_later(_TRIM_AFTER, _trim, self._watch, self._channel.soon)
        if not len(self._watch):
            return self._last(wire.NOTHING_LEFT)
        if line.lower() == "q":
            return self._last(wire.STOPPED)
        self._channel.enter(Mode.WATCHING)
        self._channel.soon(self._deliver)
        return b""

    def resume(self) -> None:
        """Do nothing: a batch is only sent when the client has read the one before."""

    def end(self) -> None:
        """Stop; what is not acknowledged stays."""
        self._ended = True
        self._unacknowledged.discard(self)
        self._watch.end()
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    async def _open(self) -> None:
        """Deliver the first batch once the peer has read the first line.

        No event signals that, so this polls at growing intervals.
        """
        delay = 0.0005
        await asyncio.sleep(0)
        while not self._channel.closing and not self._channel.has_read_all():
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LONGEST_DELAY)
        if not self._ended:
            self._watch.on_news = functools.partial(self._channel.soon, self._deliver)
            self._deliver()

    def _deliver(self, *, even_empty: bool = False) -> None:
        """Send a batch, unless the last one is not acknowledged."""
        channel = self._channel
        if self._ended or channel.mode is Mode.UNACKNOWLEDGED or channel.closing or channel.draining:
            return
        if not len(self._watch):
            channel.write(self._last(wire.NOTHING_LEFT))
            channel.proceed()
            return
        unread = sum(each._channel.unread for each in self._unacknowledged)
        records = self._watch.batch(max(_SMALL, min(MAX_BATCH, _UNREAD - unread)))
        if records or even_empty:
            channel.enter(Mode.UNACKNOWLEDGED)
            self._unacknowledged.add(self)
            channel.write(b"".join((*records, wire.BATCH_END)))
            channel.proceed()
            return
        if channel.mode is Mode.OPENING:
            channel.enter(Mode.WATCHING)
            self._silent_since = time.monotonic()
        if self._idle is None:
            self._wait_for_silence()

    def _wait_for_silence(self) -> None:
        """Send an empty batch after _EMPTY_BATCH_AFTER; the timer runs on while there is output, and is set anew when it ends."""
        left = self._silent_since + _EMPTY_BATCH_AFTER - time.monotonic()
        self._idle = asyncio.get_running_loop().call_later(left, self._after_silence)

    def _after_silence(self) -> None:
        self._idle = None
        if self._channel.mode is not Mode.WATCHING:
            return  # the next silence sets it
        if time.monotonic() < self._silent_since + _EMPTY_BATCH_AFTER:
            self._wait_for_silence()
        else:
            self._deliver(even_empty=True)

    def _last(self, text: str) -> bytes:
        self._channel.end_delivery()
        return wire.reply(text)


def _trim(watch: Watch, soon: Callable[[Callable[[], object]], None]) -> None:
    if watch.trim():
        soon(functools.partial(_trim, watch, soon))
