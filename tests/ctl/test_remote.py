"""-H, with an ssh that runs the command here."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from papad.protocol.wire import WELCOME
from tests.ctl.support import COMMAND, Done, Papactl, Terminal, environment, line_of, not_found, papactl
from tests.support.export import read_export
from tests.support.papad import running_papad
from tests.support.waiting import wait_until

SSH = """#!/bin/sh
echo "$*" >>{folder}/ssh
while [ "$1" != -- ]; do shift; done
host=$2; shift 2
case $host in
unreachable) echo "ssh: no route" >&2; exit 255;;
esac
unset PAPAD_SOCKET
PATH={bin}:$PATH; export PATH
PAPAD_SOCKET={folder}/$host/papad.sock exec sh -c "$*"
"""

QUIET = ("/bin/sh", "-c", "echo hi; exec sleep 600")
BOTH = ("-H", "two", "-H", "one", "output", "-o", "cat")
MERGED = [f"{host}: {n}" for n in range(6) for host in ("one", "two")]


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

    def processes(self) -> list[str]:
        """The command lines of what runs with our PATH: papactl, ssh and what that runs."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.env["PATH"].encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found


@contextlib.contextmanager
def running(far: Far, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """It runs on, in a process group of its own."""
    popen = subprocess.Popen(
        [*COMMAND, *args],
        env=environment(**far.env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        process_group=0,
    )
    with popen:
        try:
            yield popen
        finally:
            popen.kill()


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    folder = tmp_path_factory.mktemp("far")
    for host in ("one", "two"):
        (folder / host).mkdir()
    with running_papad(folder / "one") as one, running_papad(folder / "two") as two:
        first, second = Papactl(one), Papactl(two)
        first.runs("p", "echo from one")
        second.runs("p", "echo from two >&2")
        second.runs("only", "echo here")
        for n in range(6):
            first.runs(f"m.{n}", f"echo {n}")
            second.runs(f"m.{n}", f"echo {n}")
        for number, papad in enumerate((first, second), 1):
            papad.out("set", "w", str(number))
            papad.runs("bad", "printf '\\033[2Jhi\\n'")
        yield Far(folder)


def test_the_same_command_on_another_machine(far: Far) -> None:
    assert far("-H", "one", "output", "p", "-o", "cat") == (0, "from one\n", "")
    assert far("output", "p", "-o", "cat", "-H", "root@two").status == 3
    assert far("-Htwo", "set", "v", "a\nb  c") == (0, "", "")
    assert far("--host=two", "get", "v") == (0, "a\nb  c\n", "")
    assert "at the papad on two\n" in far("-H", "two", "status").out
    assert far("-H", "one", "remove", "sockets", "nothing") == (1, "", not_found("nothing"))


def test_the_far_papad_may_be_named(far: Far) -> None:
    path = f"{far.folder}/two/papad.sock"
    assert far("-H", "one", "--socket", path, "output", "only", "-o", "cat") == (0, "here\n", "")


def test_a_host_that_ssh_would_misunderstand_is_refused(far: Far) -> None:
    for host in ("", "-oProxyCommand=false"):
        assert far("-H", host, "get", "v") == (2, "", f"papactl: error: invalid host: {host!r}\n")
        assert far("-H", "one", "-H", host, "get", "v") == (2, "", f"papactl: error: invalid host: {host!r}\n")


def test_several_hosts_one_after_the_other_lines_prefixed(far: Far) -> None:
    lines = far("-H", "two", "-H", "one", "list", "processes", "p").out.splitlines()
    assert [line.split(" pid=")[0] for line in lines] == ["two: p", "one: p"]
    found = [json.loads(line) for line in far("-H", "one", "-H", "two", "list", "p", "p", "--json").out.splitlines()]
    assert [(each["host"], each["name"]) for each in found] == [("one", "p"), ("two", "p")]
    done = far("-H", "one", "-H", "unreachable", "-H", "nobody", "-H", "two", "get", "w")
    assert (done.status, done.out) == (3, "one: 1\ntwo: 2\n")
    assert {line.split(": ")[0] for line in done.err.splitlines()} == {"unreachable", "nobody"}
    assert "unreachable: ssh: no route\nunreachable: papactl: cannot talk to " in done.err
    assert "-oBatchMode=yes" in (far.folder / "ssh").read_text().splitlines()[-1]


def test_what_is_for_one_host_only_is_refused(far: Far) -> None:
    for words in (("output", "-f", "-o", "export"), ("shell",)):
        done = far("-H", "one", "-H", "two", *words)
        assert (done.status, done.out) == (2, "")
        assert done.err == f"papactl: error: {words[0]} in this form works with one host only\n"


def test_output_of_several_hosts_is_merged_by_time(far: Far) -> None:
    def lines(*options: str) -> list[str]:
        done = far(*BOTH, *options, "m.*")
        assert (done.status, done.err) == (0, "")
        return done.out.splitlines()

    assert lines() == MERGED
    assert lines("-r") == MERGED[::-1]
    assert lines("-n", "3") == MERGED[-3:]
    assert lines("-n3", "-r") == MERGED[:-4:-1]
    assert lines("-n0") == []
    assert lines("--lines=+3") == MERGED[:3]
    assert lines("-g", "[24]", "-n", "3") == ["two: 4", "one: 4", "two: 2"]
    short = far("-H", "one", "-H", "two", "output", "-n", "1", "m.*").out.splitlines()
    assert [re.sub(r"\w+ +\d+ [\d:]+", "TIME", line) for line in short] == [
        "one: TIME m.5: -- ended with exit code 0 --",
        "two: TIME m.5: 5",
        "two: TIME m.5: -- ended with exit code 0 --",
    ]


def test_json_and_export_tell_the_host(far: Far) -> None:
    printed = far(*BOTH[:5], "m.*", "-o", "json").out.splitlines()
    found = [each for each in map(json.loads, printed) if "PAPAD_STREAM" in each]
    assert [f"{each['host']}: {each['MESSAGE']}" for each in found] == MERGED
    printed = far(*BOTH[:5], "m.*", "-o", "export").out
    entries = [entry for entry in read_export(printed.encode()) if "PAPAD_STREAM" in entry]
    assert [f"{entry['_HOSTNAME'].decode()}: {entry['MESSAGE'].decode()}" for entry in entries] == MERGED


def test_output_shows_what_the_hosts_have_that_answer(far: Far) -> None:
    done = far("-H", "one", "-H", "two", "output", "only", "-o", "cat")
    assert done == (1, "two: here\n", "one: papactl: only not found\n")
    done = far("-H", "unreachable", "-H", "two", "output", "only", "-o", "cat")
    assert (done.status, done.out) == (3, "two: here\n")
    assert done.err.startswith("unreachable: ssh: no route\nunreachable: papactl: cannot talk to ")
    done = far("-H", "unreachable", "-H", "nobody", "output")
    assert (done.status, done.out) == (3, "")
    done = far("-H", "one", "-H", "two", "output", "--since", "soon")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("papactl: error: invalid time")
    assert far(*BOTH, "m.*", "-g", "nothing like that").status == 1


def test_a_terminal_is_shown_no_control_characters_of_several_hosts(far: Far) -> None:
    terminal = Terminal("-H", "one", "-H", "two", "output", "-f", "bad", "-o", "cat", **far.env)
    terminal.until("one: \\x1b[2Jhi")
    terminal.type("\x03")
    assert terminal.rest()[0] == 130
    status, text = Terminal("-H", "one", "-H", "two", "list", "p", "m.1", "--no-pager", **far.env).rest()
    assert (status, text.count("m.1 pid=")) == (0, 2)
    pager = {"PAPAD_PAGER": "sed 's/^/> /'", **far.env}
    status, text = Terminal("-H", "one", "-H", "two", "output", "bad", **pager).rest()
    assert status == 0
    assert sorted(line[:7] for line in text.splitlines()) == 2 * ["> one: "] + 2 * ["> two: "]
    assert text.count("bad: \\x1b[2Jhi\n") == 2


@pytest.mark.parametrize("ending", ["the reader is gone", "SIGINT", "SIGTERM", "SIGKILL"])
def test_nothing_stays_behind_when_quiet_hosts_are_not_followed_any_more(far: Far, ending: str) -> None:
    both = ("-H", "one", "-H", "two")
    make = ("make", "process", ending, "--", *QUIET)
    assert far(*both, *make).status == 0
    for words in (("output", "-f", ending), ("watch", ending), (*make[:3], "-w", *make[3:])):
        with running(far, *both, *words) as popen:
            heard: set[str] = set()
            while heard != {"one", "two"}:
                heard.add(line_of(popen).partition(": ")[0])
            assert sum("stdio-bridge" in each for each in far.processes()) >= 2
            if ending == "the reader is gone":
                assert popen.stdout is not None
                popen.stdout.close()
                assert popen.wait(10) == 0
            else:
                number = signal.Signals[ending]
                popen.send_signal(number)
                assert popen.wait(10) == (130 if number == signal.SIGINT else -number)
            assert popen.stderr is not None
            assert popen.stderr.read() == b""
        wait_until(lambda: not far.processes(), "no ssh and no papactl is left")


@pytest.mark.parametrize("count", [1, 2])
def test_hosts_followed_and_interrupted(far: Far, count: int) -> None:
    hosts = ["-H", "one", "-H", "two"][: 2 * count]
    with running(far, *hosts, "output", "-f", "-o", "cat", "p") as popen:
        lines = {line_of(popen) for _ in range(count)}
        assert lines == ({"from one"} if count == 1 else {"one: from one", "two: from two"})
        os.killpg(popen.pid, signal.SIGINT)
        assert popen.communicate(timeout=10) == (b"", b"")
        assert popen.returncode == 130


def test_the_shell_goes_on_after_ctrl_c_on_the_same_connection(far: Far) -> None:
    terminal = Terminal("-H", "one", "shell", **far.env)
    terminal.until("papad> ")
    (far.folder / "ssh").unlink()
    terminal.interrupt_until("papad> ")
    terminal.type("get w\n")
    terminal.until("1\r\n")
    terminal.type("quit\n")
    assert terminal.rest()[0] == 0
    assert not (far.folder / "ssh").exists()


def test_what_goes_wrong_over_there_is_said(far: Far) -> None:
    done = far("-H", "unreachable", "status")
    assert done == (
        3,
        "",
        "ssh: no route\npapactl: cannot talk to the papad on unreachable: ssh failed\n"
        "Check whether this works: ssh unreachable papactl status\n",
    )
    done = far("-H", "nobody", "status")
    assert done.status == 3
    assert (
        f"papactl: cannot connect to papad at {far.folder}/nobody/papad.sock ($PAPAD_SOCKET): No such file" in done.err
    )


def test_a_host_that_does_not_come_back_is_given_up_and_said_once(far: Far, tmp_path: Path) -> None:
    (far.folder / "gone").symlink_to(tmp_path)
    with contextlib.ExitStack() as stack:
        Papactl(stack.enter_context(running_papad(tmp_path))).runs("p", "echo hi")
        with running(far, "-H", "gone", "output", "-f", "-o", "cat") as popen:
            assert line_of(popen) == "hi"
            stack.close()
            out, err = popen.communicate(timeout=20)
    assert out == b""
    assert err.count(b"papactl: cannot connect to papad at ") == 1
    assert re.search(
        rb"papactl: (could not connect to papad in 10 seconds: .*|no answer from papad in time)$", err.strip()
    )


def test_the_bridge_answers_what_was_asked_and_ends(far: Far) -> None:
    bridge = [*COMMAND, "--socket", str(far.folder / "one/papad.sock"), "stdio-bridge"]
    done = subprocess.run(bridge, env=environment(), input=b"get w\nget v\n", capture_output=True, timeout=10)
    assert (done.returncode, done.stdout, done.stderr) == (0, WELCOME + b"1\n> \n> ", b"")


def test_without_ssh(tmp_path: Path) -> None:
    done = papactl("-H", "one", "status", PATH=str(tmp_path))
    assert done == (
        3,
        "",
        "papactl: cannot connect to the papad on one: cannot run ssh: No such file or directory\n",
    )
