"""The ring: the output of one process, in a memfd, so that it is not papad's memory and outlives it.

Positions count the bytes ever captured. The memfd holds a header, an index of records, then `capacity` bytes of data in which
position P stands at P modulo capacity. An index entry says where a record starts, when it came, and on which stream; it ends
where the next one starts.

The header is one struct written by one pwrite, which SIGKILL cannot cut in two. That makes every change atomic. A capture
has two: `stage` says what the state will be once the bytes are in place, `commit` makes it so. A papad killed in between
leaves a staged ring, which capture.py completes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace

from papad.daemon.durable import parcel

STREAMS = ("out", "err")

_MAGIC = 0x0164617061706701  # any layout change gets another
_FIXED = struct.Struct("=QQQ")  # magic, capacity, index capacity
_STATE = struct.Struct("=9Q")
_STAGED = struct.Struct("=Q")
_ENTRY = struct.Struct("=QQ")  # position, time in ns * 2 + stream
_HEADER_SIZE = 4096
_STATE_OFFSET = 64
_MAX_RECORDS = 1 << 20


@dataclass(frozen=True)
class State:
    """Positions in bytes, and numbers of records, each counted from the beginning of the process."""

    head: int = 0  # the oldest byte kept
    tail: int = 0  # one past the newest
    acked: int = 0  # up to here a watcher has acknowledged
    lost: int = 0  # bytes overwritten before anyone acknowledged them
    first: int = 0  # the oldest record kept
    next: int = 0  # the number the next record gets
    out_forwarded: int = 0  # up to here the stream's lines went to the journal
    err_forwarded: int = 0
    unforwarded: int = 0  # lines that went past the journal


@dataclass(frozen=True)
class Chunk:
    """One record, or what is left of it."""

    position: int
    time: float
    stream: int
    data: bytes


class Ring:
    """A ring over its memfd `fd`, which it owns."""

    def __init__(self, fd: int, *, journal: bool = False) -> None:
        """Take over the memfd of an existing ring, of which lines go to the journal or not.

        Raises ValueError when it is none; then `fd` stays the caller's.
        """
        header = os.pread(fd, _HEADER_SIZE, 0)
        if len(header) < _HEADER_SIZE:
            raise ValueError("the ring's memfd is too short")
        self.capacity: int
        self._records: int
        magic, self.capacity, self._records = _FIXED.unpack_from(header)
        if magic != _MAGIC or not self.capacity or not self._records:
            raise ValueError("the memfd is not a ring")
        self.state = State(*_STATE.unpack_from(header, _STATE_OFFSET))
        (is_staged,) = _STAGED.unpack_from(header, _STATE_OFFSET + _STATE.size)
        staged = State(*_STATE.unpack_from(header, _STATE_OFFSET + _STATE.size + _STAGED.size))
        self.staged = staged if is_staged else None
        self.fd = fd
        self._journal = journal
        self._data = _HEADER_SIZE + self._records * _ENTRY.size

    @classmethod
    def create(cls, capacity: int, *, journal: bool = False) -> Ring:
        """An empty ring for `capacity` bytes of output. Raises OSError (EMFILE, ENOMEM, EFBIG)."""
        records = max(64, min(_MAX_RECORDS, capacity // 64))
        fd = os.memfd_create("papad-ring", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, _HEADER_SIZE + records * _ENTRY.size + capacity)
            parcel.write_all(fd, _FIXED.pack(_MAGIC, capacity, records))
            return cls(fd, journal=journal)
        except BaseException:
            os.close(fd)
            raise

    def close(self, *, empty: bool = False) -> None:
        """Close the memfd; `empty` gives its memory back even while the vault's log still refers to it."""
        fd, self.fd = self.fd, -1
        if empty:
            os.ftruncate(fd, 0)
        os.close(fd)

    def stage(self, size: int, stream: int, time_ns: int) -> None:
        """Make room for `size` bytes (at most `capacity`) and say that they are about to be copied in."""
        state = self.state
        end = state.tail + size
        state = self._without(state, max(state.head, end - self.capacity))
        if state.next - state.first == self._records and not self._joins(state, stream):
            state = self._without(state, self._entry(state.first + 1)[0])
        if state.next - state.first < self._records:
            entry = _ENTRY.pack(state.tail, time_ns * 2 + stream)
            parcel.write_all(self.fd, entry, self._entry_offset(state.next))
            state = replace(state, next=state.next + 1)
        self._save(self.state, replace(state, tail=end))

    def commit(self) -> None:
        """The staged bytes are in place: they are captured."""
        assert self.staged is not None
        self._save(self.staged, None)

    def abandon(self) -> None:
        """The staged bytes could not be stored: count them as lost, and all that is kept with them."""
        assert self.staged is not None
        self._save(self._without(self.staged, self.staged.tail), None)

    @property
    def newest(self) -> float:
        """The time of the newest record there ever was, or 0."""
        return (self._entry(self.state.next - 1)[1] >> 1) / 1e9 if self.state.next else 0.0

    def place(self, position: int) -> tuple[int, int]:
        """The file offset of a position, and the bytes from there to where the data wraps around."""
        at = position % self.capacity
        return self._data + at, self.capacity - at

    def acknowledge(self, start: int, stop: int) -> None:
        """A watcher has what was captured from `start` to `stop`: drop it. What was overwritten meanwhile is not lost."""
        state = self.state
        start = max(start, state.acked)
        if stop <= start:
            return
        delivered_and_overwritten = max(0, min(state.head, stop) - start)
        if stop > state.head:
            state = self._without(state, stop, lose=False)
        self._save(replace(state, acked=stop, lost=state.lost - delivered_and_overwritten), None)

    def forwarded(self, stream: int) -> int:
        """The position up to which the lines of a stream have gone to the journal."""
        return self.state.err_forwarded if stream else self.state.out_forwarded

    def note_forwarded(self, stream: int, position: int, missed: int = 0) -> None:
        """The lines of a stream up to `position` have gone to the journal, but for `missed` ones."""
        field = "err_forwarded" if stream else "out_forwarded"
        self._save(replace(self.state, **{field: position}, unforwarded=self.state.unforwarded + missed), None)

    def read(self, start: int, limit: int) -> Iterator[Chunk]:
        """The records from position `start` on, `limit` bytes at most; the last one may be cut."""
        return self._chunks(self.state, start, limit)

    def _chunks(self, state: State, start: int, limit: int) -> Iterator[Chunk]:
        position = max(start, state.head)
        number = self._number_at(position, state)
        while position < state.tail and limit > 0:
            stop = self._entry(number + 1)[0] if number + 1 < state.next else state.tail
            size = min(stop - position, limit)
            stamp = self._entry(number)[1]
            yield Chunk(position, (stamp >> 1) / 1e9, stamp & 1, self._bytes(position, size))
            position += size
            limit -= size
            number += 1

    def position_at(self, time: float) -> int:
        """Where the first record that came at `time` (seconds since 1970) or later starts; the end if there is none."""
        low, high = self.state.first, self.state.next
        while low < high:
            middle = (low + high) // 2
            if (self._entry(middle)[1] >> 1) / 1e9 < time:
                low = middle + 1
            else:
                high = middle
        return max(self.state.head, self._entry(low)[0]) if low < self.state.next else self.state.tail

    def newest_first(self, stream: int | None) -> Iterator[tuple[float, int, int]]:
        """Time, position and end of the records, of one stream or of both, the newest first."""
        state, end = self.state, self.state.tail
        for number in range(state.next - 1, state.first - 1, -1):
            position, stamp = self._entry(number)
            if stream in (None, stamp & 1):
                yield (stamp >> 1) / 1e9, max(position, state.head), end
            end = position

    def _bytes(self, position: int, size: int) -> bytes:
        offset, room = self.place(position)
        data = os.pread(self.fd, min(size, room), offset)
        if size > room:
            data += os.pread(self.fd, size - room, self._data)
        return data

    def _joins(self, state: State, stream: int) -> bool:
        """Whether new bytes of `stream` may join the newest record, when the index is full."""
        return state.next > state.first and self._entry(state.next - 1)[1] & 1 == stream

    def _without(self, state: State, head: int, *, lose: bool = True) -> State:
        """The state with all before `head` dropped."""
        if head <= state.head:
            return state
        if self._journal:
            state = self._past_journal(state, head)
        lost = state.lost + (head - state.head if lose else 0)
        first = state.next if head >= state.tail else self._number_at(head, state)
        return replace(state, head=head, lost=lost, first=first)

    def _past_journal(self, state: State, head: int) -> State:
        """The state with the lines counted that end before `head` and have not been forwarded."""
        forwarded = [state.out_forwarded, state.err_forwarded]
        missed = 0
        if min(forwarded) < head:
            for chunk in self._chunks(state, min(forwarded), head - max(state.head, min(forwarded))):
                missed += chunk.data.count(b"\n", max(0, forwarded[chunk.stream] - chunk.position))
        out, err = (max(position, head) for position in forwarded)
        return replace(state, out_forwarded=out, err_forwarded=err, unforwarded=state.unforwarded + missed)

    def _number_at(self, position: int, state: State) -> int:
        """The number of the record that `position` is in: the last that starts at or before it."""
        low, high = state.first, state.next
        while high - low > 1:
            middle = (low + high) // 2
            if self._entry(middle)[0] <= position:
                low = middle
            else:
                high = middle
        return low

    def _entry(self, number: int) -> tuple[int, int]:
        position, stamp = _ENTRY.unpack(os.pread(self.fd, _ENTRY.size, self._entry_offset(number)))
        return position, stamp

    def _entry_offset(self, number: int) -> int:
        return _HEADER_SIZE + number % self._records * _ENTRY.size

    def _save(self, state: State, staged: State | None) -> None:
        blank = staged or State()
        header = _STATE.pack(*astuple(state)) + _STAGED.pack(staged is not None) + _STATE.pack(*astuple(blank))
        parcel.write_all(self.fd, header, _STATE_OFFSET)
        self.state, self.staged = state, staged
