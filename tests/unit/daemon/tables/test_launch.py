"""What a process is started with: sizes, users, limits, references to sockets, its standard streams."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from papad.daemon.tables.launch import (
    LookedUp,
    Spec,
    groups_of,
    inherit,
    parse_size,
    request,
    specify,
    standard_streams,
)
from papad.daemon.tables.sockets import Sockets
from papad.errors import Error
from papad.protocol import wire
from tests.support.homes import SocketsHome, opened
from tests.support.papad import Daemon, no_new_fds
from tests.support.talks import ended, read


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1", 1), ("2k", 2048), ("2K", 2048), ("3m", 3 << 20), ("1g", 1 << 30), ("1024g", 1 << 40)],
)
def test_sizes_may_have_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "k", "-1", "1.5k", "1kk", "1t", "x", "1025g", "\u00b2", " 1"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a number of bytes"):
        parse_size(text)


def test_without_options_output_is_captured_in_a_mebibyte() -> None:
    assert specify({}, ["/bin/true"]) == Spec(["/bin/true"], {}, {}, bufsize=1 << 20, out=1, err=1)


@pytest.mark.parametrize("name", ["bufsize", "output"])
def test_a_buffer_of_no_bytes_captures_nothing(name: str) -> None:
    spec = specify({name: 0, "stderr": "stdout"}, ["x"])
    assert (spec.out, spec.err) == (0, 0)


def test_a_user_brings_its_group_along() -> None:
    user = pwd.getpwnam("nobody")
    spec = specify({"uid": "nobody"}, ["x"])
    assert (spec.uid, spec.gid) == (user.pw_uid, user.pw_gid)
    assert specify({"uid": str(user.pw_uid), "gid": "0"}, ["x"]).gid == 0
    assert groups_of(spec) == os.getgrouplist("nobody", user.pw_gid)
    assert groups_of(specify({}, ["x"])) is None
    assert request(spec, ["x"], LookedUp([7]))["groups"] == [7]


@pytest.mark.parametrize(
    "options",
    [
        {"uid": "no-such-user"},
        {"uid": "4123456789"},
        {"uid": "-1"},
        {"uid": "9" * 5000},
        {"uid": "a\0b"},
        {"gid": "no-such-group"},
        {"gid": "4123456789"},
        {"gid": "-1"},
        {"gid": "9" * 5000},
        {"gid": "a\0b"},
        {"working_dir": "relative"},
        {"rlimit.": {"nonsense": "1"}},
        {"rlimit.": {"nofile": "x"}},
        {"rlimit.": {"nofile": "-2"}},
        {"rlimit.": {"nofile": "9" * 30}},
        {"rlimit.": {"nofile": "9" * 5000}},
        {"rlimit.": {"": "1"}},
        {"rlimit.": {"nofile": "5:4"}},
        {"rlimit.": {"nofile": "infinity:4"}},
        {"rlimit.": {"nofile": "1:2:3"}},
        {"rlimit.": {"nofile": ":"}},
        {"rlimit.": {"cpu": "1m"}},
        {"rlimit.": {"as": "9" * 18 + "g"}},
        {"env_file": "relative"},
        {"env_file": "-relative"},
        {"stdin": "relative"},
    ],
    ids=lambda options: repr(options)[:40],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(Error) as error:
        specify(options, ["x"])
    assert "int_max_str_digits" not in str(error.value)


def test_a_shell_gets_the_command_as_one_argument() -> None:
    assert request(specify({"shell": True}, ["a b", "c"]), ["a b", "c"], LookedUp())["args"] == [
        "/bin/sh",
        "-c",
        "a b",
        "c",
    ]


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[Sockets]:
    with no_new_fds(), opened(SocketsHome) as home:
        for line in ("a", "b.c", "r reuseport=1", f"u path={tmp_path}/u"):
            home.make(line)
        yield home.sockets
        home.remove()


def resolved(sockets: Sockets, *args: str) -> tuple[set[int], list[str]]:
    with no_new_fds(), contextlib.ExitStack() as cleanup:
        inherited, fixed = inherit("x", Spec(list(args), {}, {}), sockets, cleanup)
        assert all(os.fstat(fd) for fd in inherited.values())
        return set(inherited), fixed


def test_references_to_sockets_are_replaced_as_often_as_they_occur(sockets: Sockets) -> None:
    a, dotted = sockets.get("a"), sockets.get("b.c")
    assert a is not None
    assert dotted is not None
    args = "$(socket.a.port)/$(socket.a.fileno)/$(socket.a.port)", "x$(socket.b.c.port)y", "$(other) $HOME"
    fixed = [f"{a.spec.port}/64/{a.spec.port}", f"x{dotted.spec.port}y", "$(other) $HOME"]
    assert resolved(sockets, *args) == ({64, 65, 67}, fixed)


def test_a_reuseport_socket_is_bound_for_those_only_that_name_its_number(sockets: Sockets) -> None:
    assert resolved(sockets, "$(socket.r.port)")[0] == {64, 65, 67}
    assert resolved(sockets, "$(socket.r.fileno) $(socket.r.fileno)") == ({64, 65, 66, 67}, ["66 66"])


@pytest.mark.parametrize(
    "arg",
    [
        "$(socket.a",
        "$(socket.a)",
        "$(socket.a.host)",
        "$(socket.nothing.port)",
        "$(socket.u.port)",
        "$(socket.)",
        "$(socket..port)",
    ],
)
def test_a_wrong_reference_is_an_error_and_leaves_nothing_open(sockets: Sockets, arg: str) -> None:
    with no_new_fds(), pytest.raises(Error), contextlib.ExitStack() as cleanup:
        inherit("x", Spec(["$(socket.r.fileno)", arg], {}, {}), sockets, cleanup)


@pytest.mark.parametrize(
    ("options", "pipes"),
    [
        ({}, {0, 1}),
        ({"stdout": 0}, {1}),
        ({"stderr": 0}, {0}),
        ({"stderr": "stdout"}, {0}),
        ({"stdout": 0, "stderr": "stdout"}, set()),
        ({"bufsize": 0}, set()),
    ],
)
def test_standard_streams_are_pipes_where_they_are_captured_and_null_elsewhere(
    options: dict[str, Any], pipes: set[int]
) -> None:
    null = os.stat(os.devnull).st_ino
    with no_new_fds(), contextlib.ExitStack() as cleanup:
        standard, readers = standard_streams(specify(options, ["x"]), cleanup)
        assert readers.keys() == pipes
        inodes = [os.fstat(fd).st_ino for fd in standard]
        assert inodes[0] == null
        for stream, reader in readers.items():
            assert inodes[1 + stream] == os.fstat(reader).st_ino
            assert not os.get_blocking(reader)
            assert os.get_blocking(standard[1 + stream])
            os.close(reader)
        if options.get("stderr") == "stdout":
            assert standard[1] == standard[2]
        assert {1 + stream for stream in (0, 1) if inodes[1 + stream] == null} <= {1, 2} - {
            1 + stream for stream in pipes
        }


def test_a_pipe_has_a_reader_as_long_as_its_process_lives() -> None:
    """So nobody gets SIGPIPE while papad is away, and what was written waits for the next one."""
    with no_new_fds(), contextlib.ExitStack() as cleanup:
        standard, readers = standard_streams(specify({"stderr": 0}, ["x"]), cleanup)
        os.close(readers[0])
        os.write(standard[1], b"nobody reads this yet")
        again = os.open(f"/proc/self/fd/{standard[1]}", os.O_RDONLY | os.O_NONBLOCK)
        assert os.read(again, 100) == b"nobody reads this yet"
        os.close(again)


def test_sockets_are_passed_as_systemd_does(papad: Daemon) -> None:
    for name in ("a", "b:c"):
        papad.ask(f"make socket {name}")
    code = "import os,socket;e=os.environ;print(e['LISTEN_PID']==str(os.getpid()),e['LISTEN_FDS'],e['LISTEN_FDNAMES'],"
    code += "*(socket.socket(fileno=f).getsockname()[1] for f in (3,4)))"
    with papad.connect() as talk:
        talk.send(wire.exact_line(["make", "process", "p", ("listen", "b:c,a"), "/usr/bin/python3", "-c", code]))
        talk.until(b"\n> ")
    ended(papad, "p")
    ports = [json.loads(papad.ask(f"describe sockets {name}"))["port"] for name in ("b:c", "a")]
    got = b"".join(each[2] for each in read(papad, "output p") if each[0] == "out").decode().split()
    assert got == ["True", "2", "b_c:a", *map(str, ports)]
    assert papad.ask("make process q listen=nothing /bin/true") == "Error: Socket nothing not found"
    assert papad.ask("make process q listen= /bin/true").startswith("Error: listen must be names of sockets")
