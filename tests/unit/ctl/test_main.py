"""papactl as a program: its status, and what becomes of what it prints."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from papad.version import __version__
from tests.ctl.support import COMMAND, environment, papactl


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["help"], 0),
        (["--version"], 0),
        (["nonsense"], 2),
        ([], 2),
        (["status"], 3),
        (["-H", "x", "-H", "-", "get"], 2),
    ],
)
def test_the_status_tells_what_went_wrong(words: list[str], status: int) -> None:
    done = papactl(*words, PAPAD_SOCKET="/nonexistent")
    assert done.status == status
    assert bool(done.out) == (status == 0)
    assert done.err.startswith("papactl: ") == bool(status)


def test_the_version_stands_alone() -> None:
    assert papactl("--version") == papactl("--version", "status") == (0, f"papactl {__version__}\n", "")


@pytest.mark.parametrize(
    ("where", "status", "said"),
    [
        (">/dev/full", 1, "papactl: cannot write: No space left on device\n"),
        (">&-", 1, "papactl: standard output is closed; to discard it: >/dev/null\n"),
        ("2>&-", 0, ""),
        ("<&-", 0, ""),
        ("| true", 0, ""),
        (">/dev/null", 0, ""),
    ],
)
def test_where_its_output_goes(where: str, status: int, said: str) -> None:
    """It has gone to its end before the shell tells, so the reader that is `true` may be gone or not."""
    line = f"set -o pipefail; {shlex.join(COMMAND)} help {where}"
    done = subprocess.run(["bash", "-c", line], env=environment(), capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (status, said)


@pytest.mark.parametrize("words", ["set v -", "shell"])
def test_a_standard_input_that_is_closed_cannot_be_read(words: str) -> None:
    line = f"{shlex.join(COMMAND)} {words} <&-"
    done = subprocess.run(["bash", "-c", line], env=environment(), capture_output=True, text=True, timeout=30)
    assert done.stderr == "papactl: standard input is closed; to read nothing from it: </dev/null\n"
    assert done.returncode == 1


@pytest.mark.parametrize("given", ["0", "9" * 5000])
def test_a_number_in_the_environment_that_is_no_port_is_refused(given: str) -> None:
    said = f"papactl: PAPAD_SOCKET must be a path, or a port from 1 to 65535, not {given}\n"
    assert papactl("status", PAPAD_SOCKET=given) == (3, "", said)


def test_a_reader_that_is_gone_already_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run([*COMMAND, "help"], env=environment(), stdout=gone, stderr=subprocess.PIPE, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")


def test_bytes_that_are_not_utf_8_are_printed_as_they_were_typed() -> None:
    command = [*COMMAND, "--socket", b"/\xff", "status"]
    done = subprocess.run(command, env=environment(), capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.startswith(b"papactl: cannot connect to papad at /\xff: No such file or directory\n")


def test_it_does_not_load_what_takes_long() -> None:
    loaded = "from papad.ctl.main import _command_line; _command_line(['--version']); import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], env=environment(), capture_output=True, text=True, check=True)
    assert not {"asyncio", "argparse", "subprocess", "difflib", "systemd"} & {*done.stdout.split()}
