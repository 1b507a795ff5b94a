"""The ring, against a simple model: what is kept is a suffix of what was captured that begins with a whole record or line.

What is not kept is counted. Only lines of more than 4096 bytes are cut.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
from bisect import bisect_left
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papad.daemon.durable import parcel
from papad.daemon.durable import store as store_module
from papad.daemon.durable.store import Store
from papad.daemon.output.ring import _LINE, Ring, State
from tests.support.papad import dies_at, in_child, no_new_fds

Byte = tuple[int, int, int]  # value, stream, time in ns
Step = tuple[int | str, bytes | float]  # a stream and what is captured of it, or "ack" and how much of what waits


def text(lengths: list[int]) -> bytes:
    """Lines of these lengths with their newlines; each begins with <, and < is nowhere else."""
    return b"".join(b"<" + bytes([97 + length % 26]) * (length - 2) + b"\n" for length in lengths)


acknowledgements = st.tuples(st.just("ack"), st.floats(0, 1))


def captures_of(texts: st.SearchStrategy[bytes]) -> st.SearchStrategy[tuple[int, bytes]]:
    return st.tuples(st.integers(0, 1), texts)


short_texts = st.binary(min_size=1, max_size=40) | st.lists(st.integers(2, 13), min_size=1, max_size=3).map(text)
long_lines = st.sampled_from([2, 80, 1000, _LINE - 1, _LINE, _LINE + 1, _LINE + 2, 2 * _LINE, 3 * _LINE])
long_texts = st.lists(long_lines, min_size=1, max_size=6).map(text)
short_steps = st.lists(captures_of(short_texts) | captures_of(short_texts) | acknowledgements, max_size=60)
long_steps = st.lists(captures_of(long_texts) | captures_of(long_texts) | acknowledgements, max_size=25)


@contextlib.contextmanager
def a_store() -> Iterator[Store]:
    made = Store.create()
    try:
        yield made
    finally:
        made.close()


class Checked:
    """A ring that is opened anew after every step and compared with a list of the bytes it should hold."""

    def __init__(self, store: Store, capacity: int) -> None:
        self.ring = Ring.create(store, capacity)
        self.waiting: list[Byte] = []
        self.lost = 0
        self.head = 0  # the position of what waits
        self.records = [0]  # where they start, and where the newest ends
        self.wholes = [0]  # where records and lines start, and acknowledgements end

    def capture(self, stream: int, data: bytes, now: int) -> None:
        """What capture.py does, without its pipes, which takes no more at once than fits."""
        for at in range(0, len(data), self.ring.capacity):
            self.capture_piece(stream, data[at : at + self.ring.capacity], now)

    def capture_piece(self, stream: int, data: bytes, now: int) -> None:
        start = self.ring.state.tail
        self.ring.stage(len(data), stream, now)
        self.reopen()
        assert self.ring.staged is not None
        put(self.ring, self.ring.staged.tail - len(data), data)
        self.ring.commit()
        self.waiting += [(byte, stream, now) for byte in data]
        self.wholes += [start + 1 + at for at, byte in enumerate(data) if byte == ord("\n")]
        if self.wholes[-1] != start + len(data):
            self.wholes.append(start + len(data))
        self.records.append(start + len(data))
        self.overwritten()
        self.check()

    def overwritten(self) -> None:
        """Drop what the ring has dropped, if it should have."""
        head, needed = self.ring.state.head, self.ring.state.tail - self.ring.capacity
        if needed <= self.head:
            assert head == self.head, "there was room"
            return
        assert head >= needed
        after = bisect_left(self.wholes, head)
        if self.wholes[after] != head:
            assert self.wholes[after] - self.wholes[after - 1] > _LINE, "a line was cut that is not long"
        dropped = self.waiting[needed - self.head - 1 : head - self.head]
        line = list(itertools.takewhile(lambda each: each[1] == dropped[0][1], dropped))
        assert ord("\n") not in [byte for byte, *_ in line[:-1]], "more was dropped than to the end of a line"
        enough = self.records[bisect_left(self.records, needed)]
        assert head <= (enough if line[-1][0] != ord("\n") else needed + _LINE), "more was dropped than had to be"
        self.lost += head - self.head
        self.waiting = self.waiting[head - self.head :]
        self.head = head

    def acknowledge(self, part: float) -> None:
        size = round(part * len(self.waiting))
        self.ring.acknowledge(self.head, self.head + size)
        self.waiting = self.waiting[size:]
        self.head += size
        self.wholes = sorted({*self.wholes, self.head})
        newest = self.ring.newest
        if size % 2:
            self.ring.trim()
        self.check()
        assert self.ring.newest == newest

    def check(self) -> None:
        self.reopen()
        assert kept(self.ring) == self.waiting
        assert (self.ring.state.head, self.ring.state.lost) == (self.head, self.lost)
        assert self.ring.state.tail - self.ring.state.head <= self.ring.capacity

    def reopen(self) -> None:
        again = Ring(self.ring.fd, self.ring.start)
        assert (again.state, again.staged, again.range) == (self.ring.state, self.ring.staged, self.ring.range)
        self.ring = again

    def take(self, steps: list[Step]) -> None:
        for now, (first, second) in enumerate(steps, 1):
            if isinstance(second, float):
                self.acknowledge(second)
            else:
                assert isinstance(first, int)
                self.capture(first, second, now)


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


def data(ring: Ring, stream: int | None = None) -> bytes:
    return bytes(byte for byte, its, _ in kept(ring) if stream in (None, its))


def memory(store: Store) -> int:
    return os.fstat(store.fd).st_blocks * 512


@pytest.fixture
def store() -> Iterator[Store]:
    with a_store() as made:
        yield made


@pytest.fixture
def ring(store: Store) -> Ring:
    return Ring.create(store, 100)


def capture(ring: Ring, data: bytes, stream: int = 0, now: int = 1) -> None:
    ring.stage(len(data), stream, now)
    put(ring, ring.state.tail, data)
    ring.commit()


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 100), short_steps)
def test_it_keeps_the_newest_bytes_with_stream_and_time_and_counts_the_lost(capacity: int, steps: list[Step]) -> None:
    with a_store() as store:
        Checked(store, capacity).take(steps)


@settings(max_examples=40, deadline=None)
@given(st.integers(100, 40_000), long_steps)
def test_of_long_records_it_keeps_whole_lines_and_counts_the_others(capacity: int, steps: list[Step]) -> None:
    with a_store() as store:
        Checked(store, capacity).take(steps)


def test_what_is_not_kept_takes_no_memory_once_it_is_trimmed(store: Store) -> None:
    ring = Ring.create(store, 1 << 20)
    before = memory(store)
    for round in range(3):  # around the end of the data and of the index
        for now in range(900):
            capture(ring, b"x" * 1000 + b"\n", now % 2, 1000 * round + now)
        used = memory(store) - before
        assert used > 900_000
        kept = ring.state.tail - 50 * 1001
        ring.acknowledge(0, kept)
        assert memory(store) - before >= used, "an acknowledgement alone is quick"
        ring.trim()
        assert memory(store) - before < 100_000
        assert data(ring) == 50 * (b"x" * 1000 + b"\n")
    ring.acknowledge(0, ring.state.tail)
    ring.trim()
    assert memory(store) - before <= 2 * 4096, "the header, and the newest entry"
    assert Ring(ring.fd, ring.start).newest == ring.newest == 2899 / 1e9


@pytest.mark.parametrize("capacity", [1, 2, 3, 7])
def test_a_tiny_ring_keeps_the_last_bytes(store: Store, capacity: int) -> None:
    checked = Checked(store, capacity)
    for now, byte in enumerate(b"a longer text than fits, so that it wraps around many times", 1):
        checked.capture(now % 2, bytes([byte]), now)
        assert len(checked.waiting) == min(now, capacity)
    for now in range(5):
        checked.capture(0, b"x" * capacity, 1000 + now)
        assert len(checked.waiting) == capacity


def test_of_three_short_lines_that_do_not_all_fit_whole_ones_are_left(store: Store) -> None:
    ring = Ring.create(store, 14)
    for now, line in enumerate((b"line one\n", b"line two\n", b"line three\n"), 1):
        capture(ring, line, now % 2, now)
        assert kept(ring) == [(byte, now % 2, now) for byte in line]
    assert (ring.state.lost, ring.state.tail) == (18, 29)
    capture(ring, b"x\n", now=4)
    assert data(ring) == b"line three\nx\n"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(3 * _LINE, 9 * _LINE),
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.lists(st.integers(2, 90) | st.integers(2, _LINE), min_size=1, max_size=20).map(text),
            st.none() | st.integers(1, 3 * _LINE),
        ),
        max_size=30,
    ),
)
def test_no_reader_sees_the_end_of_a_line_whose_beginning_is_gone(
    capacity: int, steps: list[tuple[int, bytes, int | None]]
) -> None:
    """Two readers: one that sees all that is kept after each capture, and one that reads on, piece by piece."""
    position, within = 0, False  # of the second one, and whether it has read the beginning of a line
    with a_store() as store:
        ring = Ring.create(store, capacity)
        for stream, lines, limit in steps:
            if len(lines) > capacity:
                continue
            capture(ring, lines, stream)
            found = data(ring)
            assert found.startswith(b"<")
            assert found.endswith(lines)
            for chunk in ring.read(position, limit or 0):
                assert chunk.data.startswith(b"<") or (within and chunk.position == position)
                position = chunk.position + len(chunk.data)
                within = not chunk.data.endswith(b"\n")


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3)), min_size=201, max_size=260), st.integers(0, 200))
def test_with_a_full_index_every_byte_kept_is_right_and_every_other_counted(
    pieces: list[tuple[int, int]], ack_at: int
) -> None:
    """An index holds 64 records at least: more tiny ones either join the newest or push out the oldest."""
    with a_store() as store:
        ring = Ring.create(store, 4096)  # far more than the bytes, so that only the index is short
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


def test_one_stream_alone_loses_nothing_to_a_full_index(store: Store) -> None:
    ring = Ring.create(store, 4096)
    for now in range(1, 501):
        capture(ring, b"%03d" % now, now=now)
    assert data(ring) == b"".join(b"%03d" % now for now in range(1, 501))
    assert ring.state.lost == 0


def test_reading_from_the_middle_of_a_record_and_with_a_limit_gives_that_piece(ring: Ring) -> None:
    capture(ring, b"hello", 0, 1)
    capture(ring, b"world", 1, 2)
    assert kept(ring, 3, 4) == [(*b"l", 0, 1), (*b"o", 0, 1), (*b"w", 1, 2), (*b"o", 1, 2)]
    assert kept(ring, 10) == []
    assert kept(ring, 0, 0) == []


def test_of_one_stream_its_records_alone_are_read_and_count_to_the_limit(ring: Ring) -> None:
    for now in range(1, 7):
        capture(ring, b"%d" % now * 10, now % 2, now)
    assert [chunk.data for chunk in ring.read(0, 25, 1)] == [b"1" * 10, b"3" * 10, b"5" * 5]
    assert [chunk.position for chunk in ring.read(5, 100, 0)] == [10, 30, 50]
    capture(ring, b"x" * 10, 1, 7)
    assert list(ring.read(60, 100, 0)) == []


def test_what_is_overwritten_between_delivery_and_acknowledgement_is_not_lost(ring: Ring) -> None:
    capture(ring, b"a" * 80)
    capture(ring, b"b" * 70)
    assert ring.state.lost == 80
    ring.acknowledge(0, 80)
    assert ring.state.lost == 0
    assert data(ring) == b"b" * 70


def test_of_what_is_overwritten_only_the_part_that_was_delivered_is_not_lost(ring: Ring) -> None:
    capture(ring, b"a" * 80)
    capture(ring, b"b" * 70)
    ring.acknowledge(0, 30)
    assert (ring.state.lost, data(ring)) == (50, b"b" * 70)


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
    assert ring.state.lost == 90
    assert kept(ring) == []


def test_a_staged_ring_shows_nothing_of_what_is_staged_and_is_committed_after_reopening(ring: Ring) -> None:
    capture(ring, b"before")
    ring.stage(5, 1, 7)
    again = Ring(ring.fd, ring.start)
    assert data(again) == b"before"
    assert again.staged is not None
    put(again, again.staged.tail - 5, b"after")
    again.commit()
    assert kept(again)[6:] == [(byte, 1, 7) for byte in b"after"]
    assert again.staged is None


@pytest.mark.parametrize("full", ["index", "data"])
def test_killed_at_any_step_of_staging_it_is_staged_or_is_staged_again_with_the_same_result(
    store: Store, full: str
) -> None:
    """A full index has its oldest entry replaced before the header says so."""
    found = []
    for step in range(100):
        ring = Ring.create(store, 100 if full == "index" else 64, journal=True)
        for now in range(64):
            capture(ring, b"\n", 1, now + 1)
        ring.note_forwarded(1, 10)
        alive = not dies_at(step, [(os, "pwrite")], lambda ring=ring: ring.stage(2, 0, 1000))
        ring = Ring(ring.fd, ring.start, journal=True)
        if not ring.staged:
            ring.stage(2, 0, 1000)
        put(ring, ring.state.tail, b"yz")
        ring.commit()
        found.append((kept(ring), ring.state))
        if alive:
            break
    assert len(found) > 4
    assert found == found[-1:] * len(found)
    (bytes_kept, state), gone = found[-1], 1 if full == "index" else 2
    assert [stream for _, stream, _ in bytes_kept] == [1] * (64 - gone) + [0, 0]
    assert (state.lost, state.unforwarded) == (gone, 0)


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_a_kill_while_it_is_trimmed_leaves_what_is_kept(store: Store, part: float) -> None:
    """Of a ring whose free part, and whose free slots, are around the end."""
    steps = [(store_module, "_punch"), (os, "pwrite")]
    for step in itertools.count():
        ring = Ring.create(store, 100)
        for now in range(100):
            capture(ring, b"%02d\n" % now, now % 2, now + 1)
        state = ring.state
        acknowledged = state.head + round(part * (state.tail - state.head) / 3) * 3
        before = kept(ring)[acknowledged - state.head :]

        def act(ring: Ring = ring, acknowledged: int = acknowledged) -> None:
            ring.acknowledge(0, acknowledged)
            ring.trim()

        alive = not dies_at(step, steps, act)
        again = Ring(ring.fd, ring.start)
        assert kept(again, acknowledged) == before
        assert again.newest == ring.newest
        capture(again, b"more\n", 0, 1000)
        assert data(again).endswith(b"more\n")
        if alive:
            break
    assert step > 2


@pytest.mark.parametrize("room", ["enough room", "data overwritten", "all overwritten", "joined", "index full"])
def test_the_missing_end_of_what_was_staged_is_lost_and_nothing_else(store: Store, room: str) -> None:
    size, stream = {"data overwritten": 60, "all overwritten": 100}.get(room, 10), 0
    for missing in range(size + 1):
        ring = Ring.create(store, 100)
        if room in ("joined", "index full"):
            for now in range(64):
                capture(ring, bytes([now]), (now + 1) % 2 if room == "joined" else now % 2, now + 1)
        else:
            capture(ring, b"a" * 40, 0, 1)
            capture(ring, b"b" * 30, 1, 2)
        before, at = kept(ring), ring.state.tail
        ring.stage(size, stream, 1000)
        assert ring.staged is not None
        gone = ring.staged.head
        assert gone == {"data overwritten": 40, "all overwritten": 70, "index full": 1}.get(room, 0)
        new = bytes(range(100, 100 + size))[: size - missing]
        put(ring, at, new)
        ring.commit(missing)
        for each in (ring, Ring(ring.fd, ring.start)):
            when = 64 if room == "joined" else 1000
            assert kept(each) == before[gone:] + [(byte, stream, when) for byte in new]
            assert (each.state.lost, each.state.tail, each.staged) == (gone + missing, at + len(new), None)
        capture(ring, b"more", 1, 2000)
        assert kept(ring)[-4:] == [(byte, 1, 2000) for byte in b"more"]
        assert ring.state.lost == ring.state.head + missing


def test_a_capture_into_a_full_ring_of_short_lines_needs_few_reads(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = Ring.create(store, 1 << 16)
    line = b"x" * 63 + b"\n"
    for now in range(2000):
        capture(ring, line, now=now)
    reads = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda *words: reads.append(words) or real(*words))
    for now in range(2000, 3000):
        capture(ring, line, now=now)
    assert len(reads) <= 1100  # one for the bytes that go, to see where a line ends


def test_the_newest_time_is_known_when_nothing_is_kept_any_more(ring: Ring) -> None:
    assert ring.newest == 0.0
    capture(ring, b"x", 0, 5_000_000_000)
    ring.acknowledge(0, 1)
    assert ring.newest == 5.0


def test_its_range_is_all_that_it_uses_and_its_memory_is_given_back_with_that(store: Store) -> None:
    before = os.fstat(store.fd).st_blocks
    rings = [Ring.create(store, (1 << 20) - 1) for _ in range(3)]
    for number, ring in enumerate(rings):
        for now in range(100):
            capture(ring, bytes([number]) * 60_000, now % 2, now + 1)
    store.free(*rings[1].range)
    for number in (0, 2):
        again = Ring(store.fd, rings[number].start)
        assert again.state == rings[number].state
        assert set(data(again)) == {number}
    with pytest.raises(ValueError, match="no ring"):
        Ring(store.fd, rings[1].start)
    for ring in rings:
        store.free(*ring.range)
    assert os.fstat(store.fd).st_blocks == before


@pytest.mark.parametrize("content", [b"", b"x" * 100, bytes(8192), b"y" * 8192])
def test_a_file_that_has_no_ring_there_is_refused_and_stays_the_callers(content: bytes) -> None:
    with no_new_fds():
        fd = os.memfd_create("test")
        os.write(fd, content)
        for start in (0, 4096):
            with pytest.raises(ValueError, match="ring"):
                Ring(fd, start)
        os.close(fd)


def test_a_ring_that_cannot_be_made_changes_nothing(store: Store) -> None:
    with pytest.raises(OSError, match="too large"):
        Ring.create(store, 1 << 62)

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        with no_new_fds(), pytest.raises(OSError, match="too large"):
            Ring.create(store, 1 << 20)

    assert in_child(child) == 0
    capture(ring := Ring.create(store, 10), b"x")
    assert data(ring) == b"x"


def test_a_new_ring_is_empty(store: Store) -> None:
    ring = Ring.create(store, 10)
    assert ring.state == State()
    assert ring.staged is None
    assert kept(ring) == []
