"""Help of one command, of several, and the overview."""

from __future__ import annotations

from itertools import pairwise

import pytest

from papad.ctl.declared import COMMANDS, COMMON
from papad.ctl.help import STATUSES, about, folded, overview
from papad.ctl.parser import Command, Usage, help_text
from papad.ctl.run import FAILED, INTERRUPTED, UNREACHABLE, USAGE
from tests.unit.ctl.support import called

SHOWN = [command for command in COMMANDS if not command.hidden]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_each_command_is_described_however_one_asks(command: Command) -> None:
    text = help_text(command)
    assert about([*command.words]) == about([*command.words, "anything"]) == text
    if command.name != "help":  # help --help is the overview
        for argv in (["help", *command.words], [*command.words, "--help"], ["-h", *command.words]):
            call = called(*argv)
            assert (call.command.name, about(call.words)) == ("help", text)


@pytest.mark.parametrize("words", [["l"], ["list"], ["m"], ["describe"]])
def test_a_group_is_described_by_all_its_commands(words: list[str]) -> None:
    group = [command for command in SHOWN if command.words[0].startswith(words[0])]
    assert len(group) > 1
    assert about(words) == "\n".join(map(help_text, group)) == about(called(*words, "--help").words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["s"], "ambiguous command s: status, set, signal or shell?"),
        (["nonsense"], "unknown command 'nonsense'"),
        (["make", "x"], "cannot make 'x'; make what? socket or process"),
        (["exit"], "unknown command 'exit'"),
    ],
)
def test_what_cannot_be_described_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(Usage) as caught:
        about(words)
    assert str(caught.value) == message


def test_the_overview_has_every_command_option_and_status() -> None:
    text = about([])
    assert text == overview() == about(called("--help").words)
    assert [line.split("  ")[2] for line in text.splitlines() if line.startswith("    ") and "--" not in line] == [
        command.name for command in SHOWN
    ]
    assert all(f"--{option.long}" in text and option.help in text for option in COMMON)
    assert {status for status, _ in STATUSES} == {0, FAILED, USAGE, UNREACHABLE, INTERRUPTED}
    assert all(f"{status} {meaning}" in text for status, meaning in STATUSES)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_on_a_terminal_help_is_folded_and_loses_no_word(width: int) -> None:
    for command in SHOWN:
        for line in help_text(command).splitlines():
            lines = folded(line, width)
            assert " ".join(lines).split() == line.split()
            assert all(len(each) <= width for each in lines)
            assert lines[0].startswith(line[:20].rstrip())


def test_a_paragraph_on_a_terminal_has_no_line_that_ends_early() -> None:
    for command in SHOWN:
        text = [line for each in help_text(command).splitlines() for line in folded(each, 80)]
        for line, after in pairwise(text):
            if line and after and not line.startswith(" ") and not after.startswith(" ") and line != "Options:":
                assert len(f"{line} {after.split()[0]}") > 80, line


def test_a_description_stays_in_its_column() -> None:
    line = "  -s, --signal SIG  the signal, by name or number"
    assert folded(line, 38) == ["  -s, --signal SIG  the signal, by", "                    name or number"]
    assert folded(line, 60) == [line]
    assert folded("", 60) == [""]
