"""Hints: they are given where they can be, name what there is, and fit what papad really answers."""

from __future__ import annotations

import re

import pytest

from papad.ctl.advice import _ANSWERS, _OF_JOURNALCTL, _OPTIONS, _WORDS, for_answer, for_option, for_word
from papad.ctl.declared import COMMANDS, COMMON
from papad.ctl.parser import Usage, find
from tests.support.papad import Daemon

OPTIONS = {command.name: [option.long for option in command.options] for command in COMMANDS}


@pytest.mark.parametrize("word", _WORDS)
def test_a_word_with_a_hint_is_refused_and_the_hint_names_commands_that_there_are(word: str) -> None:
    with pytest.raises(Usage) as caught:
        find(word.split(), COMMANDS)
    assert caught.value.hint == for_word(word) == _WORDS[word]
    named = [each.split() for each in re.findall(r"papactl (?!exits)([a-z-]+(?: [a-z]+)?)\b", caught.value.hint)]
    for words in named:
        find(words, COMMANDS)  # raises Usage if there is no such command
    assert named or "systemctl" in caught.value.hint


@pytest.mark.parametrize("typed", _OPTIONS)
def test_an_option_of_another_name_is_one_of_some_command(typed: str) -> None:
    takers = [known for known in OPTIONS.values() if _OPTIONS[typed] in known]
    assert takers
    assert {for_option(typed, known) for known in takers} == {f"Did you mean: --{_OPTIONS[typed]}"}
    assert any(typed not in known for known in takers), "it would never be unknown"


@pytest.mark.parametrize("typed", _OF_JOURNALCTL)
def test_an_option_of_journalctl_gets_its_hint_from_output_alone(typed: str) -> None:
    (output,) = (command for command in COMMANDS if command.name == "output")
    known = (*output.options, *COMMON)
    taken = [each.short for each in known] if len(typed) == 1 else [each.long for each in known]
    assert not any(each.startswith(typed) for each in taken)
    assert for_option(typed, OPTIONS["output"]) == _OF_JOURNALCTL[typed]
    assert for_option(typed, OPTIONS["status"]) == ""


def test_a_slip_of_the_finger_is_understood() -> None:
    assert for_option("prot", OPTIONS["make socket"]) == "Did you mean: --port"
    assert for_option("user", OPTIONS["output"]) == for_option("zzz", OPTIONS["output"]) == ""
    assert for_word("frobnicate") == ""


ANSWERED = {
    "make process x FOO=1 /bin/true": "To set an environment variable: --env FOO=VALUE",
    "make process x foo.bar=1 /bin/true": "papactl help make process lists them",
    "make socket x colour=red": "papactl help make socket lists them",
    "make process x rlimit.core=many /bin/true": "--rlimit as=2g",
    "make process x rlimit.cores=1 /bin/true": "Use a name from setrlimit(2)",
    "make process there /bin/true": "papactl remove processes there",
    "make process removed /bin/sleep 600": "To end it: kill ",
    "make socket x port={port}": "ss -ltnp shows which process uses it.",
    "make socket x host=0.0.0.0:80": "--host 0.0.0.0 --port 80",
    "make socket x host=[::]:80": "--host :: --port 80",
    "make socket x host=::1 family=inet": "An IPv6 address needs --family inet6",
    "make process x nonexistent": "papad looks it up in the PATH of --env",
    "make process x /nonexistent": "the interpreter in its first line",
    "make process x /etc/passwd": "must be executable for the --uid user",
    "make process x $(socket.none.port)": "To make it: papactl make socket none",
    "make process x working_dir=/dev/null /bin/true": "--working-dir must exist",
    "make process x stdin=/nonexistent /bin/true": "--stdin must exist",
    "remove values": "papactl remove values 'release*'",
    "make socket web port=1": "papactl remove sockets web",
    "make socket x path=/nonexistent/x.sock": "The directory of --path must exist",
    "remove processes there nothing": "Nothing was done",
    "get": "",
}


def furnish(papad: Daemon) -> None:
    """Make what the lines are about."""
    for first in (
        "make socket web",
        "make process there /bin/sleep 600",
        "make process removed /bin/sleep 600",
        "remove processes removed",
    ):
        papad.ask(first)


@pytest.mark.parametrize(("line", "hint"), ANSWERED.items())
def test_what_papad_answers_gets_its_hint(papad: Daemon, line: str, hint: str) -> None:
    furnish(papad)
    answer = papad.ask(line.format(port=papad.port))
    assert answer.startswith("Error: ")
    found = for_answer(answer.removeprefix("Error: "))
    assert hint in found
    assert bool(hint) == bool(found), answer


def test_each_pattern_fits_one_of_these_answers(papad: Daemon) -> None:
    furnish(papad)
    answers = [papad.ask(line.format(port=papad.port)).removeprefix("Error: ") for line in ANSWERED]
    for pattern, _ in _ANSWERS:
        assert any(re.search(pattern, answer) for answer in answers), pattern
