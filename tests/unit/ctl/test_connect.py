"""Which papad is talked to, over which connection, and what is said where none can be reached."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from papad.ctl.connect import CannotConnect, Session, session_of
from papad.ctl.parser import Usage
from tests.support.papad import Daemon, in_child, no_new_fds, open_to_all
from tests.unit.ctl.support import called


@contextmanager
def answering(folder: Path, answer: bytes) -> Iterator[str]:
    """A socket at which each client gets these bytes and then the end; its path."""
    path = str(folder / "s")

    def serve() -> None:
        client, _ = listening.accept()
        with client:
            client.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        server = threading.Thread(target=serve)
        server.start()
        try:
            yield path
        finally:
            server.join(10)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--socket /x --port 1", "use either --socket or --port, not both"),
        ("--port= --socket=", "use either --socket or --port, not both"),
        ("--socket=", "--socket needs the path of a socket, not ''"),
        ("--port=", "--port must be a number from 1 to 65535, not ''"),
        ("--port " + "9" * 5000, f"--port must be a number from 1 to 65535, not '{'9' * 5000}'"),
        ("--port 0", "--port must be a number from 1 to 65535, not '0'"),
        ("--port 65536", "--port must be a number from 1 to 65535, not '65536'"),
        ("--port -1", "--port must be a number from 1 to 65535, not '-1'"),
        ("--port x -H one", "--port must be a number from 1 to 65535, not 'x'"),
        ("-H -x", "invalid host: '-x'"),
    ],
)
def test_what_is_no_address_is_refused(words: str, message: str) -> None:
    with pytest.raises(Usage) as caught:
        session_of(called(*words.split(), "status"))
    assert str(caught.value) == message


def test_an_address_that_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PAPAD_SOCKET", "/in/the/environment")
    monkeypatch.chdir(tmp_path)
    assert session_of(called("status")).where == "/in/the/environment ($PAPAD_SOCKET)"
    assert session_of(called("status", "--socket", "s")).address == str(tmp_path / "s")
    assert session_of(called("status", "--port", "81")).where == "127.0.0.1:81"
    with session_of(called("status", "--socket", "s", "-H", "a@b:2")) as far:
        assert (far.address, far.where) == ("s", "s on a@b:2"), "the folder is one of the other machine"
    with session_of(called("status", "-H", "one")) as far:
        assert far.where == "the papad on one"


def test_without_any_it_is_the_users_own_or_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PAPAD_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    if not os.path.exists("/run/papad/papad.sock"):
        assert Session().where == "127.0.0.1:20202 (the default)"
    (tmp_path / "papad.sock").touch()
    assert Session().where == f"{tmp_path}/papad.sock (your own)"


def test_a_session_keeps_its_connection_until_it_is_lost(papad: Daemon) -> None:
    with no_new_fds(), Session(papad.path) as session:
        first = session.client()
        session.revive()
        assert session.client() is first
        first.send(b"list sockets\n")  # an answer that nobody has read
        first.sock.settimeout(10)
        first.sock.recv(1, socket.MSG_PEEK)
        session.revive()
        assert first.fileno() == -1
        second = session.client()
        assert second.command("list", "sockets") == ""
        session.keep()
        third = session.client()
        assert third is not second
        session.drop()
        assert third.fileno() == -1
        assert second.command("list", "sockets") == "", "it is the caller's"
        second.close()


@pytest.mark.parametrize(
    ("answer", "message", "hint"),
    [
        (b"", "{path} is not answering like papad; is another program listening there?", ""),
        (b"HTTP/1.0 400 Bad", "{path} is not answering like papad; is another program listening there?", ""),
        (
            b"Error: x may not talk to papad; be root, in the group papad-view to look, or a member of the group papad\n> ",
            "no permission to talk to papad at {path}",
            "Only root and members of the group papad",
        ),
        (
            b"Error: papad has 400 connections already; close some\n> ",
            "papad at {path} refused the connection: papad has 400 connections already; close some",
            "",
        ),
    ],
)
def test_who_answers_like_something_else_is_named(tmp_path: Path, answer: bytes, message: str, hint: str) -> None:
    with no_new_fds(), answering(tmp_path, answer) as path, pytest.raises(CannotConnect) as caught:
        Session(path).client()
    assert str(caught.value) == message.format(path=path)
    assert caught.value.hint.startswith(hint)
    assert bool(caught.value.hint) == bool(hint)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_socket_of_another_user_is_named_as_theirs(tmp_path: Path) -> None:
    """No group opens it, so none is recommended."""
    open_to_all(tmp_path)
    path = str(tmp_path / "s")

    def stranger() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(CannotConnect) as caught:
            Session(path).client()
        expected = (
            f"papad at {path} refused the connection: no permission to talk to papad at {path}: {path} belongs to root"
        )
        assert (str(caught.value), caught.value.hint) == (expected, "")

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        os.chmod(path, 0o600)
        assert in_child(stranger) == 0


@pytest.mark.parametrize(
    ("how", "hint"),
    [
        ("given", "Without --socket and --port, papactl searches for papad"),
        ("environment", "Unset PAPAD_SOCKET to let papactl search for papad"),
        ("own", "To start it: systemctl --user enable --now papad.socket"),
    ],
)
def test_where_nobody_answers_the_hint_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, hint: str
) -> None:
    path = tmp_path / "papad.sock"
    path.touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("PAPAD_SOCKET", str(path) if how == "environment" else "")
    with pytest.raises(CannotConnect, match="Connection refused") as caught:
        Session(str(path) if how == "given" else None).client()
    assert caught.value.hint.endswith(hint)
    assert (f"    {path}, the one tried\n" in caught.value.hint) == (how == "own")
