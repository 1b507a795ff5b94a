"""The ring: a memfd with the output of one process, which outlives the daemon.

A position counts the bytes that were ever captured. The memfd holds a header, an index of records,
and `capacity` bytes of data, in which position P is at P modulo capacity. An index entry holds the
start of a record, its time and its stream; a record ends where the next one starts.

The header is one struct that is written with one pwrite, which SIGKILL cannot split, so each change
is atomic. A capture makes two changes: `stage` records the state that applies once the bytes are in
place, `commit` makes it current. A daemon killed in between leaves a staged ring, which capture.py
completes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace

from papad.daemon.durable import parcel

STREAMS = ("out", "err")

_MAGIC = 0x0164617061706701  # changes with the layout
_FIXED = struct.Struct("=QQQ")  # magic, capacity, index capacity
_STATE = struct.Struct("=9Q")
_STAGED = struct.Struct("=Q")
_ENTRY = struct.Struct("=QQ")  # position, time in ns * 2 + stream
_HEADER_SIZE = 4096
_STATE_OFFSET = 64
_MAX_RECORDS = 1 << 20


@dataclass(frozen=True)
class State:
    """Byte positions and record numbers, both counted from the start of the process."""

    head: int = 0  # the oldest byte kept
    tail: int = 0  # one past the newest byte
    acked: int = 0  # where the last acknowledged range ends
    lost: int = 0  # bytes overwritten before a watcher acknowledged them
    first: int = 0  # the oldest record kept
    next: int = 0  # the number of the next record
    out_forwarded: int = 0  # where the lines of `out` that were forwarded to the journal end
    err_forwarded: int = 0
    unforwarded: int = 0  # lines that never reached the journal


@dataclass(frozen=True)
class Chunk:
    """A record, or the part of it that is still kept."""

    position: int
    time: float
    stream: int
    data: bytes


class Ring:
    """A ring in the memfd `fd`, which it owns."""

    # The header in the memfd is the only truth, and it is always valid: `_save` writes the current
    # and the staged state with one pwrite inside a page, so a SIGKILL leaves either the old header
    # or the new one. Bytes and index entries are written before the header that counts them, so
    # whatever the current state of an unstaged ring describes is there. What a SIGKILL leaves:
    #
    # - In `stage`, before `_save`: at most an index entry that no header counts. If the index is
    #   full, the entry has replaced that of the oldest record, which the current state still
    #   counts; the next daemon stages the same bytes again, with the same result, before anything
    #   reads the ring.
    # - Between `stage` and `commit`: a staged ring. Its data area may already be overwritten up to
    #   the head of the staged state, so it must be committed or abandoned before it is read.
    # - In `commit`, `abandon`, `acknowledge` or `note_forwarded`: the state before or after it.
    #
    # The last two save a header that is not staged. They are correct only because a capture runs to
    # its end before anything else does.

    def __init__(self, fd: int, *, journal: bool = False) -> None:
        """Take over the memfd of an existing ring; `journal` tells whether its lines are forwarded.

        Raises ValueError if `fd` is not a ring; then `fd` stays the caller's.
        """
        header = os.pread(fd, _HEADER_SIZE, 0)
        if len(header) < _HEADER_SIZE:
            raise ValueError("the ring's memfd is too short")
        self.capacity: int
        """The size of the data area in bytes."""
        self._records: int
        """The size of the index in entries."""
        magic, self.capacity, self._records = _FIXED.unpack_from(header)
        if magic != _MAGIC or not self.capacity or not self._records:
            raise ValueError("the memfd is not a ring")
        self.state = State(*_STATE.unpack_from(header, _STATE_OFFSET))
        (is_staged,) = _STAGED.unpack_from(header, _STATE_OFFSET + _STATE.size)
        staged = State(*_STATE.unpack_from(header, _STATE_OFFSET + _STATE.size + _STAGED.size))
        self.staged = staged if is_staged else None
        """The state that `commit` makes current, between `stage` and `commit`."""
        self.fd = fd
        self._journal = journal
        # The file offset of the data area.
        self._data = _HEADER_SIZE + self._records * _ENTRY.size

    @classmethod
    def create(cls, capacity: int, *, journal: bool = False) -> Ring:
        """Create an empty ring of `capacity` bytes. Raises OSError (EMFILE, ENOMEM, EFBIG)."""
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
        """Close the memfd; `empty` frees its memory even while the vault's log refers to it."""
        fd, self.fd = self.fd, -1
        if empty:
            os.ftruncate(fd, 0)
        os.close(fd)

    def stage(self, size: int, stream: int, time_ns: int) -> None:
        """Make room for `size` bytes (at most `capacity`) and record where they will end."""
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
        """Make the staged state current: its bytes are in place."""
        assert self.staged is not None
        self._save(self.staged, None)

    def abandon(self) -> None:
        """Empty the ring, counting the staged bytes and all kept ones as lost."""
        assert self.staged is not None
        self._save(self._without(self.staged, self.staged.tail), None)

    @property
    def newest(self) -> float:
        """The time of the newest record ever captured, or 0."""
        return (self._entry(self.state.next - 1)[1] >> 1) / 1e9 if self.state.next else 0.0

    def place(self, position: int) -> tuple[int, int]:
        """Return the file offset of a position, and the bytes from there to the end of the data."""
        at = position % self.capacity
        return self._data + at, self.capacity - at

    def acknowledge(self, start: int, stop: int) -> None:
        """Drop the bytes from `start` to `stop`, which a watcher has received.

        Those that were overwritten in the meantime no longer count as lost.
        """
        state = self.state
        start = max(start, state.acked)
        if stop <= start:
            return
        delivered_and_overwritten = max(0, min(state.head, stop) - start)
        if stop > state.head:
            state = self._without(state, stop, lose=False)
        self._save(replace(state, acked=stop, lost=state.lost - delivered_and_overwritten), None)

    def forwarded(self, stream: int) -> int:
        """Return the position up to which the lines of a stream have been forwarded."""
        return self.state.err_forwarded if stream else self.state.out_forwarded

    def note_forwarded(self, stream: int, position: int, missed: int = 0) -> None:
        """Record that a stream's lines up to `position` were forwarded, except `missed` of them."""
        field = "err_forwarded" if stream else "out_forwarded"
        self._save(replace(self.state, **{field: position}, unforwarded=self.state.unforwarded + missed), None)

    def read(self, start: int, limit: int) -> Iterator[Chunk]:
        """Yield the records from `start` on, at most `limit` bytes; the last may be incomplete."""
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
        """Return where the first record from `time` (seconds since 1970) on starts, or the end."""
        low, high = self.state.first, self.state.next
        while low < high:
            middle = (low + high) // 2
            if (self._entry(middle)[1] >> 1) / 1e9 < time:
                low = middle + 1
            else:
                high = middle
        return max(self.state.head, self._entry(low)[0]) if low < self.state.next else self.state.tail

    def newest_first(self, stream: int | None) -> Iterator[tuple[float, int, int]]:
        """Yield time, start and end of the records of one stream or both, newest first."""
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
        """Return whether new bytes of `stream` may join the newest record if the index is full."""
        return state.next > state.first and self._entry(state.next - 1)[1] & 1 == stream

    def _without(self, state: State, head: int, *, lose: bool = True) -> State:
        """Return the state without the bytes before `head`, which count as lost if `lose`."""
        if head <= state.head:
            return state
        if self._journal:
            state = self._past_journal(state, head)
        lost = state.lost + (head - state.head if lose else 0)
        first = state.next if head >= state.tail else self._number_at(head, state)
        return replace(state, head=head, lost=lost, first=first)

    def _past_journal(self, state: State, head: int) -> State:
        """Return the state with unforwarded lines that end before `head` counted as such."""
        forwarded = [state.out_forwarded, state.err_forwarded]
        missed = 0
        if min(forwarded) < head:
            for chunk in self._chunks(state, min(forwarded), head - max(state.head, min(forwarded))):
                missed += chunk.data.count(b"\n", max(0, forwarded[chunk.stream] - chunk.position))
        out, err = (max(position, head) for position in forwarded)
        return replace(state, out_forwarded=out, err_forwarded=err, unforwarded=state.unforwarded + missed)

    def _number_at(self, position: int, state: State) -> int:
        """Return the number of the record that holds `position`: the last that starts by then."""
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
