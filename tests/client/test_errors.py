"""Each kind of error, as a real papad tells it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import papad as package
from papad import AlreadyExists, BadRequest, BindFailed, Client, Error, NoRoom, NotFound, Papa, StartFailed, aio
from tests.support.papad import Daemon
from tests.support.peer import Last, Peer

Ask = Callable[[Papa], object]
TRUE = "/bin/true"
CASES: list[tuple[type[Error], str, Ask]] = [
    (AlreadyExists, "Socket for s has already been created - s family=inet", lambda p: p.make_socket("s", backlog=9)),
    (AlreadyExists, "Process for x has already been created - x pid=", lambda p: p.make_process("x", TRUE)),
    (NotFound, "nothing not found", lambda p: p.remove_sockets("nothing")),
    (NotFound, "nothing not found", lambda p: p.remove_processes("nothing")),
    (NotFound, "nothing not found", lambda p: p.watch_processes("nothing")),
    (NotFound, "nothing not found", lambda p: list(p.output("nothing"))),
    (NotFound, "Nothing to watch", lambda p: p.watch_processes("nothing*")),
    (NotFound, "Socket nothing not found", lambda p: p.make_process("y", TRUE, listen="nothing")),
    (NotFound, "Socket nothing not found", lambda p: p.make_process("y", TRUE, ["$(socket.nothing.port)"])),
    (BadRequest, 'Unknown command "no"', lambda p: p.connection and p.connection.plain("no", "such")),
    (BadRequest, "No command", lambda p: p.make_process("y")),
    (BadRequest, "Unknown option", lambda p: p.make_socket("y", colour="red")),
    (BadRequest, "port must be", lambda p: p.make_socket("y", port=70000)),
    (BadRequest, "bufsize must be", lambda p: p.make_process("y", TRUE, bufsize="many")),
    (BadRequest, "No such group: 'nobody-s'", lambda p: p.make_process("y", TRUE, gid="nobody-s")),
    (BadRequest, "is not a valid user name", lambda p: p.make_process("y", TRUE, uid="nobody-s")),
    (BadRequest, 'Unknown rlimit "teeth"', lambda p: p.make_process("y", TRUE, rlimits={"teeth": 5})),
    (BadRequest, "working_dir must be an absolute path", lambda p: p.make_process("y", TRUE, working_dir="x")),
    (BadRequest, "You cannot remove all variables", lambda p: p.remove_values("*")),
    (BadRequest, "Value requires a name", lambda p: p.set("", "x")),
    (BadRequest, "stdout must be one of", lambda p: p.make_process("y", TRUE, stdout=7)),
    (NoRoom, "The line is too long", lambda p: p.set("v", "x" * 5_000_000)),
    (StartFailed, "Bad command - [Errno 2]", lambda p: p.make_process("y", "/no/such")),
    (StartFailed, "Bad working_dir - [Errno 2]", lambda p: p.make_process("y", TRUE, working_dir="/no/such")),
    (BindFailed, "There is no interface eth99", lambda p: p.make_socket("y", interface="eth99")),
    (BindFailed, "Bind failed on 192.0.2.1:0", lambda p: p.make_socket("y", host="192.0.2.1")),
    (BindFailed, "exists and is not a socket", lambda p: p.make_socket("y", path=__file__)),
]


@pytest.fixture
def held(p: Papa) -> Iterator[Papa]:
    """A papad that holds a socket s and a process x."""
    p.make_socket("s")
    p.make_process("x", "/bin/sleep", ["60"])
    yield p
    assert set(p.list_processes()) == {"x"}, "what failed has had no effect"
    assert set(p.list_sockets()) == {"s"}


@pytest.mark.parametrize(("kind", "text", "ask"), CASES, ids=[f"{kind.__name__}: {text}" for kind, text, _ in CASES])
def test_an_error_is_of_its_kind(held: Papa, kind: type[Error], text: str, ask: Ask) -> None:
    with pytest.raises(Error) as raised:
        ask(held)
    assert type(raised.value) is kind
    assert text in str(raised.value)


def test_an_address_in_use_is_told(held: Papa) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BindFailed, match="Address already in use"):
        held.make_socket("y", port=taken.getsockname()[1])


def test_a_limit_is_told(papad: Daemon) -> None:
    """By the same text as ever."""
    with Papa(papad.path, 5, autostart=False) as p:
        limit = p.describe("server")[0]["limits"]["sockets"]
        with pytest.raises(NoRoom, match=f"The limit of {limit} sockets is reached; remove some") as raised:
            for number in range(limit + 1):
                p.make_socket(f"s{number}", path=f"{papad.path}.{number}")
        with papad.connect() as talk:
            said = talk.ask(f"make socket s{limit} path={papad.path}.{limit}")
        assert said == f"Error: {raised.value}"
        p.remove_sockets()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_program_that_the_user_may_not_execute_is_not_started(held: Papa, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o600)
    with pytest.raises(StartFailed, match="Bad command"):
        held.make_process("y", program, uid=65534)


def test_asyncio_raises_the_same(papad: Daemon) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), aio.Papa(papad.path, 5, autostart=False) as p:
            with pytest.raises(aio.NotFound, match="nothing not found"):
                await p.remove_sockets("nothing")
            with pytest.raises(aio.NotFound, match="Nothing to watch"):
                await p.watch_processes("nothing*")
            with pytest.raises(aio.StartFailed):
                await p.make_process("y", "/no/such")

    asyncio.run(main())
    for name in ("AlreadyExists", "Error", "Unavailable", "Refused"):
        assert getattr(aio, name) is getattr(package, name)


def test_a_papad_that_refuses_the_connection_is_refused_whatever_it_says(tmp_path: Path) -> None:
    for said in (b"Error: x not found\n> ", b"Error: u has 500 connections to papad already; close some\n> "):
        folder = tmp_path / str(len(said))
        folder.mkdir()
        with Peer(folder / "s", {}, Last(said)) as peer, pytest.raises(package.Refused):
            Client(peer.path)
