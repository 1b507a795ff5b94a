"""Completion: what is offered, and as each shell wants it. Names that there are: tests/ctl/test_completion.py."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papad.ctl.completion import FILES, SCRIPTS, _possible, _quoted, _unquoted, candidates, complete
from papad.ctl.connect import Session
from papad.ctl.declared import COMMANDS, COMMON
from papad.ctl.parser import Command
from tests.unit.ctl.support import Here, called


def nowhere() -> Session:
    return Session("/dev/null/none")


def offered(*words: str) -> list[str]:
    return complete(words, nowhere)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert candidates(called("complete-words", "--", *words)) == 0
    return capsys.readouterr().out


def test_words_options_and_values() -> None:
    assert offered("") == sorted({each.words[0] for each in COMMANDS if not each.hidden})
    assert offered("re") == ["remove"]
    assert offered("list", "") == ["processes", "sockets", "values"]
    assert offered("--json", "l", "s") == ["sockets"]
    assert offered("output", "-o", "short-i") == ["short-iso", "short-iso-precise"]
    assert offered("output", "-oshort-i") == ["-oshort-iso", "-oshort-iso-precise"]
    assert offered("output", "--out=short-i") == ["--out=short-iso", "--out=short-iso-precise"]
    assert offered("output", "--since=") == offered("output", "--since", "") == []
    assert offered("output", "--st") == ["--stream"]
    assert offered("make", "socket", "x", "--type", "d") == ["dgram"]
    assert offered("help", "make", "") == ["process", "socket"]
    assert offered("completion", "") == ["bash", "fish", "zsh"]
    assert offered("nonsense", "") == offered("s", "") == []
    common = {f"--{option.long}" for option in COMMON}
    assert common == {*offered("status", "--")}


@pytest.mark.parametrize(
    "line",
    [
        "--socket ",
        "--socket=",
        "make process x /bin/e",
        "make process x uid=0 /bin/e",
        "make process x -- -",
        "make process x -d ",
        "make socket x --path /",
    ],
)
def test_files_are_left_to_the_shell(capsys: pytest.CaptureFixture[str], line: str) -> None:
    assert printed(capsys, "bash", f"papactl {line}", line.split(" ")[-1]) == "\tfiles\n"
    for shell in ("fish", "zsh"):
        assert printed(capsys, shell, *line.split(" ")) == "\tfiles\n"


def test_a_shell_that_is_not_known_gets_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("tcsh", "l"), ("li",)):
        assert printed(capsys, *words) == ""


def test_no_words_at_all_begin_with_everything(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "status" in printed(capsys, shell)


def test_names_of_the_session_are_offered(here: Here) -> None:
    here.runs("web.1", "")
    here.out("set", "release", "1")
    assert complete(["output", "w"], lambda: here.session) == ["web.1"]
    assert complete(["get", ""], lambda: here.session) == ["release"]
    assert complete(["--socket", "/dev/null/none", "get", ""], lambda: here.session) == []


@pytest.mark.parametrize("command", [each for each in COMMANDS if not each.hidden], ids=lambda command: command.name)
def test_every_word_option_and_value_of_a_command_is_offered(command: Command) -> None:
    for at, word in enumerate(command.words):
        assert word in offered(*command.words[:at], "")
    known = {f"--{option.long}": option for option in (*COMMON, *command.options)}  # its own hides a common one
    assert offered(*command.words, "--") == sorted(known)
    for word, option in known.items():
        if option.choices:
            assert offered(*command.words, f"{word}=") == sorted(f"{word}={value}" for value in option.choices)
        if option.choices and option.optional is None:
            assert offered(*command.words, word, "") == sorted(option.choices)


def test_a_directory_comes_before_the_names_of_processes(here: Here) -> None:
    here.out("make", "process", "web.1", "/bin/true")
    assert _possible(["archive", ""], lambda: here.session) == [FILES]
    assert complete(["archive", "/var/log", ""], lambda: here.session) == ["web.1"]


def test_a_value_that_has_to_be_attached_is_not_expected_in_the_next_word(here: Here) -> None:
    here.out("make", "process", "web.1", "/bin/true")
    assert complete(["signal", "--wait", ""], lambda: here.session) == ["web.1"]
    assert complete(["signal", "--wait=5", ""], lambda: here.session) == ["web.1"]
    assert called("signal", "--wait", "5").words == ["5"]


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20), st.sampled_from(["", "'", '"']))
def test_what_is_quoted_for_bash_is_read_as_it_was(text: str, quote: str) -> None:
    assert _unquoted(f"x {quote}{_quoted(text, quote)}")[0] == ["x", text]


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_bash_reads_what_is_quoted_as_it_was(quote: str) -> None:
    text = "a: $HOME $'\"!`\\*?[~#&;(){}<>|=%é😀"
    done = subprocess.run(
        ["bash", "-c", f"printf %s {quote}{_quoted(text, quote)}{quote}"], capture_output=True, check=True
    )
    assert done.stdout.decode() == text


@pytest.mark.parametrize(
    ("line", "words", "quote"),
    [
        ("papactl get a", ["papactl", "get", "a"], ""),
        ("papactl  get ", ["papactl", "get", ""], ""),
        ("get 'a b", ["get", "a b"], "'"),
        ('get "a\\"b\\c', ["get", 'a"b\\c'], '"'),
        ("get a\\ b", ["get", "a b"], ""),
    ],
)
def test_an_unfinished_line_of_bash(line: str, words: list[str], quote: str) -> None:
    assert _unquoted(line) == (words, quote)


def test_bash_accepts_its_script() -> None:
    subprocess.run(["bash", "-n"], input=SCRIPTS["bash"].encode(), check=True)
