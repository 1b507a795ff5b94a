"""The ring: a range of the store with the output of one process.

A position counts the bytes that were ever captured. The range holds a header, an index of records,
and `capacity` bytes of data, in which position P is at P modulo capacity. An index entry (index.py)
holds the start of a record, its time and its stream; a record ends where the next one starts.

What is overwritten goes line by line, so that nobody reads the end of a line whose beginning is
gone, or else record by record. Only what is longer than _LINE bytes, or than the ring, is cut.

The header is one struct that is written with one pwrite, which SIGKILL cannot split, so each change
is atomic. A capture makes two changes: `stage` records the state that applies once the bytes are in
place, `commit` makes it current. A daemon killed in between leaves a staged ring, which capture.py
completes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from papad.daemon.durable import parcel
from papad.daemon.durable.store import Store, punch_around
from papad.daemon.output.index import ENTRY, Index

STREAMS = ("out", "err")

_MAGIC = 0x0164617061706701  # changes with the layout
_FIXED = struct.Struct("=QQQ")  # magic, capacity, index capacity
_UNSTAGED = struct.Struct("=10Q")  # the current state, and 0
_STAGED = struct.Struct("=19Q")  # the current state, 1, and the staged state
_HEADER_SIZE = 4096
_STATE_OFFSET = 64
_MAX_RECORDS = 1 << 20
_LINE = 4096


class State(NamedTuple):
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


class Chunk(NamedTuple):
    """A record, or the part of it that is still kept."""

    position: int
    time: float
    stream: int
    data: bytes


class Ring:
    """A ring in a range of the store."""

    # The header in the store is the only truth, and it is always valid: `_save` writes the current
    # and the staged state with one pwrite inside a page, so a SIGKILL leaves either the old header
    # or the new one. Bytes and index entries are written before the header that counts them, so
    # whatever the current state of an unstaged ring describes is there. What a SIGKILL leaves:
    #
    # - In `stage`, before the ring is staged: at most an index entry that no header counts. If the
    #   index was full, the records that make room are gone already, and counted as lost.
    # - Between `stage` and `commit`: a staged ring. Its data area may already be overwritten up to
    #   the head of the staged state, so it must be committed before it is read.
    # - In `commit`, `acknowledge` or `note_forwarded`: the state before or after it.
    #
    # The last two save a header that is not staged. They are correct only because a capture runs to
    # its end before anything else does.

    def __init__(self, fd: int, start: int, *, journal: bool = False) -> None:
        """Read the ring that starts at `start` in the store's file `fd`, which stays the store's.

        `journal` tells whether its lines are forwarded. Raises ValueError if there is no ring.
        """
        header = os.pread(fd, _HEADER_SIZE, start)
        if len(header) < _HEADER_SIZE:
            raise ValueError("the store is too short for this ring")
        self.capacity: int
        """The size of the data area in bytes."""
        magic, self.capacity, records = _FIXED.unpack_from(header)
        if magic != _MAGIC or not self.capacity or not records:
            raise ValueError("there is no ring in the store")
        words = _STAGED.unpack_from(header, _STATE_OFFSET)
        self.state = State(*words[:9])
        self.staged = State(*words[10:]) if words[9] else None
        """The state that `commit` makes current, between `stage` and `commit`."""
        self.fd = fd
        """The store's file."""
        self.start = start
        """Where its range starts."""
        self._journal = journal
        self._index = Index(fd, start + _HEADER_SIZE, records)
        # The file offset of the data area.
        self._data = start + _HEADER_SIZE + records * ENTRY.size

    @classmethod
    def create(cls, store: Store, capacity: int, *, journal: bool = False) -> Ring:
        """Create an empty ring of `capacity` bytes. Raises OSError (ENOMEM, EFBIG).

        Its range is the caller's, who frees it or records it; see `range`.
        """
        records = max(64, min(_MAX_RECORDS, capacity // 64))
        start = store.allocate(_HEADER_SIZE + records * ENTRY.size + capacity)
        parcel.write_all(store.fd, _FIXED.pack(_MAGIC, capacity, records), start)
        return cls(store.fd, start, journal=journal)

    @property
    def range(self) -> tuple[int, int]:
        """Start and size of its range in the store."""
        return self.start, self._data + self.capacity - self.start

    def stage(self, size: int, stream: int, time_ns: int) -> None:
        """Make room for `size` bytes (at most `capacity`) and record where they will end."""
        state = self.state
        number, tail = state.next, state.tail
        if tail + size - state.head > self.capacity:
            state = self._without(state, self._whole(state, tail + size - self.capacity))
        if number - state.first == self._index.size and not self._joins(state, stream):
            state = self._without(state, self._entry(state.first + 1, state)[0])
        if number - state.first < self._index.size:
            if number - self.state.first == self._index.size:
                self._save(state, None)  # the entry replaces that of the oldest record
            self._index.put(number, tail, time_ns * 2 + stream)
            number += 1
        staged = State(state.head, tail + size, state.acked, state.lost, state.first, number, *state[6:])
        self._save(self.state, staged)

    def commit(self, missing: int = 0) -> None:
        """Make the staged state current: its bytes are in place, but for the last `missing` ones.

        Those are lost, and the rest of the ring stays.
        """
        assert self.staged is not None
        staged = self.staged
        if missing:
            tail = staged.tail - missing
            begun = staged.next > self.state.next and tail > self.state.tail
            staged = staged._replace(tail=tail, lost=staged.lost + missing, next=self.state.next + begun)
        self._save(staged, None)

    def abandon(self) -> None:
        """Count all staged bytes as lost, because nobody knows how many of them are in place."""
        assert self.staged is not None
        self.commit(missing=self.staged.tail - self.state.tail)

    def lose(self, size: int) -> None:
        """Count `size` bytes as lost that never came here."""
        self._save(self.state._replace(lost=self.state.lost + size), None)

    @property
    def newest(self) -> float:
        """The time of the newest record ever captured, or 0."""
        next = self.state.next
        return (self._index.read(next - 1, next - 1, next)[1] >> 1) / 1e9 if next else 0.0

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
        lost = state.lost - delivered_and_overwritten
        self._save(State(state.head, state.tail, stop, lost, *state[4:]), None)

    def trim(self) -> None:
        """Give back the memory of what is not kept any more, which the ring would fill again in its turn.

        Raises OSError. The ring must not be staged.
        """
        state = self.state
        self._index.trim(state.first, state.next)
        free = self.capacity - (state.tail - state.head)
        punch_around(self.fd, self._data, self.capacity, state.tail % self.capacity, free)

    def forwarded(self, stream: int) -> int:
        """Return the position up to which the lines of a stream have been forwarded."""
        return self.state.err_forwarded if stream else self.state.out_forwarded

    def note_forwarded(self, stream: int, position: int, missed: int = 0) -> None:
        """Record that a stream's lines up to `position` were forwarded, except `missed` of them."""
        field = "err_forwarded" if stream else "out_forwarded"
        self._save(self.state._replace(**{field: position}, unforwarded=self.state.unforwarded + missed), None)

    def read(self, start: int, limit: int, stream: int | None = None) -> Iterator[Chunk]:
        """Yield the records from `start` on, at most `limit` bytes; the last may be incomplete.

        With `stream`, only those of that one.
        """
        return self._chunks(self.state, start, limit, stream)

    def _chunks(self, state: State, start: int, limit: int, stream: int | None = None) -> Iterator[Chunk]:
        position = max(start, state.head)
        number = self._index.at(position, state.first, state.next)
        while position < state.tail and limit > 0:
            stamp = self._entry(number, state)[1]
            stop = self._stop(number, state)
            if stream in (None, stamp & 1):
                stop = min(stop, position + limit)
                yield Chunk(position, (stamp >> 1) / 1e9, stamp & 1, self._bytes(position, stop - position))
                limit -= stop - position
            position = stop
            number += 1

    def position_at(self, time: float) -> int:
        """Return where the first record from `time` (seconds since 1970) on starts, or the end."""
        state = self.state
        low, high = state.first, state.next
        while low < high:
            middle = (low + high) // 2
            if (self._entry(middle, state)[1] >> 1) / 1e9 < time:
                low = middle + 1
            else:
                high = middle
        return max(state.head, self._entry(low, state)[0]) if low < state.next else state.tail

    def newest_first(self) -> Iterator[tuple[float, int, int, int]]:
        """Yield time, start, end and stream of the records, newest first, as far as they are not overwritten meanwhile."""
        newest, end = self.state.next - 1, self.state.tail
        for number in range(newest, self.state.first - 1, -1):
            if number < self.state.first:
                return
            position, stamp = self._entry(number, self.state)
            yield (stamp >> 1) / 1e9, max(position, self.state.head), end, stamp & 1
            end = position

    def _bytes(self, position: int, size: int) -> bytes:
        offset, room = self.place(position)
        data = os.pread(self.fd, min(size, room), offset)
        if size > room:
            data += os.pread(self.fd, size - room, self._data)
        return data

    def _whole(self, state: State, head: int) -> int:
        """Return where what is kept starts if all before `head` must go.

        That is where a line ends, perhaps in a later record of the same stream; if none does for
        _LINE bytes, it is where the record ends, or in a long record `head` itself.
        """
        if head <= state.head or head >= state.tail:
            return max(state.head, min(head, state.tail))
        number = self._index.at(head - 1, state.first, state.next)
        at, stop, end = head - 1, self._stop(number, state), head + _LINE
        first_stop, stream = stop, self._entry(number, state)[1] & 1
        while True:
            found = self._bytes(at, min(stop, end) - at).find(b"\n")
            if found >= 0:
                return at + found + 1
            at, number = stop, number + 1
            if at >= end or number == state.next or self._entry(number, state)[1] & 1 != stream:
                break
            stop = self._stop(number, state)
        return first_stop if first_stop - head <= _LINE else head

    def _stop(self, number: int, state: State) -> int:
        """Return where a record ends."""
        return self._entry(number + 1, state)[0] if number + 1 < state.next else state.tail

    def _joins(self, state: State, stream: int) -> bool:
        """Return whether new bytes of `stream` may join the newest record if the index is full."""
        return state.next > state.first and self._entry(state.next - 1, state)[1] & 1 == stream

    def _without(self, state: State, head: int, *, lose: bool = True) -> State:
        """Return the state without the bytes before `head`, which count as lost if `lose`."""
        if head <= state.head:
            return state
        if self._journal:
            state = self._past_journal(state, head)
        lost = state.lost + (head - state.head if lose else 0)
        first = state.next if head >= state.tail else self._index.at(head, state.first, state.next)
        return State(head, state.tail, state.acked, lost, first, *state[5:])

    def _past_journal(self, state: State, head: int) -> State:
        """Return the state with unforwarded lines that end before `head` counted as such."""
        forwarded = [state.out_forwarded, state.err_forwarded]
        missed = 0
        if min(forwarded) < head:
            for chunk in self._chunks(state, min(forwarded), head - max(state.head, min(forwarded))):
                missed += chunk.data.count(b"\n", max(0, forwarded[chunk.stream] - chunk.position))
        out, err = (max(position, head) for position in forwarded)
        return state._replace(out_forwarded=out, err_forwarded=err, unforwarded=state.unforwarded + missed)

    def _entry(self, number: int, state: State) -> tuple[int, int]:
        return self._index.read(number, state.first, state.next)

    def _save(self, state: State, staged: State | None) -> None:
        header = _STAGED.pack(*state, 1, *staged) if staged else _UNSTAGED.pack(*state, 0)
        parcel.write_all(self.fd, header, self.start + _STATE_OFFSET)
        self.state, self.staged = state, staged
