"""What papad writes, read back: the writers of wire.py and the server against the reader, however the bytes are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papad.errors import ConnectionLost, Error
from papad.protocol import wire
from papad.protocol.responses import DONE, Batch, Frame, Handed, Incoming, Record

names = st.sampled_from(["x", "a:b", "ö", "out:1:2", "] ", "> "])
times = st.floats(0, 2e9).map(lambda value: round(value, 6))
datas = st.binary(max_size=20) | st.sampled_from([b"\n> ", b"] ", b"Error: x\n> ", b"closed:x:1:0\n"])
outputs = st.tuples(st.sampled_from(["out", "err"]), names, times, datas)
ends = st.tuples(st.just("closed"), names, times, st.integers(-64, 256))
sizes = st.integers(1, 50)


def taken(data: bytes, size: int, take: Callable[[Incoming], object]) -> Iterator[object]:
    """What can be taken as the bytes come in pieces of one size."""
    incoming = Incoming()
    for start in range(0, len(data), size):
        incoming.feed(data[start : start + size])
        while (found := take(incoming)) is not None:
            yield found
    assert not incoming


@given(st.lists(st.lists(outputs | ends, max_size=4), max_size=3), sizes)
def test_batches(batches: list[list[tuple[str, str, float, bytes | int]]], size: int) -> None:
    data = b""
    for batch in batches:
        for kind, name, time, item in batch:
            record = wire.output_record(kind, name, time, item) if isinstance(item, bytes) else b""
            data += record or wire.closed_record(name, time, int(item))  # type: ignore[arg-type]
        data += wire.BATCH_END
    data += wire.reply(wire.NOTHING_LEFT)
    expected = [Batch([Record(*each) for each in batch]) for batch in batches]  # type: ignore[arg-type]
    assert list(taken(data, size, Incoming.batch)) == [*expected, Batch([], wire.NOTHING_LEFT)]


@given(st.lists(st.builds(Frame, st.sampled_from(["out", "err"]), names, times, datas, sizes, sizes)), sizes)
def test_frames(frames: list[Frame], size: int) -> None:
    frames += [Frame("lost", "a:b", 1.5, 7, 3, 9), Frame("closed", "x", 2.5, -9, 3, 11)]
    frames.append(Frame("exited", "x", 2.25, -9, 3, 10))
    data = b""
    for kind, name, time, item, id, position in frames:
        number = len(item) if isinstance(item, bytes) else item
        data += f"{kind}:{name}:{time}:{number}:{id}:{position}\n".encode()
        data += item + b"\n" if isinstance(item, bytes) else b""
    found = list(taken(data + wire.PROMPT, size, Incoming.frame))
    assert found[:-1] == frames
    assert found[-1] is DONE
    assert list(taken(wire.reply(""), size, Incoming.frame)) == [DONE]


@given(st.text(st.characters(codec="utf-8", exclude_characters=">")), sizes)
def test_answers(text: str, size: int) -> None:
    if not text.startswith("Error: "):
        assert list(taken(wire.reply(text), size, Incoming.answer)) == [text.removesuffix("\n")]


@pytest.mark.parametrize("take", [Incoming.answer, Incoming.line, Incoming.frame])
@given(size=sizes)
def test_errors(take: Callable[[Incoming], object], size: int) -> None:
    with pytest.raises(Error, match=r"^no such thing$"):
        list(taken(wire.error("no such thing"), size, take))


@pytest.mark.parametrize("take", [Incoming.line, Incoming.frame])
def test_an_error_may_be_followed_by_the_answer_to_another_line(take: Callable[[Incoming], object]) -> None:
    incoming = Incoming()
    incoming.feed(wire.error("no such thing") + wire.PROMPT)
    with pytest.raises(Error, match=r"^no such thing$"):
        take(incoming)


def test_an_end_is_an_answer_only_after_the_last_words() -> None:
    incoming = Incoming()
    incoming.feed(b"ok\n")
    incoming.feed(b"")
    assert incoming.answer() == "ok"
    for data in (b"", b"ok", b"Exiting pa", b"x\n", b"o"):
        incoming = Incoming()
        incoming.feed(data or b"a")
        with pytest.raises(ConnectionLost):
            incoming.feed(b"")


def out(name: str, time: float, data: bytes) -> Record:
    return Record("out", name, time, data)


ERR = Record("err", "x", 1.5, b"err")
HANDED = [
    out("x", 1.0, b"one"),
    ERR,
    out("x", 2.0, b"two"),
    out("y", 1.0, b"why"),
    Record("closed", "y", 3.0, 0),
]
COMES = {
    "all of it again": (HANDED, []),
    "none of it": (
        [out("x", 3.0, b"one"), Record("closed", "x", 4.0, 0)],
        [out("x", 3.0, b"one"), Record("closed", "x", 4.0, 0)],
    ),
    "that of one process, and more": (
        [out("x", 1.0, b"one"), ERR, out("x", 2.0, b"two"), out("x", 2.5, b"new")],
        [out("x", 2.5, b"new")],
    ),
    "with more in the newest record": (
        [out("x", 1.0, b"one"), ERR, out("x", 2.0, b"two and more")],
        [out("x", 2.0, b" and more")],
    ),
    "with the oldest overwritten": (
        [out("x", 2.0, b"wo"), out("x", 3.0, b"new")],
        [out("x", 3.0, b"new")],
    ),
    "the same text at another time": ([out("x", 9.0, b"one")], [out("x", 9.0, b"one")]),
}


@pytest.mark.parametrize("what", COMES)
def test_what_was_handed_out_is_taken_out_of_what_comes_again(what: str) -> None:
    comes, expected = COMES[what]
    handed = Handed()
    handed.note(HANDED)
    assert handed.strip(comes) == expected
