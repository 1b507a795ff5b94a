"""What a watcher hands out of what comes, and what it watches after a restart. test_responses.py has what comes twice."""

from __future__ import annotations

import pytest

from papad.protocol.responses import Batch, ProcessOutput
from papad.protocol.watching import WatchBatch, Watched

ONE, TWO = ProcessOutput("x", 1.0, b"one"), ProcessOutput("x", 2.0, b"two")
END = ProcessOutput("x", 3.0, -9)


def test_a_batch_is_to_be_acknowledged_and_the_end_is_not() -> None:
    watched = Watched(("x",))
    assert not watched.unacknowledged
    assert watched.take(Batch([ONE], [TWO])) == WatchBatch([ONE], [TWO], [])
    assert watched.unacknowledged
    assert watched.exit_code == {}
    assert watched.take(Batch(closed=[END])) == ([], [], [END])
    assert watched.take(Batch(final="Nothing left to watch")) is None
    assert not watched.unacknowledged
    assert watched.exit_code == {"x": -9}


def test_only_the_first_batch_after_a_restart_may_repeat_the_last_before() -> None:
    watched = Watched(("x",))
    watched.take(Batch([ONE]))
    watched.again = True
    assert watched.take(Batch([ONE, TWO])) == ([TWO], [], [])
    assert watched.take(Batch([TWO])) == ([TWO], [], []), "papad says the same once more"


def test_what_was_dropped_after_one_restart_is_dropped_after_the_next() -> None:
    watched = Watched(("x",))
    given = []
    for batch in (Batch([ONE]), Batch([ONE]), Batch([ONE, TWO])):
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
