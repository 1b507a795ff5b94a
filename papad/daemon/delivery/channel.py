"""The modes of a connection, and what a delivery uses of it.

    mode             the next line is                            next mode
    COMMANDS         a command                                   AT_WORK, OPENING, READING
    AT_WORK          kept: a command is still at work            COMMANDS
    OPENING          kept: the client has not yet read the       WATCHING, UNACKNOWLEDGED;
                     first line of its watch                     COMMANDS if nothing is left
    WATCHING         kept: there is nothing to deliver           UNACKNOWLEDGED, COMMANDS
    UNACKNOWLEDGED   the acknowledgement of a batch              WATCHING, COMMANDS
    READING          kept until the output is written            COMMANDS, FOLLOWING
    FOLLOWING        the end of following                        COMMANDS

Any other change of mode is a bug and raises.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

FLUSH_SIZE = 256 * 1024
"""Bytes that are gathered before they are written."""


class Mode(enum.Enum):
    """The mode of a connection; see the module's docstring."""

    COMMANDS = "commands"
    AT_WORK = "at work"
    OPENING = "opening"
    WATCHING = "watching"
    UNACKNOWLEDGED = "unacknowledged"
    READING = "reading"
    FOLLOWING = "following"

    __hash__ = object.__hash__  # that of an Enum is written in Python


TRANSITIONS = {
    Mode.COMMANDS: {Mode.AT_WORK, Mode.OPENING, Mode.READING},
    Mode.AT_WORK: {Mode.COMMANDS},
    Mode.OPENING: {Mode.WATCHING, Mode.UNACKNOWLEDGED, Mode.COMMANDS},
    Mode.WATCHING: {Mode.UNACKNOWLEDGED, Mode.COMMANDS},
    Mode.UNACKNOWLEDGED: {Mode.WATCHING, Mode.COMMANDS},
    Mode.READING: {Mode.COMMANDS, Mode.FOLLOWING},
    Mode.FOLLOWING: {Mode.COMMANDS},
}


class IllegalTransition(Exception):
    """A bug: something happened that this mode does not allow."""


class Channel(Protocol):
    """The part of a connection that a delivery uses."""

    mode: Mode

    @property
    def full(self) -> bool:
        """Whether the client is not reading what it gets."""

    @property
    def closing(self) -> bool:
        """Whether nothing can be written any more."""

    @property
    def draining(self) -> bool:
        """Whether papad is stopping, so that no new batch may be delivered."""

    def enter(self, mode: Mode) -> None:
        """Change to `mode`. Raises IllegalTransition if the table has no such transition."""

    def write(self, data: bytes) -> None:
        """Send bytes to the client."""

    @property
    def unread(self) -> int:
        """How many bytes wait in memory for the client to read."""

    def has_read_all(self) -> bool:
        """Return whether the client has read everything that was written."""

    def proceed(self) -> None:
        """Take the lines that this mode lets through."""

    def end_delivery(self) -> None:
        """End the current delivery, if any, and return to COMMANDS."""

    def soon(self, callback: Callable[[], object]) -> None:
        """Call `callback` once all that is ready now was handled."""

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background."""


class Delivery(Protocol):
    """What a connection sends by itself, as it comes, until it has all been sent or the client ends it."""

    def begin(self) -> bytes:
        """Begin; return what to send first."""

    def take(self, line: str) -> bytes:
        """Handle a line that the client sends meanwhile; return what to send."""

    def resume(self) -> None:
        """Go on, because the client reads again."""

    def end(self) -> None:
        """Stop."""
