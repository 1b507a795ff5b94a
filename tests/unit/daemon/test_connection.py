"""The modes of a connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

import pytest

from papad.daemon import connection as module
from papad.daemon.commands.grammar import Command, Grammar
from papad.daemon.commands.table import Output, Tables
from papad.daemon.connection import Connection
from papad.daemon.delivery.channel import TRANSITIONS, IllegalTransition, Mode
from papad.daemon.delivery.reader import Query, Reading
from papad.daemon.peers import Peers
from tests.support.lives import Lives, make, until


class Host:
    """What a connection needs of the server."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.peers = Peers()
        self.exit_when_idle = False
        self.on_change = lambda: None
        self._tasks: set[asyncio.Task[Any]] = set()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(coroutine))

    def left(self, connection: Connection) -> None:
        """Nothing is counted here."""


def test_a_command_at_work_may_end_in_output(lives: Lives, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the line after it waits until that is written."""

    async def slow(tables: Tables, words: list[str]) -> Output:
        await asyncio.sleep(0)
        return Output(Reading(tables.processes, Query([])))

    monkeypatch.setattr(module, "GRAMMAR", Grammar([Command(("slow",), "slow", "output, later", slow)]))

    async def act(tables: Tables) -> str:
        process = await make(tables, "x", "echo hello; exit 3")
        await until(lambda: process.closed, "it is closed")
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        connection = Connection(Host(tables), ours, None)  # type: ignore[arg-type]
        await loop.connect_accepted_socket(lambda: connection, ours)
        await loop.sock_sendall(theirs, b"slow\nslow\n")
        theirs.shutdown(socket.SHUT_WR)
        answer = b""
        while more := await asyncio.wait_for(loop.sock_recv(theirs, 4096), 20):
            answer += more
        theirs.close()
        assert connection.mode is Mode.COMMANDS
        return answer.decode().partition("\n> ")[2]

    first, second, rest = lives.report(act).split("> ")
    assert rest == ""
    assert first == second
    assert first.startswith("out:x:")
    assert "\nhello\n" in first


def test_only_the_steps_of_the_table_are_taken() -> None:
    for before in Mode:
        for after in Mode:
            connection = Connection(None, None, None)  # type: ignore[arg-type]
            connection.mode = before
            if after in TRANSITIONS[before]:
                connection.enter(after)
                assert connection.mode is after
            else:
                with pytest.raises(IllegalTransition, match=f"it is {before.value}"):
                    connection.enter(after)
