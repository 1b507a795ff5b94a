"""The client and papactl: their answers, their errors, their exit statuses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from papad.client import DEFAULT_PORT, Client, find
from papad.errors import ConnectionLost, Error, Unreachable
from tests.unit.support import REPOSITORY, WELCOME, Daemon, no_new_fds, running_papad


@pytest.fixture(scope="module")
def papad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_papad(tmp_path_factory.mktemp("papad"), tcp=True) as daemon:
        yield daemon


def papactl(*args: str, **env: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", "from papad.ctl import main; main()", *args],
        cwd=REPOSITORY,
        env={"PATH": os.defpath, **env},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


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
    for words, answer in ((("quit",), "ok"), (("exit-if-idle",), "not idle")):
        with Client(papad.path) as client:
            assert client.command(*words) == answer


def test_where_nobody_answers_it_says_so(tmp_path: Path) -> None:
    with no_new_fds(), pytest.raises(Unreachable, match=r"nobody answers at .*nothing"):
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
        with pytest.raises(ConnectionLost, match="in time"):
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


def test_papactl_prints_the_answer_and_leaves_with_0(papad: Daemon) -> None:
    assert papactl("--socket", papad.path, "set", "a", "one  two") == (0, "", "")
    assert papactl("--port", str(papad.port), "get", "a") == (0, "one  two\n", "")
    assert papactl("list", "values", "a", PAPAD_SOCKET=papad.path) == (0, "a one  two\n", "")


def test_papactl_leaves_with_1_when_papad_answers_an_error(papad: Daemon) -> None:
    status, out, err = papactl("--socket", papad.path, "remove", "sockets", "nothing")
    assert (status, out, err) == (1, "", "papactl: nothing not found\n")


@pytest.mark.parametrize("args", [(), ("--nonsense",), ("--port", "x", "get", "a"), ("watch", "processes")])
def test_papactl_leaves_with_2_for_a_wrong_command_line(args: tuple[str, ...]) -> None:
    status, out, err = papactl(*args)
    assert (status, out) == (2, "")
    assert "papactl: error: " in err


def test_papactl_leaves_with_3_when_nobody_answers(tmp_path: Path) -> None:
    status, out, err = papactl("--socket", str(tmp_path / "nothing"), "get", "a")
    assert (status, out) == (3, "")
    assert "nobody answers at" in err


def test_papactl_never_waits_for_what_cannot_come(papad: Daemon) -> None:
    """An empty word has no answer of its own; a process that is watched has one without end."""
    for words in (("",), ("make", "process", "x", "watch=1", "/bin/true")):
        status, _, err = papactl("--socket", papad.path, *words)
        assert status in (0, 1, 2)
        assert "in time" not in err
