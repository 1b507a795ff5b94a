"""A connection: a command that takes its time, and lines that are taken exactly."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from papad.daemon import connection as module
from papad.daemon.commands.grammar import Command, Grammar
from papad.daemon.commands.roles import Role
from papad.daemon.commands.table import Output, Tables
from papad.daemon.connection import Connection
from papad.daemon.delivery.channel import Mode
from papad.daemon.delivery.reader import Query, Reading
from papad.daemon.peers import Peers
from papad.protocol import wire
from tests.support.lives import Lives, make, until
from tests.support.papad import Daemon
from tests.support.talks import ended, read
from tests.support.waiting import wait_until


class Host:
    """What a connection needs of the server."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.peers = Peers()
        self.exit_when_idle = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def changed(self) -> None:
        """Nobody wants to know here."""

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
        connection = Connection(Host(tables), ours, None, Role.MANAGE)  # type: ignore[arg-type]
        await loop.sock_sendall(theirs, b"slow\nslow\n")
        theirs.shutdown(socket.SHUT_WR)
        answer = b""
        while more := await asyncio.wait_for(loop.sock_recv(theirs, 4096), 20):
            answer += more
        theirs.close()
        assert connection.mode is Mode.COMMANDS
        return answer.decode()

    first, second, rest = lives.report(act).split("> ")
    assert rest == ""
    assert first == second
    assert first.startswith("out:x:")
    assert "\nhello\n" in first


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20) | st.binary(
    max_size=8
).map(os.fsdecode)


words = texts.filter(lambda text: "\0" not in text)


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(words, max_size=5), words, st.sets(st.integers(1, 200), max_size=5))
def test_exact_lines_arrive_exactly(daemon: Daemon, arguments: list[str], value: str, cuts: set[int]) -> None:
    line = wire.exact_line(["make", "process", "p", ("env.A", value), ("shell", "0"), "/bin/true", *arguments])
    edges = [0, *sorted(cut for cut in cuts if cut < len(line)), len(line)]
    with daemon.connect() as talk:
        for start, stop in itertools.pairwise(edges):
            talk.send(line[start:stop])
        assert talk.until(b"\n> ").startswith(b"p pid=")
        facts = json.loads(talk.ask("describe processes p"))
        assert facts["args"] == ["/bin/true", *arguments]
        assert facts["env"] == {"A": value}
        talk.send(wire.exact_line(["set", "v", value]))
        assert talk.until(b"> ").endswith(b"\n> ")
        described = talk.ask("describe values v")
        assert json.loads(described)["value"] == value if value else described == ""
        talk.ask("remove processes p")
        wait_until(lambda: talk.ask("describe processes") == "", "it is forgotten")


def test_a_child_gets_the_very_bytes(papad: Daemon) -> None:
    code = (
        "import os,sys; sys.stdout.buffer.write(os.environb[b'A'] + b'|' + b'|'.join(map(os.fsencode, sys.argv[1:])))"
    )
    value, arguments = os.fsdecode(b"\xff a\n"), ["", " x ", os.fsdecode(b"\\\xfe"), "a=b", '"q"', "%"]
    line = wire.exact_line(["make", "process", "p", ("env.A", value), "/usr/bin/python3", "-c", code, *arguments])
    with papad.connect() as talk:
        talk.send(line)
        talk.until(b"\n> ")
    ended(papad, "p")
    got = b"".join(each[2] for each in read(papad, "output p") if each[0] == "out")
    assert got == os.fsencode("|".join([value, *arguments]))


@pytest.mark.parametrize(
    "line", ["%", "%%", "%%zz", "%list%2", "% ", "%set a%0Ab c", "%set %FF c", "%make process p%00 x"]
)
def test_a_bad_exact_line_is_one_error(daemon: Daemon, line: str) -> None:
    answer = daemon.ask(line)
    assert answer.startswith("Error: ")
    assert "\n" not in answer
    assert daemon.ask("get a") == ""
