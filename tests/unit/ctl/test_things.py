"""Sockets, processes and values, as text and as JSON. More of it, as a program: tests/ctl/test_commands.py."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from papad.ctl.things import _count, _process_row, _readable, _server_lines, _socket_row, _without_dead_pids
from tests.support.waiting import wait_until
from tests.unit.ctl.support import Here

SOCKET = {"name": "web", "family": "inet", "type": "stream", "host": "127.0.0.1", "port": 80, "path": None}
SOCKET |= {"fileno": 64, "backlog": 5, "waiting": 0}
PROCESS = {"name": "p", "pid": 7, "running": True, "removed": False, "started": None, "ended": None, "code": None}
PROCESS |= {"cpu": 1.25, "memory": 1500, "buffered": 0, "lost": 0}


@pytest.mark.parametrize(
    ("more", "row"),
    [
        ({}, ["web", "127.0.0.1:80", "64", "5", "0"]),
        ({"family": "inet6", "host": "::1"}, ["web", "[::1]:80", "64", "5", "0"]),
        ({"family": "unix", "path": "/s", "host": None, "port": None}, ["web", "/s", "64", "5", "0"]),
        ({"type": "dgram", "backlog": None, "waiting": None}, ["web", "127.0.0.1:80 dgram", "64", "", ""]),
        ({"fileno": None}, ["web", "127.0.0.1:80", "reuseport", "5", "0"]),
        ({"name": "\x1b[2J", "path": "/\x07"}, ["\\x1b[2J", "/\\x07", "64", "5", "0"]),
    ],
)
def test_the_row_of_a_socket(more: dict[str, object], row: list[str]) -> None:
    assert _socket_row(SOCKET | more) == row


@pytest.mark.parametrize(
    ("more", "row"),
    [
        ({}, ["p", "7", "running", "", "1.2 s", "1.5 kB", "0 B", "0 B"]),
        ({"removed": True, "cpu": None}, ["p", "7", "running, removed", "", "", "1.5 kB", "0 B", "0 B"]),
        (
            {"running": False, "pid": None, "code": -9},
            ["p", "", "killed by SIGKILL", "", "1.2 s", "1.5 kB", "0 B", "0 B"],
        ),
        ({"running": False, "memory": None}, ["p", "", "ended", "", "1.2 s", "", "0 B", "0 B"]),
        (
            {"running": False, "code": 1, "held": True, "held_by": "sleep (pid 9)"},
            ["p", "", "ended with exit code 1, output held by sleep (pid 9)", "", "1.2 s", "1.5 kB", "0 B", "0 B"],
        ),
        ({"name": "\u202ep"}, ["\\u202ep", "7", "running", "", "1.2 s", "1.5 kB", "0 B", "0 B"]),
    ],
)
def test_the_row_of_a_process(more: dict[str, object], row: list[str]) -> None:
    assert _process_row(PROCESS | more) == row


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("code", None, "-"),
        ("umask", 63, "0077"),
        ("args", ["a b", "", "c"], "'a b' '' c"),
        ("env", {"A": "1", "B": ""}, "A=1 B="),
        ("env", {}, "-"),
        ("rlimits", {"nofile": [64, 1024], "as": 5}, "nofile=64:1024 as=5"),
        ("name", "a\x1bb", "a\\x1bb"),
        ("running", True, "True"),
        ("listen", [], ""),
    ],
)
def test_values_of_describe_are_readable(key: str, value: object, text: str) -> None:
    assert _readable(key, value) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 processes"), (1, "1 process"), (2, "2 processes")])
def test_there_is_one_process_or_there_are_processes(number: int, text: str) -> None:
    assert _count(number, "process") == text


@pytest.mark.parametrize(("starts", "survived"), [(1, ""), (2, ", 1 restart survived"), (9, ", 8 restarts survived")])
def test_the_server_tells_what_it_has_survived(here: Here, starts: int, survived: str) -> None:
    (server,) = here.session.client().describe("server")
    lines = _server_lines(server | {"starts": starts, "uptime": 90, "managed": True}, here.session)
    assert lines[1].endswith(f"up 1 min 30 s{survived}")
    assert len(lines) == 3


@pytest.mark.parametrize("kind", ["sockets", "processes", "values"])
def test_lists_are_those_of_the_protocol_and_json_is_that_of_describe(here: Here, kind: str) -> None:
    here.out("make", "socket", "b.web")
    here.out("make", "process", "b.p", "--", "/bin/sleep", "600")
    here.out("set", "b.v", "two  words")
    assert here.out("list", kind) == here.out("list", kind, "b.*") == here.daemon.ask(f"list {kind}") + "\n"
    assert here.out("list", kind, "a*") == ""
    described = here.daemon.ask(f"describe {kind}")
    assert here("list", kind, "--json").out.count("\n") == 1
    names = [json.loads(text)["name"] for text in (here.out("list", kind, "--json"), described)]
    assert len({*names}) == 1
    assert f"name: {names[0]}\n" in here.out("describe", kind)
    (everything,) = here.out("status", "--json").splitlines()
    assert kind == "values" or json.loads(everything)[kind][0]["name"] == names[0]


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("get none", 1, "papactl: there is no value none; papactl list values shows them all\n"),
        ("get non*", 1, "papactl: there is no value non*; papactl list values shows them all\n"),
        ("set v", 2, "papactl: error: set v needs a value\nTo clear it: papactl remove values v\n"),
        ("set v=1", 2, "papactl: error: set v=1 needs a value\nDid you mean: papactl set v 1\n"),
        ("status a b*", 1, "papactl: no process matches a or b*; papactl list processes shows them all\n"),
        ("set v 1 --json", 0, ""),
        ("remove values none --json", 0, ""),
    ],
)
def test_what_cannot_be_done_says_what_can(here: Here, line: str, status: int, said: str) -> None:
    done = here(*line.split())
    assert (done.status, done.out, done.err) == (status, "", said)


def test_papad_does_not_leave_while_it_holds_something(here: Here) -> None:
    here.out("set", "v", "1")
    done = here("exit-if-idle")
    assert (done.status, done.out) == (1, "")
    assert done.err == "papactl: not idle: papad still holds something; papactl status shows what\n"


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -9 $$", 137), ("exit 0", 0)])
def test_a_process_that_is_watched_gives_its_status(here: Here, script: str, status: int) -> None:
    done = here("make", "process", "p", "-w", "--", "/bin/sh", "-c", script)
    assert (done.status, done.err) == (status, "")


@pytest.mark.parametrize(
    ("words", "status"), [("watch=yes", 7), ("watch=TRUE", 7), ("watch=no", 0), ("watch=maybe", 2)]
)
def test_a_word_of_the_protocol_may_ask_to_watch(here: Here, words: str, status: int) -> None:
    done = here("make", "process", "p", words, "--", "/bin/sh", "-c", "exit 7")
    assert done.status == status
    assert done.err == ("papactl: error: watch must be 0 or 1, not 'maybe'\n" if status == 2 else "")


def test_the_words_of_a_command_for_the_shell_are_joined(here: Here) -> None:
    here.out("make", "process", "p", "shell=yes", "exit", "7")
    assert here.described("p")["args"] == ["exit 7"]


def test_make_process_says_that_the_process_has_ended_and_fails_unless_it_is_started_again(here: Here) -> None:
    here.runs("x", "echo $$; exit 3")
    before = here.described("x")
    for more in ((), ("--watch",), ("--json",)):
        done = here("make", "process", "x", *more, "--", "/bin/sh", "-c", "echo $$; exit 3")
        assert done.status == 1
        assert done.err == (
            "papactl: x is there already, ended with exit code 3; it was not started again\n"
            "To start it again, without its old output: --again. To see that: papactl output x\n"
        )
    assert here.described("x") == before, "its output was not consumed"
    done = here("make", "process", "x", "--again", "--watch", "--", "/bin/sh", "-c", "echo new; exit 4")
    assert (done.status, done.err) == (4, "")
    assert "new" in done.out
    assert "exit code 3" not in done.out


def test_how_a_process_was_killed_is_told_by_make_process(here: Here) -> None:
    here.runs("y", "kill -SEGV $$")
    done = here("make", "process", "y", "--", "/bin/sh", "-c", "kill -SEGV $$")
    assert (done.status, done.err.splitlines()[0]) == (
        1,
        "papactl: y is there already, killed by SIGSEGV; it was not started again",
    )


def test_who_holds_the_output_of_a_process_that_has_ended_is_named(here: Here) -> None:
    here.out("make", "process", "x", "--", "/bin/sh", "-c", "/bin/sleep 60 & exit 3")
    wait_until(lambda: here.described("x")["held"], "it has ended, but for its child")
    pid = here.described("x")["pid"]
    for line in (("describe", "processes", "x"), ("status", "x")):
        assert re.search(r"sleep \(pid \d+\)", here.out(*line))
    assert "-- ended with exit code 3; a child of it still holds its output --" in here.out("output", "x")
    os.killpg(pid, signal.SIGKILL)
    wait_until(lambda: here.described("x")["closed"], "its child has ended")
    assert "held by" not in here.out("status", "x")


def test_a_list_shows_no_pid_of_a_process_that_has_ended(here: Here) -> None:
    lines = (
        "a pid=1 running=True started=1.5 args=echo b pid=2 running=False started=3",
        "c pid=4 running=False started=1.5 args=echo d pid=5 running=False started=3",
    )
    shown = (lines[0], lines[1].replace("pid=4", "pid=-"))
    assert _without_dead_pids("\n".join(lines)) == "\n".join(shown)
    here.runs("x", "exit 3")
    assert here.out("list", "processes", "x").startswith("x pid=- running=False started=")
    assert str(here.described("x")["pid"]) not in here.out("status").replace(str(here.daemon.pid), "")
    done = here("make", "process", "x", "--", "/bin/sh", "-c", "exit 3")
    assert done.out.startswith("x pid=- running=False started=")


def test_who_still_has_a_removed_socket_is_told(here: Here) -> None:
    here.out("make", "socket", "web")
    here.out("make", "socket", "unused")
    pid = here.out("make", "process", "x", "--", "/bin/sleep", "60").split()[1].removeprefix("pid=")
    here.out("make", "socket", "late")
    said = here.out("remove", "sockets", "*").splitlines()
    assert said == [f"{name} stays open until those exit that have it: sleep (pid {pid})" for name in ("unused", "web")]
    said = here.out("remove", "processes", "x").splitlines()
    assert said == [
        f"x is still running (pid {pid}), for papad ends no process; its output is discarded from now on, and its name is "
        "free once it exits"
    ]
    os.kill(int(pid), signal.SIGKILL)


def test_the_options_of_a_process_are_passed_on(here: Here, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("A='from the file'\n")
    options = f"--env-file {file} --login-env --umask 027 --nice 5 --stdin {file} --rlimit nofile=64:1k".split()
    script = "echo $A; umask; ulimit -Sn; ulimit -Hn; cat"
    here.out("make", "process", "x", *options, "-E", "PATH=/bin", "--", "/bin/sh", "-c", script)
    wait_until(lambda: here.described("x")["closed"], "it has ended")
    assert here.out("output", "x", "-o", "cat") == "from the file\n0027\n64\n1024\nA='from the file'\n"
    shown = here.out("describe", "processes", "x")
    for line in (f"env_file: {file}", "login_env: True", "umask: 0027", "nice: 5", f"stdin: {file}", "nofile=64:1024"):
        assert line in shown


def test_make_again_and_watch_takes_up_what_runs_with_other_options(here: Here) -> None:
    """Without it, a unit of systemd whose command was edited would fail, again and again, until the process ends."""
    here("make", "process", "x", "--", "/bin/sh", "-c", "echo old; sleep 1; exit 5")
    done = here("make", "process", "x", "--again", "--", "/bin/true")
    assert (done.status, done.err.startswith("papactl: Process for x has already been created")) == (1, True)
    done = here("make", "process", "x", "--again", "--watch", "--", "/bin/true")
    assert done.status == 5
    assert "old\n" in done.out
    assert re.match(
        r"papactl: x runs as it was made before: Process for x .* it differs in args: /bin/true instead of /bin/sh",
        done.err,
    )
    assert "papactl signal x" in done.err
    assert here("make", "process", "x", "--again", "--watch", "--", "/bin/true").status == 0


def test_make_again_and_watch_does_not_take_up_what_was_removed(here: Here) -> None:
    here("make", "process", "x", "--", "/bin/sleep", "60")
    here("remove", "processes", "x")
    done = here("make", "process", "x", "--again", "--watch", "--", "/bin/true")
    assert (done.status, "was removed and still runs" in done.err) == (1, True)
