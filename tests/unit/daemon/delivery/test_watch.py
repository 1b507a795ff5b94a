"""A watch: what its batches hold, and what an acknowledgement changes."""

from __future__ import annotations

import os

import pytest

from papad.daemon.delivery import watch as module
from papad.daemon.delivery.watch import Watch
from papad.daemon.tables.process import Process, State
from papad.errors import Error
from tests.support.tables import TablesHome as Home


def watch(home: Home, *processes: Process) -> Watch:
    return Watch(home.processes, processes)


def heard(watched: Watch) -> list[str]:
    """Grows with each call of `on_news`."""
    calls: list[str] = []
    watched.on_news = lambda: calls.append("news")
    return calls


def test_a_batch_is_all_that_is_not_acknowledged_process_by_process(home: Home) -> None:
    a, b = home.add("a"), home.add("b", capacity=0)
    home.write(a, b"one\n", when=1000.5)
    home.write(a, b"two", stream=1, when=1001.0)
    home.end(a, code=-9, when=1002.0)
    home.end(b, code=4, when=900.0)
    watched = watch(home, a, b)
    expected = [b"out:a:1000.5:4\none\n\n", b"err:a:1001.0:3\ntwo\n", b"closed:a:1002.0:-9\n", b"closed:b:900.0:4\n"]
    assert watched.batch() == expected
    assert watched.batch() == expected, "it comes again until it is acknowledged"


def test_an_acknowledgement_is_for_what_was_delivered_and_nothing_after_it(home: Home) -> None:
    a = home.add("a")
    watched = watch(home, a)
    home.write(a, b"one", when=1000.0)
    watched.batch()
    home.write(a, b"two", when=1001.0)
    home.end(a, when=1002.0)
    watched.acknowledge()
    assert a.state is State.CLOSED, "its end was not delivered yet"
    assert watched.batch() == [b"out:a:1001.0:3\ntwo\n", b"closed:a:1002.0:0\n"]
    watched.acknowledge()
    assert a.state is State.GONE
    assert (len(watched), home.processes.select([])) == (0, [])


def test_a_watch_that_does_not_consume_moves_on_and_leaves_all_where_it_is(home: Home) -> None:
    a = home.add("a")
    home.write(a, b"one", when=1000.0)
    looking, consuming = Watch(home.processes, [a], consumes=False), watch(home, a)
    assert looking.batch() == consuming.batch() == [b"out:a:1000.0:3\none\n"]
    assert a.watchers == 1
    looking.acknowledge()
    assert looking.batch() == []
    assert consuming.batch() == [b"out:a:1000.0:3\none\n"], "it was not acknowledged for others"
    home.write(a, b"two", when=1001.0)
    home.end(a, code=3, when=1002.0)
    assert looking.batch() == [b"out:a:1001.0:3\ntwo\n", b"closed:a:1002.0:3\n"]
    looking.acknowledge()
    assert (len(looking), a.state) == (0, State.CLOSED)
    assert len(consuming.batch()) == 3


def test_a_watch_that_does_not_consume_passes_over_what_others_acknowledged(home: Home) -> None:
    a = home.add("a")
    home.write(a, b"one", when=1000.0)
    looking, consuming = Watch(home.processes, [a], consumes=False), watch(home, a)
    consuming.batch()
    consuming.acknowledge()
    home.write(a, b"two", when=1001.0)
    assert looking.batch() == [b"out:a:1001.0:3\ntwo\n"]


def test_an_acknowledgement_of_nothing_changes_nothing(home: Home) -> None:
    a = home.add("a")
    watched = watch(home, a)
    home.write(a, b"one")
    watched.acknowledge()
    batch = watched.batch()
    watched.acknowledge()
    watched.acknowledge()
    assert (len(batch), watched.batch(), len(watched)) == (1, [], 1)


def test_bytes_that_were_overwritten_between_batch_and_acknowledgement_were_not_lost(home: Home) -> None:
    a = home.add("a", capacity=4)
    watched = watch(home, a)
    home.write(a, b"1234")
    watched.batch()
    home.write(a, b"567")
    watched.acknowledge()
    assert a.ring is not None
    assert (a.ring.state.lost, a.ring.state.head) == (0, 4)
    home.write(a, b"89")
    assert (a.ring.state.lost, a.ring.state.head) == (3, 7), "567 was never delivered"


def test_a_batch_has_room_for_so_much_of_all_and_ends_come_with_the_last_of_it(home: Home) -> None:
    a, b = home.add("a"), home.add("b")
    for process in (a, b):
        home.write(process, b"123456", when=1000.0)
        home.end(process, when=1000.0)
    watched = watch(home, a, b)
    batches = []
    while len(watched):
        batches.append(watched.batch(5))
        watched.acknowledge()
    head = b":1000.0:"
    assert batches == [
        [b"out:a" + head + b"5\n12345\n"],
        [b"out:a" + head + b"1\n6\n", b"closed:a" + head + b"0\n", b"out:b" + head + b"4\n1234\n"],
        [b"out:b" + head + b"2\n56\n", b"closed:b" + head + b"0\n"],
    ]


def test_of_two_watches_the_first_acknowledgement_counts_and_the_other_loses_the_process(home: Home) -> None:
    a, b = home.add("a"), home.add("b")
    home.write(a, b"x")
    home.end(a)
    one, other = watch(home, a), watch(home, a, b)
    assert one.batch() == other.batch()
    calls = heard(other)
    one.acknowledge()
    assert (len(one), len(other), calls) == (0, 1, ["news"])
    other.acknowledge()
    assert (other.batch(), a.observers) == ([], set())


def test_a_removed_process_is_lost_at_once(home: Home) -> None:
    a = home.add("a")
    watched = watch(home, a)
    home.write(a, b"x")
    watched.batch()
    calls = heard(watched)
    home.processes.remove(["a"])
    assert (len(watched), watched.batch(), a.observers, calls) == (0, [], set(), ["news"])
    watched.acknowledge()
    assert a.state is State.REMOVED


def test_it_tells_of_output_and_of_the_end_until_it_ends_itself(home: Home) -> None:
    a = home.add("a")
    watched = watch(home, a)
    calls = heard(watched)
    home.write(a, b"x")
    assert calls == ["news"]
    watched.batch()
    watched.end()
    home.end(a)
    assert calls == ["news"]
    assert a.observers == set()
    assert len(watch(home, a).batch()) == 2, "what was not acknowledged comes to the next watch"


def test_an_end_that_cannot_be_recorded_comes_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    a = home.add("a")
    home.end(a)
    watched = watch(home, a)
    batch = watched.batch()

    def refuse(key: str) -> None:
        raise Error("the store is full")

    with monkeypatch.context() as patch:
        patch.setattr(home.store, "erase", refuse)
        with pytest.raises(Error, match="full"):
            watched.acknowledge()
    assert (a.state, len(watched)) == (State.CLOSED, 1)
    assert watched.batch() == batch
    watched.acknowledge()
    assert a.state is State.GONE


def test_what_is_acknowledged_takes_no_memory_once_it_is_trimmed_for_a_while_at_a_time(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TURN", 0.0)
    processes = [home.add(name, capacity=1 << 20) for name in "abc"]
    before = memory(home)
    watched = watch(home, *processes)
    for process in processes:
        home.write(process, b"x" * 500_000, when=1000.0)
    watched.batch()
    assert not watched.trim(), "nothing is acknowledged"
    assert memory(home) - before > 1_500_000
    watched.acknowledge()
    assert watched.trim(), "one of three"
    assert 1_000_000 < memory(home) - before < 1_100_000
    assert watched.trim()
    assert not watched.trim()
    assert memory(home) - before < 50_000


def test_a_watch_that_does_not_consume_leaves_the_memory_to_others(home: Home) -> None:
    a = home.add("a")
    watched = Watch(home.processes, [a], consumes=False)
    home.write(a, b"one", when=1000.0)
    watched.batch()
    watched.acknowledge()
    assert not watched.trim()
    assert watch(home, a).batch() == [b"out:a:1000.0:3\none\n"]


def memory(home: Home) -> int:
    return os.fstat(home.store.fd).st_blocks * 512
