"""The manual pages say all that is declared, and render well."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from papad.ctl.declared import COMMANDS, COMMON
from papad.ctl.help import overview
from papad.daemon.commands.table import COMMANDS as PROTOCOL
from tests.support.papad import REPOSITORY

PAGES = ("papactl.1", "papad.8", "papad-protocol.7")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, REPOSITORY / "scripts/man", folder], check=True)
    return folder


def test_the_manual_has_every_command_and_option(pages: Path) -> None:
    text = (pages / "papactl.1").read_text().replace("\\-", "-")
    sections = dict(
        zip((parts := re.split(r"^\.SS papactl (.*)$", text, flags=re.MULTILINE))[1::2], parts[2::2], strict=True)
    )
    shown = [command for command in COMMANDS if not command.hidden]
    assert set(sections) == {command.usage for command in shown}
    for command in shown:
        for option in command.options:
            assert f"--{option.long}" in sections[command.usage]
    for option in COMMON:
        assert f"--{option.long}" in parts[0]
        assert f"--{option.long}" in overview()


def test_the_manual_of_the_protocol_has_every_command(pages: Path) -> None:
    text = (pages / "papad-protocol.7").read_text().replace("\\-", "-")
    for command in PROTOCOL:
        assert f".SS {command.name}\n" in text


@pytest.mark.parametrize("page", PAGES)
def test_the_manual_has_no_markdown_and_knows_of_no_checkout(pages: Path, page: str) -> None:
    text = (pages / page).read_text().replace("\\-", "-").replace("\\(ga", "`")
    assert re.findall(r"\*\w[\w ]*\*|\*\*|`|\]\(|^\|.*|^#+ .*", text, flags=re.MULTILINE) == []
    targets = re.findall(r"^([a-z-]+):.*  ## ", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
    assert "uninstall" in targets
    assert re.findall(rf".*(?:\bmake (?:{'|'.join(targets)})\b|\bdocs/|\btests/).*", text) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_section_of_the_manual_says_something(pages: Path, page: str) -> None:
    lines = [*(pages / page).read_text().splitlines(), ".SH"]
    bare = [line for line, after in pairwise(lines) if line[:3] in (".SH", ".SS") and after[:3] in (line[:3], ".SH")]
    assert bare == []


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("page", PAGES)
def test_the_manual_renders_without_a_warning_in_80_columns(pages: Path, page: str) -> None:
    done = subprocess.run(
        ["groff", "-ww", "-t", "-man", "-Tutf8", "-Kutf8", "-P-c", "-rLL=78n", pages / page],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    shown = re.sub(".\b", "", done.stdout)  # bold is struck twice
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    assert page != "papad.8" or re.search(r"^ +reboot +lost +lost +end +lost +lost$", shown, flags=re.MULTILINE)
