"""Every command of the table, as it is typed, on real tables."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import pwd
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from papad.daemon.commands.grammar import Command
from papad.daemon.commands.roles import Role
from papad.daemon.commands.table import COMMANDS, GRAMMAR, Leave, Output, Tables, Watching
from papad.daemon.tables.process import State
from papad.errors import Error
from papad.protocol import wire
from tests.support.lives import Lives, until
from tests.support.tables import TablesHome


class Home(TablesHome):
    """Two processes, of which one has ended, two sockets and two values."""

    def __init__(self) -> None:
        super().__init__()
        self.running, self.ended = self.add("web.1"), self.add("web.2")
        self.write(self.ended, b"hello", when=1000.0)
        self.end(self.ended, 3, 1001.0)
        for line in ("make socket web", "make socket udp type=dgram", "set count 5", "set mail a  b"):
            call(self.tables, line)

    def held(self) -> list[str]:
        """The names of all that is listed."""
        return self.tables.names


@pytest.fixture
def tables(home: Home) -> Tables:
    return home.tables


def call(tables: Tables, line: str) -> Any:
    """As a connection takes a line."""
    command, rest = GRAMMAR.find(wire.split_words(line))
    return command.handler(tables, command.arguments(rest))


def called(tables: Tables, line: str) -> Any:
    """The same where no event loop runs: a command that takes its time is run to its end."""
    found = call(tables, line)
    return asyncio.run(found) if inspect.iscoroutine(found) else found


ABBREVIATIONS = {
    "l s": "list sockets",
    "l p": "list processes",
    "l v": "list values",
    "m s": "make socket",
    "m p": "make process",
    "r s": "remove sockets",
    "rem proc": "remove processes",
    "r v": "remove values",
    "w p": "watch processes",
    "s": "set",
    "se": "set",
    "g": "get",
    "q": "quit",
    "h": "help",
    "list socket": "list sockets",
}


@pytest.mark.parametrize(("short", "name"), ABBREVIATIONS.items())
def test_the_abbreviations_of_old_keep_their_meaning(short: str, name: str) -> None:
    assert GRAMMAR.find(short.split())[0].name == name


def test_words_after_the_options_are_refused_where_none_belong() -> None:
    command, rest = GRAMMAR.find(["make", "socket", "x", "port=1", "8080"])
    with pytest.raises(Error, match='Unexpected "8080"'):
        command.handler(None, command.arguments(rest))


ANSWERS = [
    # a line, and what the whole answer must match
    ("list sockets", r"udp family=inet type=dgram .* fileno=65\nweb family=inet type=stream .* fileno=64"),
    ("list sockets 65", r"udp [^\n]*"),
    ("list sockets nothing", ""),
    ("list processes", r"web\.1 pid=\d+ running=True [^\n]*\nweb\.2 pid=\d+ running=False [^\n]*"),
    ("list processes web.2 nothing", r"web\.2 [^\n]*"),
    ("list values", "count 5\nmail a b"),
    ("list values c*", "count 5"),
    ("get count", "5"),
    ("get nothing", ""),
    ("describe values mail", r'\{"name":"mail","value":"a b"\}'),
    ("describe sockets u*", r'\{"name":"udp",.*"type":"dgram",.*\}'),
    ("describe processes web.2", r'\{"id":2,"name":"web.2",.*"code":3,.*\}'),
    ("describe server", r'\{"starts":1,"sockets":2,"processes":2,"running":1,"values":2,"role":"manage"\}'),
    ("make socket web", r"web family=inet type=stream [^\n]*fileno=64"),
    ("help get", r"get NAME\n\nGet a named value\.\n[^$]*"),
    ("help", r"Possible commands are:\n[^$]*"),
    ("help nonsense", 'Unknown command "nonsense"'),
    ("exit-if-idle", "not idle"),
]


@pytest.mark.parametrize(("line", "answer"), ANSWERS)
def test_what_is_asked_is_answered_and_nothing_is_changed(home: Home, line: str, answer: str) -> None:
    before = home.held()
    assert re.fullmatch(answer, called(home.tables, line))
    assert home.held() == before


CHANGES = [
    # a line, and which names are there no more
    ("remove sockets", {"socket web", "socket udp"}),
    ("remove sockets 64", {"socket web"}),
    ("remove processes", {"process web.2"}),  # the other one runs
    ("remove processes web.2", {"process web.2"}),
    ("remove values c*", {"value count"}),
    ("set mail", {"value mail"}),
    ("set mail  ", {"value mail"}),
]


@pytest.mark.parametrize(("line", "gone"), CHANGES)
def test_what_is_removed_is_gone_and_nothing_else(home: Home, line: str, gone: set[str]) -> None:
    before = {name.partition(" (")[0] for name in home.held()}
    assert called(home.tables, line) == ""
    assert before - {name.partition(" (")[0] for name in home.held()} == gone


def test_a_process_that_runs_is_removed_when_it_ends(home: Home) -> None:
    called(home.tables, "remove processes web.1")
    assert home.running.state is State.REMOVED
    home.end(home.running)
    assert called(home.tables, "list processes") == called(home.tables, "list processes web.2")


ERRORS = {
    "make socket": "Socket requires a name",
    "make socket x port=70000": 'port must be a number from 0 to 65535, not "70000"',
    "make socket x colour=red": 'Unknown option "colour". Type "help make socket"',
    "make process": "Process requires a name",
    "make process x stderr=2 /bin/true": 'stderr must be 0, 1 or stdout, not "2"',
    "make process x colour=red /bin/true": 'Unknown option "colour". Type "help make process"',
    "make process x working_dir=here /bin/true": 'working_dir must be an absolute path, not "here"',
    "remove sockets nothing": "nothing not found",
    "remove processes web.1 nothing": "nothing not found",
    "remove values": "You cannot remove all variables",
    "remove values *": "You cannot remove all variables",
    "watch processes nothing": "nothing not found",
    "watch processes x*": "Nothing to watch",
    "output nothing": "nothing not found",
    "output after.x=1": "after.ID=POSITION wants two numbers, not x and 1",
    "output before.1=-1": "before.ID=POSITION wants two numbers, not 1 and -1",
    "output last=-1": 'last must be a number from 0 to 2147483647, not "-1"',
    "output since=yesterday": 'since must be a number of seconds since 1970, not "yesterday"',
    "output since=nan": 'since must be a number of seconds since 1970, not "nan"',
    "output until=inf": 'until must be a number of seconds since 1970, not "inf"',
    "output until=-Infinity": 'until must be a number of seconds since 1970, not "-Infinity"',
    "output until=1e999": 'until must be a number of seconds since 1970, not "1e999"',
    "output stream=both": 'stream must be one of err, out, not "both"',
    "output follow=perhaps": 'follow must be 0 or 1, not "perhaps"',
    "set": "Value requires a name",
    "set *": "Value requires a name",
    "get": "Value requires a name",
    "describe": '"describe" must be followed by one of: processes, server, sockets, values',
}


@pytest.mark.parametrize("line", ERRORS)
def test_a_mistake_gets_one_line_and_changes_nothing(home: Home, line: str) -> None:
    before = home.held()
    with pytest.raises(Error) as error:
        result = called(home.tables, line)
        if inspect.iscoroutine(result):
            result.send(None)
    assert str(error.value) == ERRORS[line]
    assert home.held() == before


@pytest.mark.parametrize(("line", "count"), [("watch processes", 2), ("w p web.2", 1)])
def test_a_watch_begins_with_the_number_of_processes(tables: Tables, line: str, count: int) -> None:
    begun = called(tables, line)
    assert isinstance(begun, Watching)
    assert (begun.line, len(begun.watch)) == (f"Watching {count}", count)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("output web.2", b"out:web.2:1000.0:5:2:0\nhello\nclosed:web.2:1001.0:3:2:5\n"),
        ("output after.2=3 web.2", b"out:web.2:1000.0:2:2:3\nlo\nclosed:web.2:1001.0:3:2:5\n"),
        ("output before.2=2", b"out:web.2:1000.0:2:2:0\nhe\n"),
        ("output bytes=1 until=1000.5", b"out:web.2:1000.0:1:2:4\no\n"),
        ("output since=1000.5 stream=out last=5", b"closed:web.2:1001.0:3:2:5\n"),
        ("output web.1", b""),
    ],
)
def test_output_reads_what_its_options_say(tables: Tables, line: str, found: bytes) -> None:
    output = called(tables, line)
    assert isinstance(output, Output)
    assert b"".join(output.reading.frames()) == found


def test_quit_leaves_and_exit_if_idle_ends_papad_only_when_it_holds_nothing(home: Home) -> None:
    assert called(home.tables, "quit") == Leave("ok\n")
    for last in ("remove sockets", "set count", "set mail"):
        assert called(home.tables, "exit-if-idle") == "not idle"
        called(home.tables, last)
    home.end(home.running)
    called(home.tables, "remove processes")
    assert called(home.tables, "exit-if-idle") == Leave("Exiting papa!\n> ", exit=True)


def test_a_list_has_one_line_for_each_item_whatever_it_holds(tables: Tables) -> None:
    tables.values.set("count", "1\n2\n")
    assert called(tables, "list values count") == "count 1 2 "
    assert called(tables, "get count") == "1\n2\n"
    assert json.loads(called(tables, "describe values count"))["value"] == "1\n2\n"


def test_the_tables_tell_what_they_hold(home: Home) -> None:
    assert home.tables.names == [
        "socket web",
        "socket udp",
        f"process web.1 (pid {home.running.pid})",
        f"process web.2 (pid {home.ended.pid})",
        "value count",
        "value mail",
    ]
    assert home.tables.status == "2 sockets, 2 processes (1 running), 2 values"
    for line in ("remove sockets web", "set count", "remove processes web.2"):
        called(home.tables, line)
    assert home.tables.status == "1 socket, 1 process (1 running), 1 value"
    assert not home.tables.idle


def test_a_process_is_made_with_its_options_and_watched_at_once_if_that_is_asked(lives: Lives) -> None:
    line = "make process x env.A=b shell=1 stderr=stdout watch={watch} echo\\ $A;echo\\ err\\ >&2;exit\\ 7"

    async def act(tables: Tables) -> list[Any]:
        with pytest.raises(Error, match="No command"):
            await call(tables, "make process x env.A=b")
        text = await call(tables, line.format(watch=0))
        begun = await call(tables, line.format(watch=1))  # watch is no part of the spec: it is the same process
        assert isinstance(begun, Watching)
        (process,) = tables.processes.select(["x"])
        await until(lambda: process.closed, "it is closed")
        output = b"".join(record.partition(b"\n")[2] for record in begun.watch.batch()).decode()
        return [text, begun.line.replace("running=False", "running=True"), output, process.exit and process.exit[0]]

    text, first_line, output, code = lives.report(act)
    assert re.fullmatch(r"x pid=\d+ running=True started=\S+ shell=True args=echo \$A;echo err >&2;exit 7", text)
    assert first_line == text
    assert output.replace("\n", "") == "berr"
    assert code == 7


def test_the_owner_of_a_socket_is_looked_up_aside_if_it_is_a_name(
    tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    original = pwd.getpwnam

    def named(name: str) -> pwd.struct_passwd:
        threads.append(threading.current_thread().name)
        return original(name)

    monkeypatch.setattr(pwd, "getpwnam", named)
    user = pwd.getpwuid(os.getuid()).pw_name
    line = "make socket {} path={}/{} owner={}"
    made = called(tables, line.format("one", tmp_path, "one", user))
    assert f" owner={os.getuid()} " in made
    assert threads == ["look-up"]
    assert f" owner={os.getuid()} " in call(tables, line.format("two", tmp_path, "two", os.getuid())), "at once"
    with pytest.raises(Error, match=r"^'nosuchuser' is not a valid user name$"):
        called(tables, line.format("three", tmp_path, "three", "nosuchuser"))
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_every_command_is_called_here() -> None:
    lines = [line for line, *_ in (*ANSWERS, *CHANGES)] + list(ERRORS) + ["quit"]
    called = {GRAMMAR.find(line.split())[0].name for line in lines if line != "describe"}
    assert called == {command.name for command in COMMANDS}


VIEWER = 4321
VIEWS = {
    "describe processes",
    "describe server",
    "describe sockets",
    "describe values",
    "get",
    "help",
    "list processes",
    "list sockets",
    "list values",
    "output",
    "quit",
    "watch processes",
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_viewer_may_look_and_change_nothing(tables: Tables, command: Command) -> None:
    assert (command.role is Role.VIEW) == (command.name in VIEWS)
    if command.name not in VIEWS:
        before = tables.names
        for words in ([], ["web"], ["web.2"], ["x", "y"], ["*"]):
            with pytest.raises(Error, match=f'You may only look; "{command.name}" is for root and members of the gro'):
                command.handler(tables, command.arguments(words, VIEWER))
        assert tables.names == before


def test_a_viewer_does_not_see_arguments_and_variables_of_other_users(home: Home) -> None:
    secret, own = home.add("secret"), home.add("own")
    for process, uid in ((secret, 0), (own, VIEWER)):
        process.spec = replace(process.spec, uid=uid, args=["/bin/cat", "pass"], env={"PASSWORD": "pass"})

    def seen(viewer: int | None) -> str:
        lines = ("list processes secret own", "describe processes secret own")
        commands = [GRAMMAR.find(line.split())[0] for line in lines]
        return "\n".join(each.handler(home.tables, each.arguments(["secret", "own"], viewer)) for each in commands)

    assert seen(None).count("pass") == 6
    assert seen(VIEWER).count("pass") == 3
    assert seen(VIEWER).count("(hidden)") == 3
    assert '"env":{"PASSWORD":"(hidden)"}' in seen(VIEWER)
    assert seen(VIEWER + 1).count("pass") == 0


def test_a_viewer_is_told_the_role(tables: Tables) -> None:
    command, words = GRAMMAR.find(["describe", "server"])
    assert json.loads(command.handler(tables, command.arguments(words, VIEWER)))["role"] == "view"


def test_an_acknowledgement_of_a_viewer_frees_nothing(home: Home) -> None:
    command, words = GRAMMAR.find(["watch", "processes", "web.2"])
    watching = command.handler(home.tables, command.arguments(words, VIEWER))
    assert len(watching.watch.batch()) == 2
    watching.watch.acknowledge()
    assert home.ended.state is State.CLOSED
    assert home.tables.names.count(f"process web.2 (pid {home.ended.pid})") == 1
