"""Reading captured output: which part of it, and how far it has come, so that it can go on after a restart of papad."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict, Unpack

from papad.protocol.requests import Request, Word, describe, line, option_words, pattern_words
from papad.protocol.responses import Frame


class Selection(TypedDict, total=False):
    """Which part of the captured output to read; times in seconds since 1970."""

    last: int | None
    """Only the newest so many records, of all processes together."""
    bytes: int | None
    """Only the newest so many bytes, of all processes together."""
    since: float | None
    until: float | None
    stream: str | None
    """Only `out`, or only `err`."""
    after: Mapping[int, int] | None
    """Process id to the position from which on to read it."""
    before: Mapping[int, int] | None
    """Process id to the position up to which to read it."""


class Reading:
    """What to read of the captured output, and how far it has come, so that it can go on after a restart of papad."""

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
        """Process id to the position up to which its output was taken."""
        self.begun = False
        self._selection = selection
        self._closed: set[int] = set()

    @property
    def _partial(self) -> bool:
        """Whether it begins with the newest of what there is."""
        return (self._selection.get("last"), self._selection.get("bytes")) != (None, None)

    @property
    def atomic(self) -> bool:
        """Whether it has to be read in one go: the newest of all cannot be continued after a restart."""
        return self._partial and not self.follow

    @property
    def inquiry(self) -> Request[list[dict[str, Any]]] | None:
        """What `locate` must be told before a line is sent, if anything.

        Where only the newest is wanted, to tell later what is old from what is new; and to go on, to forget processes that are gone.
        """
        needed = self.begun or (self.follow and self._partial)
        return describe("processes", *self.patterns) if needed else None

    def locate(self, described: Iterable[Mapping[str, Any]]) -> None:
        """Take note of which processes there are."""
        captured = {each["id"]: each["captured"] for each in described}
        if self.begun:
            self.positions = {id: position for id, position in self.positions.items() if id in captured}
            self._closed &= self.positions.keys()
        else:
            self._start = {id: at for id, at in captured.items() if id not in self.positions}

    def line(self) -> bytes:
        """The command that reads it, or the rest of it."""
        left_out = {"after", "before", *(("last", "bytes") if self.begun else ())}
        options: dict[str, object] = {name: value for name, value in self._selection.items() if name not in left_out}
        words: list[Word] = ["output", *option_words(options | {"follow": 1 if self.follow else None})]
        words += [(f"after.{id}", str(position)) for id, position in self.positions.items()]
        words += [(f"before.{id}", str(position)) for id, position in (self._selection.get("before") or {}).items()]
        if not self.begun and self.follow and self._partial:
            self.positions.update(self._start)
        self.begun = not self.atomic
        return line(words + pattern_words(self.patterns))

    def take(self, frame: Frame) -> bool:
        """Count a frame as taken. False for one that says again what was said before."""
        if frame.kind == "closed":
            if frame.id in self._closed:
                return False
            self._closed.add(frame.id)
        self.positions[frame.id] = max(frame.end, self.positions.get(frame.id, 0))
        return True
