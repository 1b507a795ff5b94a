"""Commands as lines, and their answers."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from papad.errors import BadRequest, Error
from papad.protocol import requests
from papad.protocol.requests import DEVNULL, PIPE, STDOUT, Request

r = requests

LINES: list[tuple[Request[Any], bytes]] = [
    (r.list_sockets(), b"list sockets"),
    (r.list_sockets("a*", 65, None, "b c"), b"list sockets a* 65 b%20c"),
    (r.make_socket("s"), b"make socket s backlog=auto"),
    (r.make_socket(b"\xff", "::1", 0, socket.AF_INET6), b"make socket \xff backlog=auto family=inet6 host=::1 port=0"),
    (r.make_socket("s", backlog=0, reuseport=True), b"make socket s backlog=0 reuseport=1"),
    (r.make_socket("s", reuseport=False, socket_type=socket.SOCK_DGRAM), b"make socket s backlog=auto type=dgram"),
    (r.make_socket("s", interface="lo", v6only=1, port=5), b"make socket s backlog=auto v6only=1 port=5 interface=lo"),
    (r.make_socket("s", "not this", path=Path("/a b"), umask=0), b"make socket s backlog=auto path=/a%20b umask=0"),
    (
        r.make_socket("s", path="/a", mode=0o660, owner=":adm"),
        b"make socket s backlog=auto mode=0660 owner=:adm path=/a",
    ),
    (r.make_socket("s", path="/a", mode="660", owner=33), b"make socket s backlog=auto mode=660 owner=33 path=/a"),
    (r.make_socket("s", mode=0), b"make socket s backlog=auto mode=0000"),
    (r.set_value("a", " x\n"), b"set a %20x%0A"),
    (r.set_value("a=b", 5), b"set a%3Db 5"),
    (r.set_value("a"), b"set a"),
    (r.set_value("a*"), b"set a*"),
    (r.set_value("*a", "*"), b"set *a *"),
    (r.set_value("a", {"b": [1, None]}), b'set a {"b":%20[1,%20null]}'),
    (r.set_value("a", ("b",)), b'set a ["b"]'),
    (r.set_value("a", {}), b"set a {}"),
    (r.get_value("a"), b"describe values a"),
    (r.make_process("x", "/bin/echo", ["a", 5, None, "", b"b"]), b"make process x /bin/echo a 5 % b"),
    (r.make_process("x", Path("/bin/echo"), "one word"), b"make process x /bin/echo one%20word"),
    (r.make_process("x", "e", (), {"A": "=", b"B": 1}), b"make process x env.A=%3D env.B=1 e"),
    (r.make_process("x", "e", uid=0, gid="adm", working_dir="/"), b"make process x working_dir=/ uid=0 gid=adm e"),
    (r.make_process("x", "e", rlimits={"NOFILE": 9}, bufsize="1k"), b"make process x bufsize=1k rlimit.nofile=9 e"),
    (r.make_process("x", "e", stdout=PIPE, stderr=PIPE), b"make process x e"),
    (r.make_process("x", "e", stdout=DEVNULL, stderr=STDOUT), b"make process x stdout=0 stderr=stdout e"),
    (r.make_process("x", "e", bufsize=0, stdout=PIPE), b"make process x bufsize=0 e"),
    (r.make_process("x", "e", listen=["a", b"b"], journal=True), b"make process x journal=1 listen=a,b e"),
    (r.make_process("x", "e", listen="web"), b"make process x listen=web e"),
    (r.make_process("x", "e", listen=b"web"), b"make process x listen=web e"),
    (r.make_process("x", "e", listen="web,api"), b"make process x listen=web,api e"),
    (r.make_process("x", "a | b", shell=True, journal=False), b"make process x shell=1 a%20|%20b"),
    (r.make_process("x", "e", again=1, colour="red"), b"make process x again=1 colour=red e"),
    (r.make_process("x", "e", umask=0o27), b"make process x umask=0027 e"),
    (r.make_process("x", "e", umask="27"), b"make process x umask=27 e"),
    (r.describe("server"), b"describe server"),
    (r.exit_if_idle(), b"exit-if-idle"),
]


@pytest.mark.parametrize(("request_", "line"), LINES, ids=[line.decode(errors="replace") for _, line in LINES])
def test_a_command_is_one_exact_line(request_: Request[Any], line: bytes) -> None:
    assert request_.line == b"%" + line + b"\n"


def test_only_a_process_that_is_watched_is_watched() -> None:
    assert r.make_process("x", "e", watch_immediately=True).line == b"%make process x watch=1 e\n"
    assert r.make_process("x", "e", watch_immediately=True).watched == ("x",)
    assert r.make_process("x", "e").watched == ()
    assert r.watch_processes(7, "a*") == b"%watch processes 7 a*\n"


ANSWERS: dict[str, tuple[Request[Any], str, object]] = {
    "no sockets": (r.list_sockets(), "", {}),
    "sockets": (
        r.list_sockets(),
        "a b family=unix type=dgram backlog=5 path=/a b umask=18 fileno=64\n"
        "m family=unix type=stream backlog=5 path=/m mode=0660 owner=33:4 fileno=66\n"
        "c family=inet6 type=stream backlog=0 host=::1 port=80 interface=lo reuseport=1 v6only=1",
        {
            "a b": {
                "family": "unix",
                "type": "dgram",
                "backlog": 5,
                "path": "/a b",
                "umask": "18",
                "fileno": 64,
            },
            "m": {
                "family": "unix",
                "type": "stream",
                "backlog": 5,
                "path": "/m",
                "mode": "0660",
                "owner": "33:4",
                "fileno": 66,
            },
            "c": {
                "family": "inet6",
                "type": "stream",
                "backlog": 0,
                "host": "::1",
                "port": 80,
                "interface": "lo",
                "reuseport": "1",
                "v6only": "1",
            },
        },
    ),
    "processes": (
        r.list_processes(),
        "x pid=7 running=True started=1.5e+09 args=/bin/echo a pid=8\n"
        "y z pid=8 running=False started=2.5 uid=0 gid=adm shell=True args=",
        {
            "x": {"pid": 7, "running": True, "started": 1.5e9, "args": "/bin/echo a pid=8"},
            "y z": {
                "pid": 8,
                "running": False,
                "started": 2.5,
                "uid": "0",
                "gid": "adm",
                "shell": True,
                "args": "",
            },
        },
    ),
    "values": (r.list_values(), '{"name": "a", "value": "1\\n2"}\n{"name": "b", "value": ""}', {"a": "1\n2", "b": ""}),
    "a value": (r.get_value(b"a*"), '{"name": "ab", "value": "1"}\n{"name": "a*", "value": "2"}', "2"),
    "no value": (r.get_value("a"), "", None),
    "a value that was set": (r.set_value("a", "1"), "", None),
    "what was removed": (r.remove_values("a"), "", True),
    "the end": (r.exit_if_idle(), "Exiting papad!", True),
    "no end": (r.exit_if_idle(), "not idle", False),
    "anything": (r.describe("server"), '{"pid": 7}', [{"pid": 7}]),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_answers_are_taken_apart(what: str) -> None:
    request, answer, expected = ANSWERS[what]
    assert request.parse(answer) == expected


@pytest.mark.parametrize("request_", [r.list_sockets(), r.list_processes(), r.make_socket("s"), r.make_process("x")])
def test_an_answer_that_is_not_understood_is_shown(request_: Request[Any]) -> None:
    with pytest.raises(Error, match="cannot parse: 'nonsense'"):
        request_.parse("nonsense")


def test_what_could_hit_something_new_is_not_repeatable() -> None:
    """Between the two, somebody may have made another of that name."""
    for request in (r.remove_sockets("s"), r.remove_processes("x"), r.exit_if_idle(), r.make_process("x", again=1)):
        assert not request.repeatable
    for request in (r.make_socket("s"), r.make_process("x"), r.set_value("a", 1), r.remove_values("a")):
        assert request.repeatable


FAULTS: list[tuple[str, Callable[..., object], dict[str, object]]] = [
    ("Invalid socket family 12345", r.make_socket, {"family": 12345}),
    ("Invalid socket type 12345", r.make_socket, {"socket_type": 12345}),
    ("absolute", r.make_socket, {"path": "/a/"}),
    ("absolute", r.make_socket, {"path": b"a"}),
    ("stdout must be one of DEVNULL, PIPE$", r.make_process, {"stdout": STDOUT}),
    ("stderr must be one of DEVNULL, STDOUT, PIPE$", r.make_process, {"stderr": 2}),
    ("cannot be sent", r.set_value, {"value": "\ud800"}),
    ("cannot be stored as JSON: Object of type bytes", r.set_value, {"value": [b"x"]}),
]


@pytest.mark.parametrize(("what", "request_", "arguments"), FAULTS)
def test_faults_that_show_before_anything_is_sent(
    what: str, request_: Callable[..., object], arguments: dict[str, object]
) -> None:
    with pytest.raises(Error, match=what):
        request_("a", **arguments)


@pytest.mark.parametrize("name", ["*", "web.*", b"web.*"])
def test_nothing_is_made_with_a_name_that_is_a_pattern(name: str | bytes) -> None:
    """It could be removed only with all that the pattern matches."""
    for request in (r.make_socket, r.make_process, lambda name: r.set_value(name, "x")):
        with pytest.raises(BadRequest, match=r"'(web\.)?\*' ends in \*, and would be taken for a pattern"):
            request(name)


def test_values_are_set_one_by_one() -> None:
    with pytest.raises(BadRequest, match="one name and its value"):
        r.set_value({"a": 1})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", None])
def test_nothing_goes_without_a_name(name: str) -> None:
    for what, request in (
        ("Socket", r.make_socket),
        ("Process", r.make_process),
        ("Value", r.set_value),
        ("Value", r.get_value),
    ):
        with pytest.raises(Error, match=f"{what} requires a name"):
            request(name)


def test_a_line_of_nothing_is_no_command() -> None:
    for words in ([], ["", ""]):
        with pytest.raises(Error, match="no command"):
            r.line(words)


@pytest.mark.parametrize("value", ["a\xff", b"a\xff", Path("a\xff"), Path(os.fsdecode(b"\xff")), 5, 1.5, True])
def test_a_word_is_what_the_system_would_make_of_it(value: object) -> None:
    expected = os.fsencode(value) if isinstance(value, str | bytes | Path) else str(value).encode()
    assert os.fsencode(r.text(value)) == expected


def test_the_constants_are_those_of_subprocess() -> None:
    assert (PIPE, STDOUT, DEVNULL) == (subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL)
