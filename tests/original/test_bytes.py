"""Bytes against a live papad: how they are cut does not matter, and none of them brings it down."""

from __future__ import annotations

import fcntl
import re
import select
import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.original.script import FIXED, PLACEHOLDER
from tests.original.servers import WELCOME, Server, running_original, running_papad
from tests.support.waiting import wait_until

SIOCOUTQ = 0x5411  # how much of what was sent the peer (over TCP: its kernel) has not taken yet
RESET = b"remove values a b x ok * *\nremove sockets\n"
ENDS_SESSION = re.compile(rb"\s*(q|qu|qui|quit)(\s|$)", re.IGNORECASE)
LOOKS_LIKE_HTTP = re.compile(rb"\x16\x03|\w+ .* HTTP/|[\w-]+:", re.IGNORECASE)

# fmt: off
COMMANDS = ["list", "make", "remove", "watch", "set", "get", "help", "l", "m", "r", "w", "s", "g", "h", "sockets",
            "processes", "values", "socket", "v", "p"]
PIECES = ["a", "b", "*", "a*", "x=1", "env.A=", '"', '"a"', "\\", "a\\", "\\ ", "$(socket.a.fileno)", "=", ":", "]", ">"]
SPECIAL = ["path=relative", "port=0", "port=-1", "port=x", "family=inet6", "ö", "日本", "\x00", "\x1b[0m", "\r", "\t"]
# fmt: on
words = st.sampled_from(COMMANDS + PIECES + SPECIAL).map(str.encode) | st.binary(max_size=6)
lines = st.lists(words, max_size=6).map(b" ".join).filter(lambda line: not re.match(rb"\s*m\w* p", line))
makes_nothing = st.sampled_from([word for word in COMMANDS + PIECES if word not in ("make", "m")]).map(str.encode)
repeatable = st.lists(makes_nothing, max_size=6).map(b" ".join)
# papad's errors are one line, so separators of lines become spaces there; `_` and words of blanks find internals of papa.
APART = re.compile(r"[^\S ]|[\x1c-\x1f_]")
plain = st.binary(max_size=6).filter(lambda word: not APART.search(word.decode("utf-8", "replace")))
# Help has words of its own, papad has commands of its own (d, o, %), new sockets have numbers of their own, and a session
# ended early loses answers over TCP.
comparable = (
    st.lists(makes_nothing | plain, max_size=6)
    .map(b" ".join)
    .filter(lambda x: not re.match(rb"(?i)[\s\\]*[hmqdo%]", x))
)
quick = settings(max_examples=120, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def papad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_papad(tmp_path_factory.mktemp("bytes") / "papad") as server:
        yield server


@pytest.fixture(scope="module")
def original(venv: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_original(tmp_path_factory.mktemp("bytes") / "papa") as server:
        yield server


def received(sock: socket.socket) -> bytes:
    """Everything up to the end of the connection."""
    parts: list[bytes] = []
    while True:
        try:
            part = sock.recv(65536)
        except ConnectionResetError:
            part = b""
        if not part:
            return b"".join(parts)
        parts.append(part)


def wait_taken(sock: socket.socket) -> None:
    """Until the server has read what was sent, so that the next piece reaches it by itself."""

    def taken() -> bool:
        return fcntl.ioctl(sock, SIOCOUTQ, bytes(4)) == bytes(4)

    deadline = time.monotonic() + 10
    while not taken():
        assert time.monotonic() < deadline, "the server does not read"
        select.select([sock], [], [], 0)


def answers(server: Server, pieces: list[bytes]) -> bytes:
    """What a server answers to pieces that reach it one by one, and to `quit` after them."""
    with server.connect(server.path) as sock:
        for piece in [*pieces, b"\nquit\n"]:
            try:
                sock.sendall(piece)
                wait_taken(sock)
            except (BrokenPipeError, ConnectionResetError):
                break
        return received(sock)


def cut(data: bytes, places: set[int]) -> list[bytes]:
    edges = [0, *sorted(place for place in places if 0 < place < len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def script_lines(name: str) -> bytes:
    text = (Path(__file__).parent / "scripts" / name).read_text()
    kept = [line for line in text.splitlines() if line and line[0] not in "#@!="]
    filled = [PLACEHOLDER.sub(lambda found: FIXED.get(found[1], "1")[:1000], line) for line in kept]
    return "\n".join(filled).encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("name", ["words.txt", "values.txt", "commands.txt", "help.txt"])
def test_a_script_cut_anyhow_is_answered_the_same(papad: Server, name: str) -> None:
    data = RESET + script_lines(name) + b"\n" + RESET
    whole = answers(papad, [data])
    assert whole.startswith(WELCOME)
    assert whole.endswith(b"> ok\n")
    assert answers(papad, data.splitlines(keepends=True)) == whole
    assert answers(papad, cut(data, set(range(len(data))))) == whole
    assert answers(papad, cut(data, set(range(0, len(data), 7)))) == whole


@quick
@given(st.lists(repeatable, max_size=12), st.sets(st.integers(1, 400), max_size=30), st.booleans())
def test_any_cut_is_answered_the_same(papad: Server, commands: list[bytes], places: set[int], ended: bool) -> None:
    data = RESET + b"\n".join(commands) + b"\n" * ended
    assert answers(papad, cut(data, places)) == answers(papad, [data])


@quick
@given(st.lists(comparable, max_size=12))
def test_any_words_are_answered_as_by_the_original(papad: Server, original: Server, commands: list[bytes]) -> None:
    data = RESET + b"\n".join(commands) + b"\n" + RESET
    assert answers(papad, [data]) == answers(original, [data])


@quick
@given(st.binary(max_size=60), st.sets(st.integers(1, 100), max_size=10))
@example("set ö 日本\nget ö".encode(), set(range(40)))
@example(b"set a \xc3\xb6\xc3\nget a\n\xf0\x9f", set(range(40)))
def test_any_cut_of_any_bytes_is_answered_the_same(papad: Server, data: bytes, places: set[int]) -> None:
    data = RESET + data
    assert answers(papad, cut(data, {len(RESET) + place for place in places})) == answers(papad, [data])


@quick
@given(st.lists(lines, max_size=12))
@example([b"POST / HTTP/1.1", b"Host: localhost", b"", b"set a 1"])
@example([b"\\" * 1000])
@example([b"\\ " * 1000 + b"x"])
@example([b"=" * 5000])
@example([b"set " + b"x " * 50_000])
@example([b"get \x00", b"\x00", b"set \x00 \x00", b"list values \x00"])
@example([b"list values " + b"*" * 5000])
@example([b"list values " + b"a* " * 5000])
@example([b"help " * 500, b"h h h h h"])
@example([b"make socket " + b"x" * 100_000, b"make socket x path=/" + b"x" * 5000])
@example([b"make socket x backlog=" + b"9" * 5000, b"make socket x port=" + b"9" * 5000])
@example([b"make socket x\xff", b"list sockets", b"make socket \x1b[0m", b"make socket a:b"])
@example([b"set \xed\xa0\x80 \xed\xa0\x80", b"list values", b"set \xe2\x80\xa8 a\xe2\x80\xa8b", b"list values"])
def test_garbage_is_survived(papad: Server, garbage: list[bytes]) -> None:
    """Each line is answered and the next command too, unless the lines end the session or look like HTTP."""
    data = b"\n".join([*garbage, b"", b"set ok 1", b"get ok"])
    reply = answers(papad, [data])
    sent = data.split(b"\n")
    if not any(ENDS_SESSION.match(line) for line in sent) and not any(map(LOOKS_LIKE_HTTP.match, sent)):
        assert reply.endswith(b"\n> 1\n> ok\n")
    assert answers(papad, [RESET + b"get ok"]).endswith(b"\n> \n> ok\n")


def resident(papad: Server) -> int:
    status = Path(f"/proc/{papad.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def test_a_line_without_end_is_refused(papad: Server) -> None:
    """papad neither keeps what has no end nor lets others wait."""
    assert papad.path is not None
    before = resident(papad)
    with papad.connect(papad.path) as sock:
        try:
            for _ in range(256):
                sock.sendall(b"x" * 1_048_576)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert answers(papad, [RESET]).endswith(b"> ok\n")
        assert resident(papad) - before < 64 * 1_048_576
        sock.shutdown(socket.SHUT_WR)
        assert b"\n> 1\n" not in received(sock)


def test_a_client_that_does_not_read_is_bounded(papad: Server) -> None:
    assert papad.path is not None
    assert answers(papad, [b"set x " + b"y" * 100_000]).endswith(b"> ok\n")
    before = resident(papad)
    with papad.connect(papad.path) as sock:
        sock.settimeout(1)
        try:
            for _ in range(5000):
                sock.sendall(b"get x\n" * 10)
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            pass
        assert answers(papad, [b"get ok"]).endswith(b"> ok\n")
        assert resident(papad) - before < 64 * 1_048_576
    wait_until(lambda: answers(papad, [RESET]).endswith(b"> ok\n"), "others are answered")
