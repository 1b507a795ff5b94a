"""Whatever is put into arguments, values and the environment arrives as it is."""

from __future__ import annotations

import ast
import itertools
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from papad import Error, Papa

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
awkward = st.sampled_from(
    ["", " ", "\n", "\\", '"', "a\\ ", " a", "a ", "a=b", "=", "%", "%41", "> ", "\n> ", "*", "'", "\r\n", "\x85"]
)
words = text | awkward
names = words.filter(lambda name: name and "\n" not in name and not name.endswith("*"))
quick = settings(max_examples=50, deadline=None, database=None, suppress_health_check=list(HealthCheck))
numbers = itertools.count()


def printed(p: Papa, program: str, **options: object) -> object:
    """What a Python program prints as a literal."""
    name = f"p{next(numbers)}"
    arguments = ["-S", "-c", program, *options.pop("args", [])]  # type: ignore[misc]
    watcher = p.make_process(name, sys.executable, arguments, watch_immediately=True, **options)  # type: ignore[call-overload]
    out = b""
    while (batch := watcher.read()) is not None:
        assert not batch.err, batch.err
        out += b"".join(item.data for item in batch.out)
    assert watcher.exit_code == {name: 0}
    return ast.literal_eval(out.decode())


@quick
@given(args=st.lists(words | st.binary().map(lambda data: data.replace(b"\0", b"")), max_size=5))
def test_arguments(p: Papa, args: list[str | bytes]) -> None:
    expected = [arg if isinstance(arg, bytes) else arg.encode() for arg in args]
    assert printed(p, "import os, sys; print([os.fsencode(arg) for arg in sys.argv[1:]])", args=args) == expected


@quick
@given(value=st.binary(max_size=50).map(lambda data: data.replace(b"\0", b"")))
def test_any_byte_in_the_environment(p: Papa, value: bytes) -> None:
    env = {"A": value, "B": "ö\n", b"C": Path("/x y")}
    expected = {b"A": value, b"B": "ö\n".encode(), b"C": b"/x y"}
    got = printed(p, "import os; print(dict(os.environb))", env=env)
    assert isinstance(got, dict)
    assert {key: got[key] for key in expected} == expected
    assert set(got) - set(expected) <= {b"LC_CTYPE"}  # Python sets this by itself


@quick
@given(name=names, value=words)
def test_values(p: Papa, name: str, value: str) -> None:
    p.set(name, value)
    assert p.get(name) == (value or None)
    assert p.list_values().get(name) == (value or None)
    p.set(name)
    assert p.get(name) is None


@quick
@given(name=names)
def test_names_of_processes_and_their_output(p: Papa, name: str) -> None:
    p.make_process(name, "/bin/echo", ["hi"])
    (described,) = [each for each in p.describe("processes") if each["name"] == name]
    assert p.list_processes()[name]["pid"] == described["pid"]
    frame = next(p.follow(described["pid"]))
    assert (frame.kind, frame.name, frame.data) == ("out", name, b"hi\n")
    with p.watch_processes(described["pid"]) as watcher:
        while (batch := watcher.read()) is not None:
            assert [item.name for item in (*batch.out, *batch.closed)] in ([name], [name, name], [])
    assert watcher.exit_code == {name: 0}
    assert p.describe("processes") == []


def test_what_cannot_be_sent_is_an_error_and_the_connection_goes_on(p: Papa) -> None:
    with pytest.raises(Error, match="cannot be sent"):
        p.set("a", "\ud800")
    with pytest.raises(Error, match="NUL"):
        p.make_process("a", "/bin/echo", ["\0"])
    with pytest.raises(Error, match="name"):
        p.make_process("two\nlines", "/bin/true")
    with pytest.raises(Error, match="too long"):
        p.set("a", "x" * 5_000_000)
    p.set("a", "1")
    assert p.get("a") == "1"
