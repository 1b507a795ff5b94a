"""A client says nothing to a stranger who serves papad's port."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from papad.client import trust
from papad.client.connection import Client
from papad.errors import ConnectionLost, Refused
from papad.protocol import sockdiag
from tests.support.papad import WELCOME, Daemon, child_as

NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@contextlib.contextmanager
def serving(uid: int) -> Iterator[tuple[int, int]]:
    """A user who welcomes one client like papad: the port, and where what it is told can be read."""
    reader, writer = os.pipe()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            connection.sendall(WELCOME)
            while data := connection.recv(1000):
                os.write(writer, data)
                connection.sendall(b"\n> ")

        with child_as(uid, serve):
            os.close(writer)
            yield listener.getsockname()[1], reader
    os.close(reader)


@root_only
def test_a_stranger_who_serves_the_port_is_told_nothing() -> None:
    with serving(NOBODY) as (port, said):
        with pytest.raises(Refused, match=f"127.0.0.1:{port} is served by nobody, not by root or you"):
            Client(port)
        assert os.read(said, 1000) == b""


@root_only
@pytest.mark.parametrize("trusted", ["nobody", str(NOBODY), "any"])
def test_a_user_that_is_named_is_trusted(trusted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(trust.VARIABLE, trusted)
    with serving(NOBODY) as (port, said), Client(port) as client:
        assert client.ask(b"get x\n") == ""
        assert os.read(said, 1000) == b"get x\n"


def test_we_ourselves_are_trusted() -> None:
    with serving(os.getuid()) as (port, _), Client(port) as client:
        assert client.ask(b"get x\n") == ""


def test_papad_is_trusted(own_papad: Daemon) -> None:
    with Client(own_papad.port) as client:
        client.command("set", "a", "1")
        assert client.command("get", "a") == "1"


def test_one_that_has_closed_is_not_taken_for_anybody() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            connection, _ = listener.accept()
            trust.check(client, port)
            connection.close()
            with pytest.raises(ConnectionLost):
                trust.check(client, port)


def test_where_the_kernel_cannot_be_asked_everybody_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockdiag, "_BY_FAMILY", 4711)
    with serving(os.getuid()) as (port, _), Client(port) as client:
        assert client.ask(b"get x\n") == ""
