"""Text for terminals: tables, sizes, and nothing that a terminal would obey. The pager: tests/ctl/test_output_terminal.py."""

from __future__ import annotations

import os
import pty
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papad.ctl.render import BOLD, PLAIN, RED, colourful, output_stream, paint, safe, safe_text, size, table


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain \xc3\xa9 \xf0\x9f\x98\x80\ttab", "plain é 😀\ttab"),
        (b"\x1b[31m\x07\x00\x7f", "\\x1b[31m\\x07\\x00\\x7f"),
        (b"a\nb\rc", "a\\x0ab\\x0dc"),
        (b"\xff\xc3", "\\xff\\xc3"),
        (b"\xc2\x9b1m", "\\x9b1m"),
        ("\u202eevil\u2066\u2028".encode(), "\\u202eevil\\u2066\\u2028"),
        (b"", ""),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(data: bytes, text: str) -> None:
    assert safe(data) == safe_text(data.decode("utf-8", "surrogateescape")) == text


@given(st.binary(max_size=30))
def test_whatever_the_bytes_no_control_character_is_left(data: bytes) -> None:
    text = safe(data)
    assert not {*text} & ({chr(code) for code in (*range(32), *range(0x7F, 0xA0))} - {"\t"})
    text.encode()


def test_columns_are_aligned_numbers_to_the_right_and_empty_ones_left_out() -> None:
    rows = [["web", "80", "", "1.5 MB", "x"], ["longer", "8080", "", "12 B", ""]]
    assert table(("NAME", "PORT", "NONE", "SIZE", "NOTE"), rows) == [
        "NAME    PORT    SIZE  NOTE",
        "web       80  1.5 MB  x",
        "longer  8080    12 B",
    ]
    assert table(("A", "B"), []) == [""]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, ""),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_449, "99.4 kB"),
        (99_500, "100 kB"),
        (999_499, "999 kB"),
        (999_700, "1.0 MB"),
        (999_700_000, "1.0 GB"),
        (1_500_000, "1.5 MB"),
        (64 << 20, "67.1 MB"),
        (2_500_000_000, "2.5 GB"),
        (5_000_000_000_000, "5000.0 GB"),
    ],
)
def test_sizes(count: int | None, text: str) -> None:
    assert size(count) == text


@contextmanager
def at_a_terminal() -> Iterator[None]:
    """Standard output is a terminal."""
    other, own = pty.openpty()
    with os.fdopen(other, "rb"), os.fdopen(own, "w") as stream, redirect_stdout(stream):
        yield


@pytest.mark.parametrize(
    ("env", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, False)],
)
def test_colour_where_a_terminal_has_it_and_nobody_objects(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], coloured: bool
) -> None:
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with at_a_terminal():
        found = colourful(), paint("x", RED), paint("x", ""), table(("A",), [["1"]])
    if coloured:
        assert found == (True, f"{RED}x{PLAIN}", "x", [f"{BOLD}A{PLAIN}", "1"])
    else:
        assert found == (False, "x", "x", ["A", "1"])


def test_without_a_terminal_there_is_no_colour_and_no_pager(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("PAPAD_PAGER", "false")
    assert paint("x", RED) == "x"
    with output_stream(pager=True) as stream:
        stream.write(b"\xff\n")
    assert capsysbinary.readouterr().out == b"\xff\n"
