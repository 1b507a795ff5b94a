"""What a watcher hands out of what comes, and what it watches after a restart. test_responses.py has what comes twice."""

from __future__ import annotations

import pytest

from papad.protocol.responses import Batch, Frame, ProcessOutput, Record
from papad.protocol.watching import Later, WatchBatch, Watched

ONE, TWO = ProcessOutput("x", 1.0, b"one"), ProcessOutput("x", 2.0, b"two")
END = ProcessOutput("x", 3.0, -9)


def sent(*out: ProcessOutput[bytes]) -> Batch:
    return Batch([Record("out", *item) for item in out])


def test_a_batch_is_to_be_acknowledged_and_the_end_is_not() -> None:
    watched = Watched(("x",))
    assert not watched.unacknowledged
    assert watched.take(Batch([Record("out", *ONE), Record("err", *TWO)])) == WatchBatch([ONE], [TWO], [])
    assert watched.unacknowledged
    assert watched.exit_code == {}
    assert watched.take(Batch([Record("closed", *END)])) == ([], [], [END])
    assert watched.take(Batch([], "Nothing left to watch")) is None
    assert not watched.unacknowledged
    assert watched.exit_code == {"x": -9}


def test_only_the_first_batch_after_a_restart_may_repeat_the_last_before() -> None:
    watched = Watched(("x",))
    watched.take(sent(ONE))
    watched.again = True
    assert watched.take(sent(ONE, TWO)) == ([TWO], [], [])
    assert watched.take(sent(TWO)) == ([TWO], [], []), "papad says the same once more"


def test_what_was_dropped_after_one_restart_is_dropped_after_the_next() -> None:
    watched = Watched(("x",))
    given = []
    for batch in (sent(ONE), sent(ONE), sent(ONE, TWO)):
        found = watched.take(batch)
        assert found is not None
        given.append(found.out)
        watched.again = True
    assert given == [[ONE], [], [TWO]]


LEFT: list[tuple[tuple[object, ...], list[object]]] = [
    ((), ["*"]),
    ((None,), ["*"]),
    (("x",), ["x"]),
    ((b"x", "gone"), [b"x"]),
    ((7, "7", 8), [7, "7"]),
    (("gone*", "gone"), ["gone*"]),
    (("gone",), []),
]


@pytest.mark.parametrize(("patterns", "left"), LEFT)
def test_what_is_gone_is_not_watched_again(patterns: tuple[object, ...], left: list[object]) -> None:
    assert Watched(patterns).left({"x": {"pid": 7}}) == left


def test_records_come_in_the_order_of_time_and_those_of_a_process_as_they_were_sent() -> None:
    """Whatever the clock said: y's went back."""
    x = [Record("out", "x", 1.0, b"1"), Record("err", "x", 1.0, b"2"), Record("out", "x", 3.0, b"3")]
    y = [Record("out", "y", 2.0, b"a"), Record("out", "y", 0.5, b"b"), Record("closed", "y", 4.0, 0)]
    watched = Watched(())
    watched.take(Batch([*x, *y]))
    watched.spread()
    assert [record.data for record in watched.rest] == [b"1", b"2", b"a", b"b", b"3", 0]
    watched.rest.popleft()
    assert watched.take_rest() == ([y[0][1:], y[1][1:], x[2][1:]], [x[1][1:]], [y[2][1:]])
    assert not watched.rest


def test_what_is_handed_out_one_by_one_is_new_too() -> None:
    watched = Watched(("x",))
    watched.take(sent(ONE))
    watched.again = True
    watched.take(sent(ONE, TWO))
    watched.spread()
    assert [record.data for record in watched.rest] == [b"two"]


def test_only_a_process_made_later_is_new() -> None:
    later = Later(("x*", 7))
    assert later.inquiry.line == b"%describe processes x* 7\n"
    later.know([{"id": 5}, {"id": 3}])
    assert later.line() == b"%%output follow=1 after.3=%d after.5=%d x* 7\n" % (10**18, 10**18)
    for id, new in ((3, False), (4, True), (5, False)):
        assert later.is_new(Frame("closed", "x", 1.0, 0, id, 9)) is new
