"""What a client may do. Each command declares the role that it takes; peers.py tells who has which."""

from __future__ import annotations

import enum


class Role(enum.IntEnum):
    """A role includes those below it."""

    NONE = 0
    """Nothing: the connection is closed."""
    VIEW = 1
    """See what there is, and read output, but change nothing: no acknowledgement counts, and
    arguments and environment of other users' processes are hidden."""
    MANAGE = 2
    """Everything, which makes it root's equal where papad is root's."""

    def __str__(self) -> str:
        return self.name.lower()


MANAGERS, VIEWERS = "papad", "papad-view"
"""The groups whose members have these roles at root's papad."""
