"""Commands are found by their abbreviations, checked from their declarations."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papad.daemon.commands.grammar import Arguments, Command, Grammar, Option
from papad.daemon.commands.table import COMMANDS, GRAMMAR
from papad.errors import Error


def whole(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("a number")
    return int(text)


MAKE = Command(
    words=("make", "thing"),
    usage="make thing NAME",
    summary="Make it",
    needs_name="Thing requires a name",
    options=(Option("size", whole, "how large"),),
    prefixes={"env.NAME": "a variable"},
    handler=lambda tables, given: given,
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_is_found_by_its_full_name_in_any_case(command: Command) -> None:
    for words in (list(command.words), [word.upper() for word in command.words]):
        assert GRAMMAR.find([*words, "rest", "Of It"]) == (command, ["rest", "Of It"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", 'Unknown command "nonsense"'),
        ("e", 'You cannot abbreviate "exit-if-idle"'),
        ("exit-if-idl", 'You cannot abbreviate "exit-if-idle"'),
        ("list", '"list" must be followed by one of: processes, sockets, values'),
        ("list x", 'Bad "list" command. The following word must be one of: processes, sockets, values'),
        ("m v", 'Bad "make" command. The following word must be one of: process, socket'),
    ],
)
def test_what_is_no_command_is_explained(line: str, message: str) -> None:
    with pytest.raises(Error) as error:
        GRAMMAR.find(line.split())
    assert str(error.value) == message


def test_an_exact_word_wins_over_a_longer_one() -> None:
    grammar = Grammar([Command((word,), word, word, handler=lambda *_: None) for word in ("setup", "set", "seta")])
    assert grammar.find(["set"])[0].name == "set"
    assert grammar.find(["se"])[0].name == "set"
    assert grammar.find(["setu"])[0].name == "setup"


def test_options_are_parsed_as_declared_and_the_rest_is_handed_on() -> None:
    called = MAKE.handler(None, MAKE.arguments(["x", "size=5", "env.A=1", "env.B=", "run", "c=d"]))
    assert called == Arguments("x", {"size": 5, "env.": {"A": "1", "B": ""}}, ["run", "c=d"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Thing requires a name"),
        (["x", "colour=red"], 'Unknown option "colour". Type "help make thing"'),
        (["x", "size=red"], 'size must be a number, not "red"'),
        (["x", "size=\0"], "size cannot hold the character NUL"),
        (["x", "env.A=\0"], "env.A cannot hold the character NUL"),
        (["x", "env.\0=x"], "env.\\0 cannot hold the character NUL"),
        (["x", "other.A=1"], 'Unknown option "other.A". Type "help make thing"'),
    ],
)
def test_what_does_not_fit_the_declaration_is_refused_before_the_handler(words: list[str], message: str) -> None:
    with pytest.raises(Error) as error:
        MAKE.handler(None, MAKE.arguments(words))
    assert str(error.value) == message


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_says_everything_that_is_declared(command: Command) -> None:
    text = GRAMMAR.help(list(command.words))
    assert command.usage in text
    assert command.summary in text
    assert all(option.name in text and option.help in text for option in command.options)
    assert all(example in text for example in command.examples)
    assert command.name in GRAMMAR.help([])


def test_help_of_a_group_is_that_of_its_commands() -> None:
    text = GRAMMAR.help(["list"])
    assert all(f"list {what}" in text for what in ("sockets", "processes", "values"))


@given(st.lists(st.text(max_size=6), max_size=4), st.sampled_from(COMMANDS))
def test_any_words_are_either_understood_or_refused_with_one_error(words: list[str], command: Command) -> None:
    class Anything:
        def __getattr__(self, name: str) -> Any:
            raise Error("reached the tables")

    for line in (words, [*command.words, *words]):
        if line:
            try:
                found, rest = GRAMMAR.find(line)
                result = found.handler(Anything(), found.arguments(rest))
                if hasattr(result, "close"):
                    result.close()
            except Error:
                pass


def test_a_line_that_is_asked_again_is_parsed_once_but_for_one_with_options_and_never_for_another_role() -> None:
    grammar = Grammar(COMMANDS)
    assert grammar.parse(b"get x") is grammar.parse(b"get x")
    assert grammar.parse(b"get x", 7) == (grammar.find(["get"])[0], Arguments("x", viewer=7))
    for line in (b"make process x /bin/true", b"output last=1 x", b"get " + b"x" * 200):
        assert grammar.parse(line) is not grammar.parse(line)
        assert grammar.parse(line) == grammar.parse(line)
    grammar.parse(b"set x 1")
    with pytest.raises(Error, match="You may only look"):
        grammar.parse(b"set x 1", 7)


def test_what_is_remembered_of_lines_has_an_end() -> None:
    grammar = Grammar(COMMANDS)
    tracemalloc.start()
    for number in range(20_000):
        grammar.parse(b"get %d" % number)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2 << 20
