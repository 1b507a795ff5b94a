"""docs/client.md says what the client library does: its tables are complete, and its programs run."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import textwrap

import pytest

from papad import Papa, errors
from tests.support.papad import REPOSITORY, Daemon

PAGE = (REPOSITORY / "docs/client.md").read_text()


def section(title: str) -> str:
    """What stands under a heading, up to the next one."""
    return re.split(r"^#+ ", PAGE.partition(f"# {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def rows(title: str) -> list[list[str]]:
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


@pytest.mark.parametrize("name", ["make_socket", "make_process"])
def test_each_argument_is_explained(name: str) -> None:
    """In their order, with their defaults, and whether they are given by keyword only."""
    parameters = list(inspect.signature(getattr(Papa, name)).parameters.values())[1:]
    expected = [
        (
            f"`**{each.name}`" if each.kind == each.VAR_KEYWORD else f"`{each.name}`",
            "" if each.default is each.empty else f"`{each.default}`",
            each.kind == each.KEYWORD_ONLY,
        )
        for each in parameters
    ]
    assert [(row[0], row[1], row[2].startswith("by keyword. ")) for row in rows(name)] == expected
    assert all(row[2] for row in rows(name))


def program(title: str) -> str:
    """The last program in a section, which is whole: it imports what it uses."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", section(title), re.MULTILINE)
    return textwrap.dedent(blocks[-1])


def test_the_program_with_select_runs(papad: Daemon) -> None:
    """The watchers are of different connections, and papad forgets what was acknowledged."""
    command = [sys.executable, "-W", "error", "-c", program("Watching")]
    env = os.environ | {"PAPAD_SOCKET": papad.path, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    expected = [f"job.{number} b'working\\n'" for number in range(3)] + [f"{{'job.{n}': {n}}}" for n in range(3)]
    assert sorted(done.stdout.splitlines()) == sorted(expected)
    with Papa(papad.path, 5, autostart=False) as p:
        assert p.list_processes() == {}


def test_each_error_is_explained() -> None:
    known = {name for name, error in inspect.getmembers(errors, inspect.isclass)} - {"Error"}
    assert {row[0].strip("`") for row in rows("Errors")} == known
