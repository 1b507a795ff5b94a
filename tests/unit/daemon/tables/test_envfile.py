"""Files of variables, in the form of EnvironmentFile= of systemd."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest

from papad.daemon.tables.envfile import parse, read
from papad.errors import Error

WRITTEN = [
    # text, and the variables in it
    ("", {}),
    ("A=1\nB=two words\n", {"A": "1", "B": "two words"}),
    ("A=1", {"A": "1"}),
    ("# A=0\n; B=0\n\n  \t\nA=1\n", {"A": "1"}),
    ("# a comment that goes on \\\nA=0\nB=1\n", {"B": "1"}),
    ("A=1 # no comment\n", {"A": "1 # no comment"}),
    ("  A = 1  \n", {"A": "1"}),
    ("A=\nB=\n", {"A": "", "B": ""}),
    ("A='a  b '\nB=\"c  d \"\n", {"A": "a  b ", "B": "c  d "}),
    ("A='a\nb'\n", {"A": "a\nb"}),
    ('A="a\\"b\\\\c\\$d\\e"\n', {"A": 'a"b\\c$d\\e'}),
    ("A='a\\b'\n", {"A": "a\\b"}),
    ("A=a\\ b\\\\c\\\nd\n", {"A": "a b\\cd"}),
    ("A=1\nA=2\n", {"A": "2"}),
    ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
    ("A=b=c\n", {"A": "b=c"}),
    ("A=O'Neill\nB='O'\"'\"'Neill'\n", {"A": "O'Neill", "B": "O'Neill"}),
    ("A=a\\  \nB=\\\\  \n", {"A": "a ", "B": "\\"}),
    ("A=caf\u00e9 \udce9\n", {"A": "caf\u00e9 \udce9"}),
]


@pytest.mark.parametrize(("text", "found"), WRITTEN)
def test_variables_are_read(text: str, found: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read(str(path)) == read(f"-{path}") == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=1\nsecret\n", "line 2: not NAME=VALUE; a comment begins with #"),
        ("\n1A=secret\n", "line 2: not NAME=VALUE"),
        ("export A=secret\n", "line 1: not NAME=VALUE"),
        ("# one\nA='secret\n", "line 2: a quote of A has no end"),
        ('A="secret\\"\n', "line 1: a quote of A has no end"),
        ("A=sec\0ret\n", "line 1: A cannot hold the character NUL"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_no_value(text: str, message: str) -> None:
    with pytest.raises(Error) as error:
        parse(text, "/env")
    assert str(error.value).startswith(f"env_file /env, {message}")
    assert "secret" not in str(error.value)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    missing, fifo, large = tmp_path / "missing", tmp_path / "fifo", tmp_path / "large"
    os.mkfifo(fifo)
    large.write_bytes(b"#" * ((1 << 20) + 1))
    assert read(f"-{missing}") == {}
    for path, reason in (
        (missing, f"No such file or directory; if it may be missing: env_file=-{missing}"),
        (tmp_path, "it is no regular file"),
        (fifo, "it is no regular file"),
        (large, "it has more than 1 MiB"),
    ):
        with pytest.raises(Error) as error:
            read(str(path))
        assert str(error.value) == f"Cannot read env_file {path}: {reason}"


def test_the_largest_file_is_read_in_no_time(tmp_path: Path) -> None:
    """The thread that reads it holds up all others while it takes it apart."""
    for text in (
        b"A=b\n" * 250_000,
        b"A=" + b" " * 1_000_000 + b"x",
        b"A='" + b"\\" * 1_000_000,
        b'A="' + b"\\a" * 500_000,
    ):
        path = tmp_path / "env"
        path.write_bytes(text)
        before = time.process_time()
        with contextlib.suppress(Error):
            read(str(path))
        assert time.process_time() - before < 2
