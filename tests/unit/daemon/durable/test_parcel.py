"""Parcels: a record and its descriptors arrive together, whole, as the same open files; damaged ones are refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papad.daemon.durable import parcel
from tests.support.papad import no_new_fds

Pair = tuple[socket.socket, socket.socket]
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with no_new_fds():
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        left.setblocking(False)
        right.setblocking(False)
        yield left, right
        left.close()
        right.close()


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=10), json, max_size=5))
def test_any_record_arrives_as_it_was(record: parcel.Record) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        parcel.send(left, record)
        assert parcel.unpack(*parcel.receive(right)) == record


def test_a_lone_surrogate_survives(pair: Pair) -> None:
    text = b"caf\xe9".decode(errors="surrogateescape")
    parcel.send(pair[0], {"name": text})
    assert parcel.unpack(*parcel.receive(pair[1])) == {"name": text}


@pytest.mark.parametrize("size", [0, 16 * 1024 - 20, 16 * 1024, 2 << 20])
@pytest.mark.parametrize("count", [0, 1, parcel.MAX_FDS])
def test_a_record_of_any_size_arrives_with_its_descriptors(pair: Pair, size: int, count: int) -> None:
    fds = [os.memfd_create(f"test-{number}") for number in range(count)]
    parcel.send(pair[0], {"text": "x" * size}, fds)
    data, received = parcel.receive(pair[1])
    assert len(received) - count == (size >= 16 * 1024)
    assert parcel.unpack(data, received) == {"text": "x" * size}
    assert [os.fstat(fd).st_ino for fd in received] == [os.fstat(fd).st_ino for fd in fds]
    assert not any(os.get_inheritable(fd) for fd in received)
    parcel.close_all([*fds, *received])


def test_peeking_leaves_the_parcel_where_it_is(pair: Pair) -> None:
    parcel.send(pair[0], {"a": 1}, [0])
    for flags in (socket.MSG_PEEK, socket.MSG_PEEK, 0):
        data, fds = parcel.receive(pair[1], flags)
        assert data == b'{"a":1}'
        assert len(fds) == 1
        parcel.close_all(fds)
    with pytest.raises(BlockingIOError):
        parcel.receive(pair[1])


@pytest.mark.parametrize("size", [10, 1 << 16])
def test_a_full_socket_takes_nothing_and_leaves_nothing_open(pair: Pair, size: int) -> None:
    sent = received = 0
    with no_new_fds(), pytest.raises(BlockingIOError):
        while True:
            parcel.send(pair[0], {"text": "x" * size})
            sent += 1
    with pytest.raises(BlockingIOError):
        while True:
            assert parcel.unpack(*parcel.receive(pair[1])) == {"text": "x" * size}
            received += 1
    assert received == sent > 0


def test_the_end_of_the_channel_is_empty(pair: Pair) -> None:
    pair[0].close()
    assert parcel.receive(pair[1]) == (b"", [])


def test_of_a_large_record_that_came_without_its_memfd_one_knows_which_it_was(pair: Pair) -> None:
    parcel.send(pair[0], {"do": "spawn", "id": 7, "args": ["x" * 20_000]}, [0])
    data, fds = parcel.receive(pair[1])
    parcel.close_all(fds)
    with pytest.raises(parcel.Lost, match="without its memfd") as error:
        parcel.unpack(data, [])
    assert error.value.record == {"do": "spawn", "id": 7}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b'{"a":1}x', b"\xff\xfe", b"#", b"null", b"\0" * 40])
def test_damaged_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parcel.unpack(data, [])


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff" * 100])
def test_a_damaged_large_record_is_refused_and_its_memfd_closed(content: bytes) -> None:
    with no_new_fds():
        fd = os.memfd_create("test")
        os.write(fd, content)
        fds = [fd]
        with pytest.raises(ValueError, match=r"."):
            parcel.unpack(b"#", fds)
        assert fds == []


def test_all_of_a_long_text_is_written_and_read() -> None:
    fd = os.memfd_create("test")
    parcel.write_all(fd, b"x" * 3_000_000, 5)
    assert parcel.read_all(fd) == bytes(5) + b"x" * 3_000_000
    os.close(fd)
