"""The index, against a list of all entries ever written, of which the newest ones count."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papad.daemon.output.index import Index

START = 4096


@pytest.fixture
def fd() -> Iterator[int]:
    made = os.memfd_create("test")
    yield made
    os.close(made)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The offsets of all reads from now on."""
    seen: list[int] = []
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        seen.append(offset)
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    return seen


def filled(fd: int, size: int, records: int) -> Index:
    """An index of records of ten bytes each."""
    index = Index(fd, START, size)
    for number in range(records):
        index.put(number, 10 * number, number)
    return index


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 200))
def test_it_finds_and_reads_every_record_that_counts(data: st.DataObject, size: int) -> None:
    """Whichever was read before, by this index, or by one of the next daemon."""
    fd = os.memfd_create("test")
    try:
        index = Index(fd, START, size)
        entries: list[tuple[int, int]] = []
        first = 0
        for _ in range(data.draw(st.integers(1, 8))):
            for _ in range(data.draw(st.integers(0, 150))):
                position = entries[-1][0] + 1 + len(entries) % 7 if entries else 3
                first = max(first, len(entries) + 1 - size)
                index.put(len(entries), position, len(entries) * 2)
                entries.append((position, len(entries) * 2))
            if data.draw(st.booleans()):
                index = Index(fd, START, size)
            first = data.draw(st.integers(first, len(entries)))
            if data.draw(st.booleans()):
                index.trim(first, len(entries))
            kept = range(first, len(entries))
            for number in data.draw(st.lists(st.sampled_from(kept), max_size=9)) if kept else ():
                assert index.read(number, first, len(entries)) == entries[number]
                position = entries[number][0] + data.draw(st.integers(-9, 9))
                starts = [start for start, _ in entries[first:]]
                found = first + max(0, bisect_right(starts, position) - 1)
                assert index.at(position, first, len(entries)) == found
    finally:
        os.close(fd)


def test_an_entry_that_no_header_counted_is_written_again(fd: int) -> None:
    index = filled(fd, 64, 2)
    index.put(2, 20, 1)
    index.put(2, 20, 5)
    assert index.read(2, 0, 3) == (20, 5)
    assert Index(fd, START, 64).read(2, 0, 3) == (20, 5)


@pytest.mark.parametrize("step", [1, -1])
def test_of_records_in_turn_it_reads_many_at_once(fd: int, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    index = filled(fd, 1000, 5000)
    seen = counting(monkeypatch)
    for number in range(4000, 5000)[::step]:
        assert index.read(number, 4000, 5000) == (10 * number, number)
    assert len(seen) <= 1000 // 64 + 2


def test_the_oldest_are_found_without_a_search(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one capture after another drops some of them."""
    index = filled(fd, 1 << 14, 1 << 14)
    seen = counting(monkeypatch)
    for first in range(1000):
        assert index.at(10 * first + 15, first, 1 << 14) == first + 1
    assert len(seen) <= 1000 // 64 + 2


def test_the_newest_is_known_to_who_wrote_it(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    index = filled(fd, 1 << 14, 1 << 14)
    seen = counting(monkeypatch)
    assert index.at(10 << 14, 0, 1 << 14) == (1 << 14) - 1
    assert index.read((1 << 14) - 1, 0, 1 << 14) == (10 * (1 << 14) - 10, (1 << 14) - 1)
    assert not seen


def test_any_other_is_found_with_few_reads(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    index = filled(fd, 1 << 14, 1 << 14)
    seen = counting(monkeypatch)
    assert index.at(81_925, 0, 1 << 14) == 8192
    assert len(seen) <= 10
