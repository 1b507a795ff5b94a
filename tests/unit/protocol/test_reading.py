"""What is read of the output, and how it goes on after a restart."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from papad.protocol.reading import Reading
from papad.protocol.responses import Frame


def frame(
    kind: Literal["out", "err", "lost", "closed", "exited"], data: bytes | int, position: int, id: int = 5
) -> Frame:
    return Frame(kind, "x", 1.0, data, id, position)


def described(**captured: int) -> list[dict[str, Any]]:
    return [{"id": int(id[1:]), "captured": captured[id]} for id in captured]


LINES: dict[bytes, Reading] = {
    b"%output": Reading(),
    b"%output x* 7": Reading(("x*", 7, None)),
    b"%output follow=1 x": Reading(("x",), follow=True),
    b"%output last=0": Reading(last=0),
    b"%output since=1.5 stream=err bytes=9": Reading(since=1.5, until=None, stream="err", bytes=9),
    b"%output after.5=0 after.6=3 before.5=9 x": Reading(("x",), after={5: 0, 6: 3}, before={5: 9}),
}


@pytest.mark.parametrize("line", LINES, ids=bytes.decode)
def test_it_is_one_line(line: bytes) -> None:
    assert LINES[line].line() == line + b"\n"


def test_what_nobody_can_select_by_is_told() -> None:
    with pytest.raises(TypeError, match=r"selected by last, bytes, .*, not by lines"):
        Reading(lines=3)  # type: ignore[call-arg]


def test_it_goes_on_where_it_was() -> None:
    reading = Reading(("x",), follow=True, since=1.0, before={5: 9})
    assert reading.inquiry is None
    reading.line()
    for each in (frame("out", b"one", 0), frame("err", b"two", 3), frame("out", b"other", 0, id=6)):
        assert reading.take(each)
    assert reading.inquiry is not None
    assert reading.inquiry.line == b"%describe processes x\n"
    reading.locate(described(_5=6, _6=5))
    assert reading.line() == b"%output since=1.0 follow=1 after.5=6 after.6=5 before.5=9 x\n"


def test_what_was_lost_counts_as_read() -> None:
    reading = Reading()
    reading.line()
    assert reading.take(frame("lost", 100, 100))
    assert reading.positions == {5: 100}


def test_processes_that_are_gone_are_forgotten() -> None:
    """papad would not know their ids."""
    reading = Reading()
    reading.line()
    for each in (frame("out", b"one", 0), frame("closed", 0, 3), frame("out", b"two", 0, id=6)):
        reading.take(each)
    reading.locate(described(_6=3))
    assert reading.line() == b"%output after.6=3\n"
    assert reading.take(frame("closed", 0, 3)), "of another process by now"


def test_an_end_is_told_once() -> None:
    reading = Reading()
    reading.line()
    assert reading.take(frame("closed", 0, 3))
    reading.locate(described(_5=3))
    reading.line()
    assert not reading.take(frame("closed", 0, 3))
    assert reading.take(frame("exited", 0, 3))
    assert not reading.take(frame("exited", 0, 3))
    assert reading.take(frame("closed", 0, 3, id=6))


def test_the_newest_output_is_read_in_one_go() -> None:
    """What the newest is may be different after a restart."""
    for selection in ({"last": 2}, {"bytes": 0}):
        reading = Reading(**selection)  # type: ignore[arg-type]
        assert reading.atomic
        line = reading.line()
        reading.take(frame("out", b"one", 7))
        assert reading.inquiry is None
        assert reading.line().startswith(line[:-1])
        assert reading.ended()
    assert not Reading().atomic


def test_a_follower_of_the_newest_goes_on_with_what_is_new() -> None:
    """Of those that were there, and of those that came later."""
    reading = Reading(follow=True, last=1, after={7: 2})
    assert reading.inquiry is not None
    assert reading.inquiry.line == b"%describe processes\n"
    reading.locate(described(_5=10, _6=20, _7=30))
    for _ in range(2):
        assert reading.atomic, "what is cut off comes again"
        assert reading.line() == b"%output last=1 follow=1 after.7=2\n\n"
    reading.take(frame("out", b"ten", 7))
    assert not reading.ended(), "only what exists was read"
    assert reading.line() == b"%output follow=1 after.7=2 after.5=10 after.6=20\n"
    reading.take(frame("out", b"new", 10))
    reading.locate(described(_5=13, _6=25, _7=30, _8=4))
    assert reading.line() == b"%output follow=1 after.7=2 after.5=13 after.6=20\n"
    assert reading.ended()
