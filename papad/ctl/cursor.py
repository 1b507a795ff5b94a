"""How far output has been shown, kept in a file, so that the next papactl goes on exactly there.

A cursor has two positions for each process id, one for each stream: where its next line begins. They
differ while one stream is in the middle of a line. Ids are never used again, not even by a papad
that has lost everything, so an old cursor never applies to a new process.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from papad.ctl.lines import STREAMS, Assembler
from papad.errors import Error
from papad.protocol.responses import Frame

_ENTRY = re.compile(r"(\d{1,19})=(\d{1,19})/(\d{1,19})(/exited|/closed)?", re.ASCII)
_INTERVAL = 0.02  # seconds; a cursor is written this often while output keeps coming
_FEW = 100  # entries that are kept without asking whether their processes still exist


class Reached(NamedTuple):
    """Where the next line of each stream of a process begins, and whether its end was shown.

    `exited` is set once it was shown that it has ended, but a child holds its output.
    """

    out: int = 0
    err: int = 0
    closed: bool = False
    exited: bool = False


class Cursor:
    """Positions by process id. `str` gives the text that `Cursor` takes."""

    def __init__(self, text: str = "") -> None:
        """Raises ValueError."""
        self.reached: dict[int, Reached] = {}
        for word in text.strip().split(",") if text.strip() else []:
            found = _ENTRY.fullmatch(word)
            if found is None:
                raise ValueError(f"not a cursor: {word!r}")
            self.reached[int(found[1])] = Reached(
                int(found[2]), int(found[3]), closed=found[4] == "/closed", exited=found[4] == "/exited"
            )

    def __str__(self) -> str:
        ends = {id: "/closed" if at.closed else "/exited" * at.exited for id, at in self.reached.items()}
        return ",".join(f"{id}={at.out}/{at.err}{ends[id]}" for id, at in self.reached.items())

    @property
    def after(self) -> dict[int, int]:
        """Where to read on."""
        return {id: min(at.out, at.err) for id, at in self.reached.items()}

    def rest(self, frame: Frame) -> Frame | None:
        """Return the part of a frame that the cursor has not passed, or None."""
        at = self.reached.get(frame.id, Reached())
        if frame.kind == "closed":
            return None if at.closed else frame
        if frame.kind == "exited":
            return None if at.exited or at.closed else frame
        if not isinstance(frame.data, bytes):
            return frame
        passed = (at.out if frame.kind == "out" else at.err) - frame.position
        if passed <= 0:
            return frame
        return (
            frame._replace(data=frame.data[passed:], position=frame.position + passed)
            if frame.end > frame.position + passed
            else None
        )

    def advance(self, frame: Frame, assembler: Assembler) -> None:
        """Move past a frame, but not past lines that the assembler still keeps."""
        before = self.reached.get(frame.id, Reached())
        begun = [assembler.begun(frame.id, stream) for stream in STREAMS]
        out, err = (
            max(frame.end, at) if start is None else start
            for start, at in zip(begun, (before.out, before.err), strict=True)
        )
        closed = before.closed or frame.kind == "closed"
        self.reached[frame.id] = Reached(out, err, closed, not closed and (before.exited or frame.kind == "exited"))

    def forget_all_but(self, ids: Iterable[int]) -> None:
        """Forget the processes that no longer exist."""
        kept = set(ids)
        self.reached = {id: at for id, at in self.reached.items() if id in kept}


class CursorFile:
    """A cursor that is kept in a file."""

    def __init__(self, path: str, existing: Callable[[], Iterable[int]]) -> None:
        """Read the cursor, an empty one if there is no file. `existing` returns the ids that papad knows.

        Raises Error.
        """
        self._path = os.path.realpath(path)
        self._existing = existing
        self._saved = 0.0
        self._enough = _FEW
        text = ""
        try:
            with suppress(FileNotFoundError), open(self._path, encoding="ascii") as file:
                text = file.read()
            self.cursor = Cursor(text)
        except OSError as error:
            raise Error(f"cannot read the cursor in {path}: {error.strerror}") from None
        except ValueError:
            raise Error(f"{path} has no cursor of papactl in it; to begin anew, remove it") from None

    def save(self, *, sync: bool = True) -> None:
        """Write the cursor to its file, with `sync` also to the disk. Raises Error.

        What it has passed must have been written before, and flushed.
        """
        if len(self.cursor.reached) > self._enough:
            self.cursor.forget_all_but(self._existing())
            self._enough = 2 * len(self.cursor.reached) + _FEW
        try:
            replace_file(self._path, f"{self.cursor}\n".encode(), sync=sync)
        except OSError as error:
            raise Error(f"cannot write the cursor to {self._path}: {error.strerror}") from None
        self._saved = time.monotonic()

    def save_sometimes(self) -> None:
        """Do so if it was not done for a moment: while output keeps coming, it need not be done for each piece."""
        if time.monotonic() - self._saved > _INTERVAL:
            self.save(sync=False)


def replace_file(path: str, data: bytes, *, sync: bool = True) -> None:
    """Write a file so that there is always a whole one, the old or the new. Raises OSError."""
    folder, name = os.path.split(path)
    new = os.path.join(folder, f".{name}.new")
    with open(new, "wb") as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    os.rename(new, path)
