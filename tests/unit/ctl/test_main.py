"""papactl as a program: its status, and what becomes of what it prints."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from papad.version import __version__
from tests.ctl.support import COMMAND, environment, papactl
from tests.support.papad import REPOSITORY


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


SLOW = {
    *(
        "argparse",
        "asyncio",
        "concurrent",
        "ctypes",
        "dataclasses",
        "datetime",
        "difflib",
        "hashlib",
        "inspect",
        "logging",
    ),
    *(
        "pathlib",
        "pyroute2",
        "shutil",
        "signal",
        "subprocess",
        "systemd",
        "tempfile",
        "textwrap",
        "threading",
        "urllib",
    ),
}
"""What takes long to import, beside a Python that does nothing."""


def loaded(*words: str) -> set[str]:
    """What a command line has imported at its end, in a Python that has imported nothing else (-S)."""
    program = (
        "import sys\nfrom papad.ctl.main import _command_line\nfrom papad.ctl.run import guarded\n"
        "sys.stdout = open('/dev/null', 'w')\nguarded(lambda: _command_line(sys.argv[1:]))\nprint(*sys.modules, file=sys.stderr)"
    )
    env = environment(PAPAD_SOCKET="/nonexistent", PYTHONPATH=str(REPOSITORY))
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, *words], env=env, capture_output=True, text=True, check=True
    )
    return {*done.stderr.splitlines()[-1].split()}


@pytest.mark.parametrize(
    "words", ["--help", "help status", "--version", "status", "list processes", "get x", "make socket x"]
)
def test_it_imports_nothing_that_takes_long_and_is_not_needed(words: str) -> None:
    found = loaded(*words.split())
    assert "papad.ctl.parser" in found
    assert not SLOW & found


def test_what_needs_no_papad_imports_no_client() -> None:
    found = loaded("--help")
    assert not {"socket", "json", "select"} & found
    assert {name for name in found if name.startswith("papad.")} == {
        *("papad.errors", "papad.version", "papad.protocol", "papad.protocol.options", "papad.ctl"),
        *(f"papad.ctl.{name}" for name in ("advice", "declared", "help", "main", "parser", "render", "run")),
    }
