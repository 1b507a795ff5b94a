"""A real papad under clients that are slow, wrong, greedy or gone."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from papad.protocol import wire
from tests.support.papad import Daemon, Talk, open_fds
from tests.support.waiting import wait_until


@pytest.fixture(params=["unix", "tcp"])
def talk(papad: Daemon, request: pytest.FixtureRequest) -> Iterator[Talk]:
    with papad.connect(tcp=request.param == "tcp") as talk:
        yield talk


def test_a_line_that_is_too_long_is_one_error_and_the_next_line_works(talk: Talk) -> None:
    talk.send(b"set big " + b"x" * (5 << 20) + b"\nget nothing\nset a b\nget a\n")
    text = talk.until(b"> b\n> ").decode()
    assert re.fullmatch(r"Error: The line is too long; at most \d+ bytes [^\n]*\n> \n> \n> b\n> ", text)


def test_a_line_of_three_mebibytes_works(talk: Talk) -> None:
    word = "x" * (3 << 20)
    assert talk.ask(f"set big {word}") == ""
    assert talk.ask("get big") == word
    assert talk.ask("set big") == ""
    assert talk.ask("get big") == ""


def test_a_thousand_lines_at_once_are_answered_in_order(talk: Talk) -> None:
    lines = [f"set n{number % 7} {number}\nget n{number % 7}" for number in range(1000)]
    talk.send("\n".join(lines) + "\n")
    expected = b"".join(b"\n> %d\n> " % number for number in range(1000))
    assert talk.exactly(len(expected)) == expected


def test_what_was_asked_before_the_end_is_still_answered(talk: Talk) -> None:
    talk.send("set a 1\nget a\nmake process end /bin/true\nget a\nremove processes end\nget unfinished")
    talk.sock.shutdown(socket.SHUT_WR)
    assert re.fullmatch(rb"\n> 1\n> end pid=\d+ running=True [^\n]*\n> 1\n> \n> ", talk.rest())


def test_quit_answers_and_closes(talk: Talk) -> None:
    talk.send("quit\nset after quit\n")
    assert talk.rest() == b"ok\n"


def test_an_empty_line_is_answered_with_the_prompt_alone(talk: Talk) -> None:
    talk.send("\n  \n\r\n")
    assert talk.exactly(6) == b"> > > "


LINES = b"Host: localhost\r\nContent-Length: 22\r\n\r\nset http executed\r\n\r\n"
REQUESTS = [
    b"GET / HTTP/1.1\r\n" + LINES,
    b"POST /set HTTP/1.1\r\n" + LINES,
    b"\x16\x03\x01\x02\x00\x01\x00\n",
    b"M1 / HTTP/1.1\r\n" + LINES,
    b"a!b / HTTP/1.1\r\n" + LINES,
    b"set / HTTP/1.1\r\n" + LINES,
    b"\r\nPOST / HTTP/1.1\r\n" + LINES,
    b"no such command\nPOST / HTTP/1.1\r\n" + LINES,
    b"list sockets\nPOST / HTTP/1.1\r\n" + LINES,
    b"list sockets\nGET / HTTP/1.1\r\n" + LINES,
    b"list sockets\nM1 / x\r\nOrigin: http://somewhere\r\n",
    b"x\nSec-Fetch-Mode: cors\r\n",
    b"CLIENT libcurl 8.14.1\r\nset http executed\r\nQUIT\r\n",
    *(b"%s: x\n" % header for header in (b"Host", b"origin", b"Content-Type", b"Sec-WebSocket-Key", b"Accept")),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_browser_is_dropped_and_nothing_of_it_is_executed(papad: Daemon, request_: bytes) -> None:
    with papad.connect(tcp=True) as talk:
        talk.send(request_ + b"set http executed\n")
        assert b"http" not in talk.rest()
    assert papad.ask("get http") == ""
    assert papad.ask("list values") == ""


def test_what_only_resembles_http_is_executed(papad: Daemon) -> None:
    with papad.connect() as talk:
        assert talk.ask("set a HTTP/1.1") == ""
        assert talk.ask("get a") == "HTTP/1.1"
        assert talk.ask("set url / HTTP/1.1") == ""
        assert talk.ask("set Host: x") == ""
        assert talk.ask("no: such") == 'Error: Unknown command "no:"'


def test_a_client_that_reads_nothing_costs_little_and_holds_up_nobody(papad: Daemon) -> None:
    papad.ask("set big " + "x" * (1 << 20))
    before = papad.rss()
    with papad.connect() as slow:
        slow.sock.setblocking(False)
        asked = 0
        deadline = time.monotonic() + 5
        line = b"get big\n" * 100
        while asked < 2000 and time.monotonic() < deadline:
            try:
                asked += slow.sock.send(line) // 8
            except BlockingIOError:
                break
        assert asked >= 100
        with papad.connect() as other:
            for _ in range(200):
                assert len(other.ask("list values n*")) < 1000
        assert papad.rss() - before < 64 << 20
        slow.sock.settimeout(10)
        answer = b"x" * (1 << 20) + b"\n> "
        for _ in range(20):
            assert slow.exactly(len(answer)) == answer
    papad.ask("set big")


def test_a_flood_of_lines_does_not_starve_others(papad: Daemon) -> None:
    with papad.connect() as flood, papad.connect() as other:
        flood.sock.setblocking(False)
        sent = 0
        for _ in range(50):
            with contextlib.suppress(BlockingIOError):
                sent += flood.sock.send(b"get x\n" * 10_000)
            begin = time.monotonic()
            other.ask("get y")
            assert time.monotonic() - begin < 2
        assert sent > 1000


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from([b"set a 1", b"get a", b"list values a", b"nonsense", b"get", b"help set", b""]), max_size=12
    ),
    st.lists(st.integers(1, 80), max_size=6),
)
def test_any_split_of_the_input_gives_the_same_answers(papad: Daemon, lines: list[bytes], cuts: list[int]) -> None:
    data = b"".join(line + b"\n" for line in lines) + b"quit\n"
    answers = []
    for pieces in ([data], _split(data, cuts)):
        with papad.connect() as talk:
            talk.ask("set a")
            for piece in pieces:
                talk.send(piece)
            answers.append(talk.rest())
    assert answers[0] == answers[1]
    assert answers[0].endswith(b"ok\n")


def _split(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [piece for piece in (*pieces, data) if piece]


FIRST_WORDS = [
    "make socket",
    "list",
    "l p",
    "set",
    "get",
    "remove values",
    "watch processes",
    "help",
    "h m",
    "r s",
    "m p g",
]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FIRST_WORDS), st.binary(max_size=50).filter(lambda data: b"\n" not in data))
def test_garbage_gets_an_answer_and_never_an_internal_error(papad: Daemon, first: str, garbage: bytes) -> None:
    with papad.connect() as talk:
        talk.send(b"get first\n")
        assert talk.until(b"\n> ") == b"\n> "
        talk.send(first.encode() + b" g" + garbage + b" =\nq\nq\nset z done\nget z\n")
        assert b"internal error" not in talk.rest()
    with papad.connect() as talk:
        talk.ask("remove processes *")
        talk.ask("remove sockets *")


HUGE = "9" * 5000
HUGE_NUMBERS = [
    f"list sockets {HUGE}",
    f"list processes {HUGE}",
    f"make socket x port={HUGE}",
    f"make process x rlimit.nofile={HUGE} /bin/true",
    f"make process x uid={HUGE} /bin/true",
    f"make process x bufsize={HUGE}k /bin/true",
]


@pytest.mark.parametrize("line", HUGE_NUMBERS, ids=lambda line: line[:30])
def test_a_huge_number_is_no_internal_error(papad: Daemon, line: str) -> None:
    answer = papad.ask(line)
    assert "internal error" not in answer
    assert "int_max_str_digits" not in answer


def test_connections_that_come_and_go_leave_no_descriptor(papad: Daemon) -> None:
    papad.ask("make process leak /bin/true")
    with papad.connect(tcp=True) as talk:  # the first over TCP opens what asks who it is
        talk.ask("get x")

    def settled() -> dict[int, str]:
        with papad.connect() as probe:
            probe.ask("get x")
            return {fd: what for fd, what in open_fds(papad.pid).items() if what.startswith(("socket", "pipe"))}

    before = len(settled())
    for number in range(60):
        with papad.connect(tcp=number % 2 == 0, welcome=number % 3 > 0) as talk:
            if number % 4:
                talk.send("get x\nwatch processes leak\n")
            if number % 5 == 0:
                talk.sock.shutdown(socket.SHUT_WR)
    wait_until(lambda: len(settled()) <= before, "all connections are gone")  # what earlier tests left may go, too
    papad.ask("remove processes leak")


def test_a_stranger_reads_why_it_is_refused(papad: Daemon) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become a stranger")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        sock = socket.create_connection(("127.0.0.1", papad.port), 5)
        sock.sendall(b"set stranger executed\n" * 1000)
        answer = b""
        while more := sock.recv(1000):
            answer += more
        os.write(writer, answer)
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    assert re.fullmatch(rb"Error: uid 65534 may not talk to papad[^\n]*\n> ", answer)
    assert papad.ask("get stranger") == ""


def test_a_peer_that_closed_after_its_command_gets_nothing_executed_over_tcp(papad: Daemon) -> None:
    """It sends and closes while papad is stopped, so that it has surely gone when papad looks."""
    os.kill(papad.pid, signal.SIGSTOP)
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", papad.port), 5) as sock:
            sock.sendall(b"set ghost executed\n")
    os.kill(papad.pid, signal.SIGCONT)
    assert papad.ask("get ghost") == ""


def test_the_control_socket_is_for_owner_and_group(papad: Daemon) -> None:
    assert Path(papad.path).stat().st_mode & 0o777 == 0o660


def test_no_line_is_ever_longer_than_an_environment_may_be() -> None:
    assert wire.MAX_LINE >= 2 << 20
