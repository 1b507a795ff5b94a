"""Parses what papad sends: answers, batches of a watch, frames of output.

This module does no I/O. The blocking and the asyncio client feed what they receive to an
`Incoming`, and take complete items from it. What clients send is in requests.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Generic, Literal, NamedTuple, TypeVar

from papad.errors import ConnectionLost, Error
from papad.protocol import wire
from papad.protocol.failures import failure

_ANSWER_END = b"\n" + wire.PROMPT
_LAST_WORDS = (b"ok\n", b"Exiting")  # after these papad closes the connection without a prompt


Data = TypeVar("Data", bytes, int)


class ProcessOutput(NamedTuple, Generic[Data]):
    """A piece of output of one process, or in `closed` its exit code, with the time."""

    name: str
    timestamp: float
    data: Data


class Record(NamedTuple):
    """One record of a watch: output of the stream `out` or `err`, or of `closed` the exit code."""

    stream: Literal["out", "err", "closed"]
    name: str
    timestamp: float
    data: bytes | int


class Frame(NamedTuple):
    """One piece of output, as the command `output` delivers it.

    `data` is bytes for `out` and `err`, the number of missing bytes for `lost`, and the exit code
    for `closed` and `exited`. A process that has `exited` is not closed yet, for a descendant holds
    its output. `position` is the number of bytes that the process `id` had written before this
    frame; for `lost`, before the first byte that is not missing.
    """

    kind: Literal["out", "err", "lost", "closed", "exited"]
    name: str
    timestamp: float
    data: bytes | int
    id: int
    position: int

    @property
    def end(self) -> int:
        """The position after this frame."""
        return self.position + (len(self.data) if isinstance(self.data, bytes) else 0)


DONE: Final = Frame("closed", "", 0.0, 0, -1, -1)
"""Returned after the last frame; compare with `is`."""


class Batch(NamedTuple):
    """One batch of records, as they came. `final` is papad's last line about this watch."""

    records: list[Record]
    final: str | None = None


class Incoming:
    """Received bytes that have not been parsed.

    Each method that takes an item returns None until the item is complete.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._records: list[Record] = []  # of a batch that has not ended

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes) -> None:
        """Add received bytes. Empty `data` means that the peer has closed the connection.

        In that case, raises ConnectionLost unless the bytes so far are a complete last answer.
        """
        if data:
            self._data += data
        elif self._data.startswith(_LAST_WORDS) and self._data.endswith(b"\n"):
            self._data += wire.PROMPT
        else:
            raise ConnectionLost("papad closed the connection")

    def answer(self) -> str | None:
        """Take the answer to a command. Raises Error with papad's message if it is an error."""
        if not self._data.endswith(_ANSWER_END):
            return None
        text = self._data.decode("utf-8", "surrogateescape").removesuffix("> ").removesuffix("\n")
        self._data.clear()
        if text.startswith("Error: "):
            raise failure(text.removeprefix("Error: "))
        return text

    def line(self) -> str | None:
        """Take the first line of an answer that starts a watch. Raises Error like `answer`."""
        if self._failed():
            return None
        line = self._take_line()
        return None if line is None else line.decode("utf-8", "surrogateescape")

    def batch(self) -> Batch | None:
        """Take the next batch of a watch."""
        while not self._data.startswith(wire.BATCH_END):
            end = self._data.find(b"\n")
            if end < 0:
                return None
            fields = self._data[:end].decode("utf-8", "surrogateescape")
            kind, _, rest = fields.partition(":")
            name, *numbers = rest.rsplit(":", 2)
            if len(numbers) < 2:
                return self._end_of_watch(fields, end)
            item = self._item(kind, end, int(numbers[1]))
            if item is None:
                return None
            self._records.append(Record(kind, name, float(numbers[0]), item))  # type: ignore[arg-type]
        del self._data[: len(wire.BATCH_END)]
        return self._taken_batch()

    def frame(self) -> Frame | None:
        """Take the next frame of output, or DONE after the last one."""
        if self._failed():
            return None
        for prompt in (wire.PROMPT, _ANSWER_END):
            if self._data.startswith(prompt):
                del self._data[: len(prompt)]
                return DONE
        end = self._data.find(b"\n")
        if end < 1:
            return None
        kind, _, rest = self._data[:end].decode("utf-8", "surrogateescape").partition(":")
        name, timestamp, number, id, position = rest.rsplit(":", 4)
        if kind not in ("out", "err", "lost", "closed", "exited"):
            raise Error(f'papad sent a frame of unknown kind: "{kind}"')
        data = self._item(kind, end, int(number))
        return None if data is None else Frame(kind, name, float(timestamp), data, int(id), int(position))  # type: ignore[arg-type]

    def _failed(self) -> bool:
        """Return whether an error is next, and raise it once it is complete.

        The answer to another line may follow it.
        """
        if not self._data.startswith(b"Error: "):
            return False
        end = self._data.find(_ANSWER_END)
        if end >= 0:
            text = self._data[:end].decode("utf-8", "surrogateescape")
            del self._data[: end + len(_ANSWER_END)]
            raise failure(text.removeprefix("Error: "))
        return True

    def _item(self, kind: str, end: int, number: int) -> bytes | int | None:
        """Take a line that ends at `end`; return the bytes that follow it, or its number."""
        if kind not in ("out", "err"):
            del self._data[: end + 1]
            return number
        stop = end + 1 + number
        if len(self._data) <= stop:
            return None
        data = bytes(self._data[end + 1 : stop])
        del self._data[: stop + 1]
        return data

    def _end_of_watch(self, line: str, end: int) -> Batch | None:
        if len(self._data) < end + 1 + len(wire.PROMPT):
            return None
        del self._data[: end + 1 + len(wire.PROMPT)]
        return self._taken_batch(line)

    def _taken_batch(self, final: str | None = None) -> Batch:
        batch, self._records = Batch(self._records, final), []
        return batch

    def _take_line(self) -> bytes | None:
        end = self._data.find(b"\n")
        if end < 0:
            return None
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        return line


class Handed:
    """The last batch that a watcher handed out.

    papad may not have received its acknowledgement, and then sends it again after a restart.
    """

    def __init__(self) -> None:
        self._records: dict[str, list[Record]] = {}

    def note(self, records: Iterable[Record]) -> None:
        """Remember a batch that is handed out. Its arrival shows that the last was acknowledged."""
        self._records.clear()
        for record in records:
            self._records.setdefault(record.name, []).append(record)

    def strip(self, records: Iterable[Record]) -> list[Record]:
        """Return what of the first batch after a restart was not handed out before.

        For each process, papad starts either with the first record of the batch that was handed
        out, or after its last record.
        """
        new = [rest for record in records if (rest := self._rest(record)) is not None]
        self._records.clear()
        return new

    def _rest(self, record: Record) -> Record | None:
        """Return the new part of a record, or None.

        The record may have grown at its end, and its beginning may have been overwritten.
        """
        for position, old in enumerate(self._records.get(record.name, ())):
            if old.stream != record.stream or old.timestamp != record.timestamp:
                continue
            if isinstance(old.data, bytes) and isinstance(record.data, bytes):
                if record.data.startswith(old.data):
                    rest = record.data[len(old.data) :]
                elif old.data.endswith(record.data):
                    rest = b""
                else:
                    continue
                del self._records[record.name][position]
                return record._replace(data=rest) if rest else None
            if old.data == record.data:
                return None
        return record
