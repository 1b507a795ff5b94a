"""The index of a ring: where each record starts, its time and its stream.

Records are numbered from 0. Number N is in slot N modulo the size of the index, 16 bytes each, and
takes the place of the one that was there.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right

from papad.daemon.durable import parcel
from papad.daemon.durable.store import punch_around

ENTRY = struct.Struct("=QQ")
"""Position of its first byte; time in ns * 2 + stream."""

_BLOCK = 64  # entries read at once
_NOTHING = memoryview(b"").cast("Q")


class Index:
    """The entries of one ring, which are in the store; those read last are in memory, too."""

    # An entry is written before a header counts it, and is never written again under the same
    # number, unless no header ever counted it. So what was read of a record that counts stays true,
    # for as long as the record is kept. Whoever reads says which do: from `first` to before `next`.

    __slots__ = (
        "_block",
        "_fd",
        "_high",
        "_low",
        "_newest",
        "_start",
        "_starts",
        "size",
    )  # there is one for each process

    def __init__(self, fd: int, start: int, size: int) -> None:
        """Begin with the `size` slots from `start` on in the store's file `fd`, which stays the store's."""
        self.size = size
        """The number of slots."""
        self._fd = fd
        self._start = start
        self._newest = (-1, (0, 0))  # the entry written last, which whoever follows reads next
        # The block read last: numbers from _low to before _high; what drops the oldest comes here again.
        self._low = self._high = 0
        self._block = self._starts = _NOTHING

    def put(self, number: int, position: int, stamp: int) -> None:
        """Write an entry. Raises OSError if there is no memory; then what the slot held may be gone."""
        entry = ENTRY.pack(position, stamp)
        parcel.write_all(self._fd, entry, self._start + number % self.size * ENTRY.size)
        self._newest = number, (position, stamp)

    def trim(self, first: int, next: int) -> None:
        """Give back the memory of all entries but those from `first` to before `next`, and the newest. Raises OSError."""
        free = self.size - (next - min(first, max(0, next - 1)))
        size, at, count = (slots * ENTRY.size for slots in (self.size, next % self.size, free))
        punch_around(self._fd, self._start, size, at, count)

    def read(self, number: int, first: int, next: int) -> tuple[int, int]:
        """Return position and stamp of record `number`, which is from `first` to before `next`."""
        if number == self._newest[0]:
            return self._newest[1]
        if not self._low <= number < self._high:
            self._load(number, first, next)
        at = 2 * (number - self._low)
        return self._block[at], self._block[at + 1]

    def at(self, position: int, first: int, next: int) -> int:
        """Return the number of the last record that starts at `position` or before, or else `first`."""
        low, high = self._narrowed(position, first, next)  # what is dropped is where something was before
        if low < high - 1 and high == next and self.read(next - 1, first, next)[0] <= position:
            return next - 1
        guesses = [first, self._high]
        while low < high - 1:
            number = guesses.pop() if guesses else (low + high) // 2
            if low <= number < high:
                self._load(number, first, next)
                low, high = self._narrowed(position, low, high)
        return low

    def _narrowed(self, position: int, low: int, high: int) -> tuple[int, int]:
        """Narrow the numbers among which the record at `position` is, by the block that was read last."""
        begin, end = max(low, self._low), min(high, self._high)
        if begin >= end:
            return low, high
        found = self._low - 1 + bisect_right(self._starts, position, begin - self._low, end - self._low)
        if found < begin:
            return low, max(begin, low + 1)
        return found, high if found == end - 1 else found + 1

    def _load(self, number: int, first: int, next: int) -> None:
        """Read the entries around `number`: those in the same block of slots that count."""
        slot = number % self.size
        block = slot - slot % _BLOCK
        low = max(first, number - (slot - block))
        high = min(next, number + min(self.size, block + _BLOCK) - slot)
        offset = self._start + low % self.size * ENTRY.size
        self._block = memoryview(os.pread(self._fd, (high - low) * ENTRY.size, offset)).cast("Q")
        self._starts = self._block[::2]
        self._low, self._high = low, high
