"""The bytes of the protocol: however they are cut, whatever they hold."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papad.protocol import wire
from papad.protocol.wire import LineReader, LineTooLong

LINES = [b"", b"a", b"hello world", b"x" * 10, b"\xff\xfe", b"a\r"]


def kinds(lines: list[bytes | LineTooLong]) -> list[bytes | None]:
    return [line if isinstance(line, bytes) else None for line in lines]


def fed(data: bytes, cuts: list[int], limit: int = 1000) -> list[bytes | None]:
    reader = LineReader(limit)
    lines: list[bytes | LineTooLong] = []
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, stop in itertools.pairwise(edges):
        lines += reader.feed(data[start:stop])
    return kinds(lines)


@given(st.lists(st.sampled_from(LINES)), st.lists(st.integers(0, 100)), st.sampled_from([b"", b"half a line"]))
def test_lines_are_the_same_however_the_bytes_are_cut(lines: list[bytes], cuts: list[int], tail: bytes) -> None:
    data = b"".join(line + b"\n" for line in lines) + tail
    assert fed(data, cuts) == lines
    assert fed(data, list(range(len(data)))) == lines


@given(st.lists(st.integers(0, 30), max_size=8), st.lists(st.integers(0, 200)))
def test_a_line_over_the_limit_is_reported_once_and_the_next_one_is_understood(
    sizes: list[int], cuts: list[int]
) -> None:
    data = b"".join(b"x" * size + b"\n" for size in sizes)
    assert fed(data, cuts, limit=10) == [b"x" * size if size <= 10 else None for size in sizes]


def test_a_line_without_end_is_reported_before_it_ends_and_takes_no_memory() -> None:
    reader = LineReader(10)
    assert kinds(reader.feed(b"x" * 11)) == [None]
    for _ in range(100):
        assert reader.feed(b"x" * 1000) == []
        assert sum(map(len, reader._parts)) <= 10
    assert kinds(reader.feed(b"x\nnext\n")) == [b"next"]


WORDS = {
    "": [],
    "   ": [],
    "a b": ["a", "b"],
    "a  b": ["a", "b"],
    r"a\ b c": ["a b", "c"],
    r"a\  b": ["a b"],
    "a\\": ["a "],
    r"a\ b\ c": ["a b c"],
    r"a\b c": [r"a\b", "c"],
    r'env.A="C:\" x': ['env.A="C:\\"', "x"],
}


@pytest.mark.parametrize(("line", "words"), WORDS.items())
def test_words_are_split_at_blanks_that_no_backslash_precedes(line: str, words: list[str]) -> None:
    assert wire.split_words(line) == words


@given(
    st.lists(st.text(st.characters(exclude_characters="\\\n", exclude_categories=["Z", "C"]), min_size=1, max_size=9))
)
def test_words_joined_by_a_client_are_split_as_they_were(words: list[str]) -> None:
    spaced = [f"{word} {word}" for word in words]
    assert wire.split_words(wire.decode(wire.join_words(spaced))) == spaced


@given(st.binary(max_size=60))
def test_any_bytes_decode_and_split_without_an_exception(data: bytes) -> None:
    words = wire.split_words(wire.decode(data))
    wire.split_options(words)
    assert all(isinstance(word, str) and word for word in words) or data


OPTIONS = {
    "a=1 b=2 cmd c=3": ({"a": "1", "b": "2"}, ["cmd", "c=3"]),
    "a= cmd": ({"a": ""}, ["cmd"]),
    "a=b=c cmd": ({"a": "b=c"}, ["cmd"]),
    'a="x" cmd': ({"a": "x"}, ["cmd"]),
    'a=" cmd': ({"a": '"'}, ["cmd"]),
    'a="" cmd': ({"a": ""}, ["cmd"]),
    "a=1 a=2": ({"a": "2"}, []),
    "": ({}, []),
}


@pytest.mark.parametrize(("line", "expected"), OPTIONS.items())
def test_options_are_the_leading_words_with_an_equals_sign(line: str, expected: tuple[dict, list]) -> None:
    assert wire.split_options(wire.split_words(line)) == expected


HTTP = [
    b"GET / HTTP/1.1",
    b"POST /x y HTTP/1.0\r",
    b"post / HTTP/2",
    b"Host: localhost",
    b"content-length: 5",
    b"\x16\x03\x01\x02",
    b"OPTIONS * HTTP/1.1",
    b"M1 / HTTP/1.1",
    b"a!b / HTTP/1.1",
    b"Origin: null",
    b"Sec-Fetch-Site: cross-site",
    b"Content-Anything: x",
    b"Accept: */*",
    b"CLIENT libcurl 8.14.1\r",
]


@pytest.mark.parametrize("line", HTTP)
def test_a_browser_is_recognised(line: bytes) -> None:
    assert wire.looks_like_http(line)


@pytest.mark.parametrize(
    "line", [b"", b"get x", b"get HTTP", b"list sockets", b"set url http://x/", b"help", b"h", b"client"]
)
def test_a_command_is_not_taken_for_a_browser(line: bytes) -> None:
    assert not wire.looks_like_http(line)


@pytest.mark.parametrize(
    "line", [b"set / HTTP/1.1", b"get /x y HTTP/1.0\r", b"set  http://x/ HTTP/1.1", b"set * HTTP/2"]
)
def test_a_command_with_a_target_is_a_browser(line: bytes) -> None:
    assert wire.looks_like_http(line, command=True)


@pytest.mark.parametrize("line", [b"set a HTTP/1.1", b"%set a HTTP/1.1", b"set / http", b"get Host: x"])
def test_a_command_may_speak_of_http(line: bytes) -> None:
    assert not wire.looks_like_http(line, command=True)


def test_a_reply_ends_in_one_newline_and_the_prompt() -> None:
    assert wire.reply("x") == wire.reply("x\n") == b"x\n> "
    assert wire.reply("") == b"\n> "
    assert wire.reply("caf\u00e9 \udce9") == b"caf\xc3\xa9 \xe9\n> "


@pytest.mark.parametrize("message", ["two\nlines", "a\r\nb", "a\u2028b", "a\x85b"])
def test_an_error_is_one_line_whatever_it_says(message: str) -> None:
    assert wire.error(message).count(b"\n") == 1
    assert wire.error(message).startswith(b"Error: ")


def test_records_of_a_watch_say_how_long_they_are() -> None:
    assert wire.output_record("out", "web.1", 1.5, b"a\nb") == b"out:web.1:1.5:3\na\nb\n"
    assert wire.closed_record("web.1", 1.5, -9) == b"closed:web.1:1.5:-9\n"
