"""The ring, against a simple model: what is kept is a suffix of what was captured, and what is not kept is counted."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papad.daemon.durable import parcel
from papad.daemon.output.ring import Ring, State
from tests.support.papad import in_child, no_new_fds

captures = st.tuples(st.integers(0, 1), st.binary(min_size=1, max_size=40))
acknowledgements = st.tuples(st.just("ack"), st.floats(0, 1))
steps = st.lists(st.one_of(captures, captures, acknowledgements), max_size=60)
Byte = tuple[int, int, int]  # value, stream, time in ns


class Checked:
    """A ring that is reopened after every step and compared with a list of the bytes it should hold."""

    def __init__(self, capacity: int) -> None:
        self.ring = Ring.create(capacity)
        self.waiting: list[Byte] = []
        self.lost = 0

    def capture(self, stream: int, data: bytes, now: int) -> None:
        """What capture.py does, without its pipes."""
        self.ring.stage(len(data), stream, now)
        self.reopen()
        assert self.ring.staged is not None
        put(self.ring, self.ring.staged.tail - len(data), data)
        self.ring.commit()
        self.waiting += [(byte, stream, now) for byte in data]
        over = max(0, len(self.waiting) - self.ring.capacity)
        self.lost += over
        self.waiting = self.waiting[over:]
        self.check()

    def acknowledge(self, part: float) -> None:
        size = round(part * len(self.waiting))
        head = self.ring.state.head
        self.ring.acknowledge(head, head + size)
        self.waiting = self.waiting[size:]
        self.check()

    def check(self) -> None:
        self.reopen()
        assert kept(self.ring) == self.waiting
        assert self.ring.state.lost == self.lost
        assert self.ring.state.tail - self.ring.state.head <= self.ring.capacity

    def reopen(self) -> None:
        again = Ring(os.dup(self.ring.fd))
        assert (again.state, again.staged, again.capacity) == (self.ring.state, self.ring.staged, self.ring.capacity)
        self.ring.close()
        self.ring = again


def put(ring: Ring, position: int, data: bytes) -> None:
    while data:
        offset, room = ring.place(position)
        parcel.write_all(ring.fd, data[:room], offset)
        position, data = position + len(data[:room]), data[room:]


def kept(ring: Ring, start: int = 0, limit: int = 1 << 40) -> list[Byte]:
    """Byte by byte what a watcher would get; records follow one another without a gap."""
    found = []
    position = max(start, ring.state.head)
    for chunk in ring.read(start, limit):
        assert chunk.position == position
        assert chunk.data
        position += len(chunk.data)
        found += [(byte, chunk.stream, round(chunk.time * 1e9)) for byte in chunk.data]
    assert len(found) <= limit
    assert position == ring.state.tail or len(found) == limit
    return found


@pytest.fixture
def ring() -> Iterator[Ring]:
    made = Ring.create(100)
    yield made
    made.close()


def capture(ring: Ring, data: bytes, stream: int = 0, now: int = 1) -> None:
    ring.stage(len(data), stream, now)
    put(ring, ring.state.tail, data)
    ring.commit()


@settings(max_examples=150, deadline=None)
@given(st.integers(40, 100), steps)
def test_it_keeps_the_newest_bytes_with_stream_and_time_and_counts_the_lost(capacity: int, steps: list) -> None:
    checked = Checked(capacity)
    try:
        for now, (first, second) in enumerate(steps, 1):
            if first == "ack":
                checked.acknowledge(second)
            else:
                checked.capture(first, second, now)
    finally:
        checked.ring.close()


@pytest.mark.parametrize("capacity", [1, 2, 3, 7])
def test_a_tiny_ring_keeps_the_last_bytes(capacity: int) -> None:
    checked = Checked(capacity)
    for now, byte in enumerate(b"a longer text than fits, so that it wraps around many times", 1):
        checked.capture(now % 2, bytes([byte]), now)
    for now in range(5):
        checked.capture(0, b"x" * capacity, 1000 + now)
    assert len(checked.waiting) == capacity
    checked.ring.close()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3)), min_size=200, max_size=260), st.integers(0, 200))
def test_with_a_full_index_every_byte_kept_is_right_and_every_other_counted(pieces: list, ack_at: int) -> None:
    """An index holds 64 records at least: more tiny ones either join the newest or push out the oldest."""
    ring = Ring.create(4096)  # far more than the bytes, so that only the index is short
    try:
        sent: list[tuple[int, int]] = []
        acked = 0
        for now, (stream, size) in enumerate(pieces, 1):
            capture(ring, os.urandom(1) * size, stream, now)
            sent += [(byte, stream) for byte in ring._bytes(ring.state.tail - size, size)]
            if now == ack_at:
                acked = ring.state.tail
                assert ring.state.lost == ring.state.head
                lost_before = ring.state.lost
                ring.acknowledge(ring.state.head, acked)
        found = kept(ring)
        assert [(byte, stream) for byte, stream, _ in found] == sent[ring.state.head :]
        lost_after = ring.state.head - max(acked, 0)
        assert ring.state.lost == (lost_before + lost_after if acked else lost_after)
        assert 0 < ring.state.next - ring.state.first <= 64
        times = [now for *_, now in found]
        assert times == sorted(times)
    finally:
        ring.close()


def test_one_stream_alone_loses_nothing_to_a_full_index() -> None:
    ring = Ring.create(4096)
    for now in range(1, 501):
        capture(ring, b"%03d" % now, now=now)
    assert bytes(byte for byte, _, _ in kept(ring)) == b"".join(b"%03d" % now for now in range(1, 501))
    assert ring.state.lost == 0
    ring.close()


def test_reading_from_the_middle_of_a_record_and_with_a_limit_gives_that_piece(ring: Ring) -> None:
    capture(ring, b"hello", 0, 1)
    capture(ring, b"world", 1, 2)
    assert kept(ring, 3, 4) == [(*b"l", 0, 1), (*b"o", 0, 1), (*b"w", 1, 2), (*b"o", 1, 2)]
    assert kept(ring, 10) == []
    assert kept(ring, 0, 0) == []


def test_what_is_overwritten_between_delivery_and_acknowledgement_is_not_lost(ring: Ring) -> None:
    capture(ring, b"a" * 80)
    capture(ring, b"b" * 70)
    assert ring.state.lost == 50
    ring.acknowledge(0, 80)
    assert ring.state.lost == 0
    assert bytes(byte for byte, *_ in kept(ring)) == b"b" * 70


def test_an_acknowledgement_that_comes_twice_or_late_takes_nothing_more(ring: Ring) -> None:
    capture(ring, b"a" * 30)
    ring.acknowledge(0, 20)
    once = ring.state
    ring.acknowledge(0, 20)
    ring.acknowledge(5, 10)
    assert ring.state == once
    assert len(kept(ring)) == 10


def test_bytes_lost_before_delivery_stay_lost_after_the_acknowledgement(ring: Ring) -> None:
    capture(ring, b"a" * 90)
    capture(ring, b"b" * 60)
    ring.acknowledge(ring.state.head, ring.state.tail)
    assert ring.state.lost == 50
    assert kept(ring) == []


def test_a_staged_ring_shows_nothing_of_what_is_staged_and_is_committed_after_reopening(ring: Ring) -> None:
    capture(ring, b"before")
    ring.stage(5, 1, 7)
    again = Ring(os.dup(ring.fd))
    assert bytes(byte for byte, *_ in kept(again)) == b"before"
    assert again.staged is not None
    put(again, again.staged.tail - 5, b"after")
    again.commit()
    assert kept(again)[6:] == [(byte, 1, 7) for byte in b"after"]
    assert again.staged is None
    again.close()


def test_staging_again_after_a_kill_between_index_and_header_gives_the_same(ring: Ring) -> None:
    """A full index has its oldest entry overwritten just before the header says so."""
    for now in range(64):
        capture(ring, b"x", now % 2, now + 1)
    saves = []
    ring._save = lambda *args: saves.append(args)  # type: ignore[method-assign]
    ring.stage(2, 0, 1000)
    assert saves
    again = Ring(os.dup(ring.fd))
    capture(again, b"yz", 0, 1000)
    assert [stream for _, stream, _ in kept(again)] == [now % 2 for now in range(1, 64)] + [0, 0]
    assert again.state.lost == 1
    again.close()


def test_abandoned_bytes_are_counted_and_the_ring_goes_on(ring: Ring) -> None:
    capture(ring, b"kept")
    ring.stage(10, 0, 2)
    ring.abandon()
    assert ring.state.tail == 14
    assert ring.state.lost + len(kept(ring)) == 14
    capture(ring, b"more", 1, 3)
    assert kept(ring)[-4:] == [(byte, 1, 3) for byte in b"more"]


def test_the_newest_time_is_known_when_nothing_is_kept_any_more(ring: Ring) -> None:
    assert ring.newest == 0.0
    capture(ring, b"x", 0, 5_000_000_000)
    ring.acknowledge(0, 1)
    assert ring.newest == 5.0


def test_its_memory_is_given_back_when_it_is_closed_empty() -> None:
    ring = Ring.create(1 << 20)
    capture(ring, b"x" * (1 << 20))
    other = os.dup(ring.fd)
    assert os.fstat(other).st_blocks * 512 >= 1 << 20
    ring.close(empty=True)
    assert os.fstat(other).st_blocks == os.fstat(other).st_size == 0
    os.close(other)


@pytest.mark.parametrize("content", [b"", b"x" * 100, bytes(8192), b"y" * 8192])
def test_a_file_that_is_no_ring_is_refused_and_stays_the_callers(content: bytes) -> None:
    with no_new_fds():
        fd = os.memfd_create("test")
        os.write(fd, content)
        with pytest.raises(ValueError, match="ring"):
            Ring(fd)
        os.close(fd)


def test_a_ring_that_cannot_be_made_leaves_nothing_open() -> None:
    def child() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        with no_new_fds(), pytest.raises(OSError, match="too large"):
            Ring.create(1 << 20)

    assert in_child(child) == 0


def test_a_new_ring_is_empty() -> None:
    ring = Ring.create(10)
    assert ring.state == State()
    assert ring.staged is None
    assert kept(ring) == []
    ring.close()
