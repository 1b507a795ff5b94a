"""Forwarding to a journal that is a plain datagram socket: it can be made to take nothing, to vanish, to come back."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from papad.daemon.durable.store import Store
from papad.daemon.output.journal import Journal
from papad.daemon.output.ring import Ring
from tests.unit.daemon.output.test_ring import put


class Journald:
    """Who reads the journal's socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.begin()

    def begin(self) -> None:
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(self._path))

    def end(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def messages(self) -> list[bytes]:
        """The entries that came since the last time."""
        found = []
        while select.select([self._socket], [], [], 0)[0]:
            entry = self._socket.recv(1 << 18)
            assert entry.startswith(b"MESSAGE\n")
            size = int.from_bytes(entry[8:16], "little")
            found.append(entry[16 : 16 + size])
        return found


@dataclass
class Writer:
    """A process, as far as it concerns the journal."""

    name: str = "p"
    pid: int = 7
    ring: Ring | None = None
    pipes: dict[int, int] = field(default_factory=lambda: {0: -1, 1: -1})

    def write(self, data: bytes, stream: int = 0) -> None:
        assert self.ring is not None
        for piece in (data[at : at + self.ring.capacity] for at in range(0, len(data), self.ring.capacity)):
            self.ring.stage(len(piece), stream, 1)
            put(self.ring, self.ring.state.tail, piece)
            self.ring.commit()


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    found = Journald(tmp_path / "socket")
    yield found
    found.end()


@pytest.fixture
def journal(tmp_path: Path, journald: Journald) -> Iterator[Journal]:
    found = Journal(str(tmp_path / "socket"))
    yield found
    found.close()


@pytest.fixture
def writer() -> Iterator[Writer]:
    store = Store.create()
    yield Writer(ring=Ring.create(store, 1 << 20, journal=True))
    store.close()


def fill(journal: Journal, writer: Writer) -> int:
    """Lines until the journal takes no more, and as many again; how many."""
    count = 0
    while journal.forward(writer):
        writer.write(b"%d\n" % count)
        count += 1
        assert count < 100_000
    writer.write(b"".join(b"%d\n" % n for n in range(count, 2 * count)))
    return 2 * count


def writable(journal: Journal) -> bool:
    return bool(select.select([], [journal], [], 0)[1])


def forwarded(journal: Journal, journald: Journald, writer: Writer) -> list[bytes]:
    """All that the journal gets until nothing waits."""
    messages = []
    for _ in range(1000):
        done = journal.forward(writer)
        messages += journald.messages()
        if done:
            return messages
        assert writable(journal)
    raise AssertionError("it goes on for ever")


def test_what_waits_for_a_busy_journal_goes_out_when_it_is_writable(
    journal: Journal, journald: Journald, writer: Writer
) -> None:
    count = fill(journal, writer)
    assert not writable(journal)
    messages = journald.messages()
    messages += forwarded(journal, journald, writer)
    assert messages == [b"%d" % n for n in range(count)]
    assert writer.ring is not None
    assert writer.ring.state.unforwarded == 0


def test_whoever_polls_the_socket_hears_of_a_journal_that_was_started_anew(
    journal: Journal, journald: Journald, writer: Writer
) -> None:
    with select.epoll() as poll:
        count = fill(journal, writer)
        poll.register(journal.fileno(), select.EPOLLOUT)
        taken = len(journald.messages())
        journald.end()
        journald.begin()
        assert poll.poll(10)
        assert not journal.forward(writer)
        assert not poll.poll(0)
        messages = journald.messages()
        assert poll.poll(10)
        messages += forwarded(journal, journald, writer)
    assert messages == [b"%d" % n for n in range(taken, count)]


def test_without_a_journal_every_line_is_counted_and_nothing_waits(
    journal: Journal, journald: Journald, writer: Writer
) -> None:
    journald.end()
    writer.write(b"one\ntwo\nthree")
    assert journal.forward(writer)
    assert writer.ring is not None
    assert writer.ring.state.unforwarded == 2
    journald.begin()
    writer.write(b" and more\n")
    assert journal.forward(writer)
    assert journald.messages() == [b"three and more"]


def test_what_is_acknowledged_before_its_turn_is_counted(journal: Journal, journald: Journald, writer: Writer) -> None:
    assert writer.ring is not None
    writer.write(b"one\ntwo\nthr")
    writer.write(b"an error\n", 1)
    writer.ring.acknowledge(0, 4)
    assert writer.ring.state.unforwarded == 1
    assert journal.forward(writer)
    assert sorted(journald.messages()) == [b"an error", b"two"]
    writer.write(b"ee\n")
    writer.ring.acknowledge(0, writer.ring.state.tail)
    assert journal.forward(writer)
    assert writer.ring.state.unforwarded == 2
    assert journald.messages() == []


def test_a_process_that_has_nothing_to_forward_is_not_looked_at() -> None:
    store = Store.create()
    ring = Ring.create(store, 8)
    writer = Writer(ring=ring)
    writer.write(b"a\nb\nc\nd\ne\n")
    assert ring.state.lost == 2
    assert ring.state.unforwarded == 0
    store.close()


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([0, 1]), st.lists(st.sampled_from([b"a", b"bb", b"\n"]), min_size=1).map(b"".join)),
        st.just("forward"),
        st.floats(0, 1),
    ),
    max_size=40,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(capacity=st.integers(1, 60), steps=steps)
def test_every_line_is_forwarded_or_counted(
    journal: Journal, journald: Journald, capacity: int, steps: list[object]
) -> None:
    store = Store.create()
    ring = Ring.create(store, capacity, journal=True)
    writer = Writer(ring=ring)
    written = sent = 0
    for step in steps:
        if isinstance(step, tuple):
            writer.write(step[1], step[0])
            written += step[1].count(b"\n")
        elif isinstance(step, float):
            state = ring.state
            ring.acknowledge(state.head, state.head + round(step * (state.tail - state.head)))
        else:
            sent += len(forwarded(journal, journald, writer))
        again = Ring(ring.fd, ring.start, journal=True)
        assert again.state == ring.state
    sent += len(forwarded(journal, journald, writer))
    assert sent + ring.state.unforwarded == written
    store.close()


def test_what_waits_of_one_stream_is_read_without_the_other(
    journal: Journal, journald: Journald, writer: Writer
) -> None:
    """Each byte is read once, for its own stream."""
    assert writer.ring is not None
    read, original = 0, writer.ring._bytes

    def counting(position: int, size: int) -> bytes:
        nonlocal read
        read += size
        return original(position, size)

    writer.ring._bytes = counting  # type: ignore[method-assign]
    for number in range(4):
        writer.write(b"out %d\n" % number)
        writer.write(b"err %d\n" % number, 1)
    assert journal.forward(writer)
    assert journald.messages() == [b"%s %d" % (stream, number) for stream in (b"out", b"err") for number in range(4)]
    assert read == 8 * len("out 0\n")


def test_a_line_that_never_ends_is_read_once(journal: Journal, journald: Journald, writer: Writer) -> None:
    assert writer.ring is not None
    read, original = 0, writer.ring._bytes

    def counting(position: int, size: int) -> bytes:
        nonlocal read
        read += size
        return original(position, size)

    writer.ring._bytes = counting  # type: ignore[method-assign]
    for number in range(500):
        writer.write(b"x" * 20)
        writer.write(b"line %d\n" % number, stream=1)
        assert journal.forward(writer)
        assert journald.messages() == [b"line %d" % number]
    assert read < 3 * (500 * 20 + 500 * 8)
    writer.write(b"\n")
    assert journal.forward(writer)
    assert journald.messages() == [b"x" * 10_000]
