"""One connection: answers, errors, and how it ends. tests/client has what is built on it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from papad.client.connection import Client
from papad.errors import ConnectionLost, Error, TimedOut, Unreachable
from tests.support.papad import Daemon, no_new_fds
from tests.support.peer import Last, Peer
from tests.support.twins import CLIENTS, outcome, timeout
from tests.support.waiting import wait_until


def test_commands_are_answered_over_unix_and_tcp(papad: Daemon) -> None:
    for address in (papad.path, papad.port):
        with no_new_fds(), Client(address) as client:
            assert client.command("set", "greeting", "hello  there") == ""
            assert client.command("get", "greeting") == "hello  there"
            assert client.command("list", "values", "greet*") == "greeting hello  there"
            with pytest.raises(Error, match='Unknown command "nonsense"'):
                client.command("nonsense")
            assert client.command("get", "greeting") == "hello  there"


def test_answers_that_end_a_session_are_answers(papad: Daemon) -> None:
    papad.ask("set a b")
    for words, answer in ((("quit",), "ok"), (("exit-if-idle",), "not idle")):
        with Client(papad.path) as client:
            assert client.command(*words) == answer


def test_where_nobody_answers_it_says_so(tmp_path: Path) -> None:
    with no_new_fds(), pytest.raises(Unreachable, match=r"papad does not answer at .*nothing"):
        Client(str(tmp_path / "nothing"))


@pytest.mark.parametrize("name", CLIENTS)
def test_what_comes_of_an_answer(tmp_path: Path, name: str) -> None:
    case = CLIENTS[name]
    with Peer(tmp_path / "s", {b"line\n": [case.says]}) as peer, Client(peer.path) as client:
        client.timeout = timeout(case.expected)
        with outcome(case.expected) as found:
            result: Any = getattr(client, case.method)(b"line\n")
            found.append(list(result) if case.method == "frames" else result)
        if not case.fresh:
            wait_until(lambda: not client.fresh, "the end has come")
        assert client.fresh is case.fresh


@pytest.mark.parametrize("says", [b"", b"Papa is ho"])
def test_a_connection_that_ends_before_its_welcome_is_lost_and_closed(tmp_path: Path, says: bytes) -> None:
    with Peer(tmp_path / "s", {}, Last(says)) as peer, pytest.raises(ConnectionLost, match="closed the connection"):
        Client(peer.path)


def test_a_server_that_stays_silent_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with no_new_fds(), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(TimedOut, match="in time"):
            Client(str(tmp_path / "s"), timeout=0.1)


def test_options_go_where_the_command_takes_them(papad: Daemon) -> None:
    with Client(papad.path) as client:
        answer = client.command("make", "process", "x", "/bin/echo", "A=B", "", "two\nlines", options={"env.A": " =\n"})
        assert answer.startswith("x pid=")
        (process,) = client.describe("processes", "x")
        assert (process["args"], process["env"]) == (["/bin/echo", "A=B", "", "two\nlines"], {"A": " =\n"})
        assert client.command("make", "process", "y", ("shell", "1"), "exit 3").startswith("y pid=")
        assert client.describe("processes", "y")[0]["shell"] is True
        client.command("remove", "processes")


def test_plain_words_are_as_typed(papad: Daemon) -> None:
    with Client(papad.path) as client:
        assert "backlog=7" in client.plain("make", "socket", "s", "backlog=7")
        client.plain("set", "v", "", "a\nb", "c")
        assert client.command("get", "v") == "a b c"
        client.plain("remove", "sockets")


def test_no_command_is_an_error_before_anything_is_sent(papad: Daemon) -> None:
    with Client(papad.path) as client:
        for call in (client.command, client.plain):
            for words in ((), ("",)):
                with pytest.raises(Error, match="no command"):
                    call(*words)
        assert client.command("list", "sockets") == ""


def test_the_address_may_be_a_function_that_connects(papad: Daemon) -> None:
    def connected() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(papad.path)
        return sock

    with no_new_fds(), Client(connected) as client:
        assert client.describe("server")[0]["pid"] == papad.pid
