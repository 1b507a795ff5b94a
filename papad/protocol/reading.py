"""Reading captured output: what to read, and the positions reached, to resume after a restart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict, Unpack

from papad.protocol.requests import Request, Word, describe, line, option_words, pattern_words
from papad.protocol.responses import Frame


class Selection(TypedDict, total=False):
    """Which part of the captured output to read. Times are in seconds since 1970."""

    last: int | None
    """Read only this many of the newest pieces of output, over all processes together."""
    bytes: int | None
    """Read only this many of the newest bytes, over all processes together."""
    since: float | None
    until: float | None
    stream: str | None
    """Read only `out` or only `err`."""
    after: Mapping[int, int] | None
    """Process id to the position to start reading at."""
    before: Mapping[int, int] | None
    """Process id to the position to stop reading at."""


class Reading:
    """What to read of the captured output, and the positions reached.

    This is enough to resume after a restart of papad.
    """

    def __init__(
        self, patterns: tuple[object, ...] = (), *, follow: bool = False, **selection: Unpack[Selection]
    ) -> None:
        if unknown := selection.keys() - Selection.__annotations__.keys():
            raise TypeError(
                f"output can be selected by {', '.join(Selection.__annotations__)}, not by {', '.join(unknown)}"
            )
        self.patterns = patterns
        self.follow = follow
        self.positions = dict(selection.get("after") or {})
        """Process id to the position that the reading has reached."""
        self.begun = False
        """Whether `line` asks only for what is left. A follower of the newest first reads what exists."""
        self._start: dict[int, int] = {}
        self._selection = selection
        self._ended: set[tuple[str, int]] = set()  # the frames `closed` and `exited`, by kind and process id

    @property
    def _partial(self) -> bool:
        """Whether the reading starts with only the newest of the existing output."""
        return (self._selection.get("last"), self._selection.get("bytes")) != (None, None)

    @property
    def atomic(self) -> bool:
        """Whether the frames must be read in one go.

        A reading of only the newest output cannot resume in the middle after a restart.
        """
        return self._partial and not self.begun

    @property
    def inquiry(self) -> Request[list[dict[str, Any]]] | None:
        """The request whose answer `locate` needs before a line is sent, or None.

        A follower of only the newest output needs it to tell old output from new. A reading that
        resumes needs it to forget processes that no longer exist.
        """
        needed = self.begun or (self.follow and self._partial)
        return describe("processes", *self.patterns) if needed else None

    def locate(self, described: Iterable[Mapping[str, Any]]) -> None:
        """Record which processes exist, and how much of each has been captured."""
        captured = {each["id"]: each["captured"] for each in described}
        if self.begun:
            self.positions = {id: position for id, position in self.positions.items() if id in captured}
            self._ended = {(kind, id) for kind, id in self._ended if id in self.positions}
        else:
            self._start = {id: at for id, at in captured.items() if id not in self.positions}

    def line(self) -> bytes:
        """Return the command line that reads the selected output, or the rest of it.

        A follower of the newest output ends with an empty line what it begins: papad takes that line
        once all existing output is sent, and its prompt tells that nothing of it was cut off.
        """
        left_out = {"after", "before", *(("last", "bytes") if self.begun else ())}
        options: dict[str, object] = {name: value for name, value in self._selection.items() if name not in left_out}
        words: list[Word] = ["output", *option_words(options | {"follow": 1 if self.follow else None})]
        words += [(f"after.{id}", str(position)) for id, position in self.positions.items()]
        words += [(f"before.{id}", str(position)) for id, position in (self._selection.get("before") or {}).items()]
        end = b"\n" if self.atomic and self.follow else b""
        self.begun = not self.atomic
        return line(words + pattern_words(self.patterns)) + end

    def ended(self) -> bool:
        """Note that all frames were taken. Return False if a follower has only begun by that."""
        if self.begun or not self.follow:
            return True
        self.positions |= {id: max(at, self.positions.get(id, 0)) for id, at in self._start.items()}
        self.begun = True
        return False

    def take(self, frame: Frame) -> bool:
        """Mark a frame as read. Return False if it repeats an earlier `closed` or `exited` frame."""
        if frame.kind in ("closed", "exited"):
            if (frame.kind, frame.id) in self._ended:
                return False
            self._ended.add((frame.kind, frame.id))
        self.positions[frame.id] = max(frame.end, self.positions.get(frame.id, 0))
        return True
