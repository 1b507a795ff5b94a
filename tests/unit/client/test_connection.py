"""One connection: answers, errors, and how it ends. tests/client has what is built on it."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from papad.client.address import DEFAULT_PORT, find
from papad.client.connection import Client
from papad.errors import ConnectionLost, Error, TimedOut, Unreachable
from tests.support.papad import WELCOME, Daemon, no_new_fds


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


@pytest.mark.parametrize(
    ("says", "then"),
    [(b"", b""), (b"Papa is ho", b""), (WELCOME, b"half an ans"), (WELCOME, b"")],
)
def test_a_connection_that_ends_too_early_is_lost_and_closed(tmp_path: Path, says: bytes, then: bytes) -> None:
    def serve() -> None:
        end, _ = listener.accept()
        with end:
            end.sendall(says)
            if says == WELCOME:
                end.recv(100)
                end.sendall(then)

    with no_new_fds(), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(ConnectionLost), Client(str(tmp_path / "s")) as client:
            client.command("get", "x")
        server.join()


def test_a_server_that_stays_silent_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with no_new_fds(), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(TimedOut, match="in time"):
            Client(str(tmp_path / "s"), timeout=0.1)


def test_it_finds_papad_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PAPAD_SOCKET", "/some/where")
    assert find() == "/some/where"
    monkeypatch.setenv("PAPAD_SOCKET", "1234")
    assert find() == 1234
    monkeypatch.delenv("PAPAD_SOCKET")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert find() in (DEFAULT_PORT, "/run/papad/papad.sock")
    (tmp_path / "papad.sock").touch()
    assert find() == str(tmp_path / "papad.sock")


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
        assert client.describe("server")[0]["pid"] == papad.popen.pid
