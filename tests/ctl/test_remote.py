"""-H, with an ssh that runs the command here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ctl.support import COMMAND, Done, Papactl, environment, line_of, papactl
from tests.unit.support import running_papad

SSH = """#!/bin/sh
[ "$1 $2" = "-xT --" ] || exit 99
shift 2
host=$1; shift
case $host in
unreachable) echo "ssh: no route" >&2; exit 255;;
esac
unset PAPAD_SOCKET
PATH={bin}:$PATH; export PATH
PAPAD_SOCKET={folder}/$host/papad.sock exec sh -c "$*"
"""


class Far:
    """Papads of the hosts `one` and `two`, reached by an ssh in PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        bin = folder / "bin"
        bin.mkdir()
        (bin / "ssh").write_text(SSH.format(bin=bin, folder=folder))
        (bin / "papactl").write_text(f"#!{sys.executable}\nfrom papad.ctl import main\nmain()\n")
        for name in ("ssh", "papactl"):
            (bin / name).chmod(0o755)
        self.env = {"PATH": f"{bin}:{os.environ['PATH']}", "PAPAD_SOCKET": "/nonexistent"}

    def __call__(self, *args: str) -> Done:
        return papactl(*args, **self.env)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    folder = tmp_path_factory.mktemp("far")
    for host in ("one", "two"):
        (folder / host).mkdir()
    with running_papad(folder / "one") as one, running_papad(folder / "two") as two:
        Papactl(one).runs("p", "echo from one")
        Papactl(two).runs("p", "echo from two >&2")
        Papactl(two).runs("only", "echo here")
        yield Far(folder)


def test_the_same_command_on_another_machine(far: Far) -> None:
    assert far("-H", "one", "output", "p", "-o", "cat") == (0, "from one\n", "")
    assert far("output", "p", "-o", "cat", "-H", "root@two").status == 3
    assert far("-Htwo", "set", "v", "a\nb  c") == (0, "", "")
    assert far("--host=two", "get", "v") == (0, "a\nb  c\n", "")
    assert "at the papad of two\n" in far("-H", "two", "status").out
    assert far("-H", "one", "remove", "sockets", "nothing") == (1, "", "papactl: nothing not found\n")


def test_the_far_papad_may_be_named(far: Far) -> None:
    path = f"{far.folder}/two/papad.sock"
    assert far("-H", "one", "--socket", path, "output", "only", "-o", "cat") == (0, "here\n", "")


def test_several_hosts_one_after_the_other_lines_prefixed(far: Far) -> None:
    done = far("-H", "two", "-H", "one", "output", "p", "-o", "cat")
    assert done == (0, "two: from two\none: from one\n", "")
    done = far("-H", "one", "-H", "two", "output", "only", "-o", "cat")
    assert done == (1, "two: here\n", "one: papactl: only not found\n")
    found = [json.loads(line) for line in far("-H", "one", "-H", "two", "list", "p", "p", "--json").out.splitlines()]
    assert [(each["host"], each["name"]) for each in found] == [("one", "p"), ("two", "p")]
    done = far("-H", "one", "-H", "two", "output", "-o", "export")
    assert (done.status, done.err) == (2, "papactl: error: output like this is for one host only\n")


@pytest.mark.parametrize("count", [1, 2])
def test_hosts_followed_and_interrupted(far: Far, count: int) -> None:
    hosts = ["-H", "one", "-H", "two"][: 2 * count]
    command = [*COMMAND, *hosts, "output", "-f", "-o", "cat", "p"]
    popen = subprocess.Popen(
        command, env=environment(**far.env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, process_group=0
    )
    with popen:
        try:
            lines = {line_of(popen) for _ in range(count)}
            assert lines == ({"from one"} if count == 1 else {"one: from one", "two: from two"})
            os.killpg(popen.pid, signal.SIGINT)
            assert popen.communicate(timeout=10) == (b"", b"")
            assert popen.returncode == 130
        finally:
            popen.kill()


def test_what_goes_wrong_over_there_is_said(far: Far) -> None:
    done = far("-H", "unreachable", "status")
    assert done == (
        3,
        "",
        "ssh: no route\npapactl: cannot talk to the papad of unreachable: the connection ended before papad said anything\n"
        "Does this work: ssh unreachable papactl status\n",
    )
    done = far("-H", "nobody", "status")
    assert done.status == 3
    assert (
        f"papactl: cannot connect to papad at {far.folder}/nobody/papad.sock ($PAPAD_SOCKET): No such file" in done.err
    )


def test_without_ssh(tmp_path: Path) -> None:
    done = papactl("-H", "one", "status", PATH=str(tmp_path))
    assert done == (
        3,
        "",
        "papactl: cannot connect to papad at the papad of one: No such file or directory\n"
        "Does this work: ssh one papactl status\n",
    )
