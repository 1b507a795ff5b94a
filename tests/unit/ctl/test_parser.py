"""Command lines: abbreviations, which keep their meaning, and what belongs to the options and to the command."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papad.ctl.declared import COMMANDS, COMMON
from papad.ctl.parser import Command, Option, Usage, find, help_text
from tests.unit.ctl.support import called

# The shortest form of each word of each command that anybody may type. What is longer means the same, what is
# shorter is refused. Scripts and fingers rely on it: a new command may not make any of these longer.
SHORTEST = {
    "st": "status",
    "l s": "list sockets",
    "l p": "list processes",
    "l v": "list values",
    "m s": "make socket",
    "m p": "make process",
    "r s": "remove sockets",
    "r p": "remove processes",
    "r v": "remove values",
    "se": "set",
    "g": "get",
    "o": "output",
    "a": "archive",
    "w": "watch",
    "si": "signal",
    "p": "pid",
    "d so": "describe sockets",
    "d p": "describe processes",
    "d v": "describe values",
    "d se": "describe server",
    "exit-if-idle": "exit-if-idle",
    "sh": "shell",
    "h": "help",
    "c": "completion",
}
AMBIGUOUS = {
    "s": "ambiguous command s: status, set, signal or shell?",
    "d s": "ambiguous command describe s: sockets or server?",
}


def prefixes(word: str, least: int = 1) -> list[str]:
    return [word[:size] for size in range(least, len(word) + 1)]


def meaning(*typed: str) -> str:
    """The name of the command, `GROUP what` for the first of two words, or the error."""
    try:
        command = find(list(typed), COMMANDS)
    except Usage as error:
        return str(error)
    return command.name if command else "what"


def test_every_command_that_is_shown_has_its_abbreviation_and_no_other_has_one() -> None:
    assert set(SHORTEST.values()) == {command.name for command in COMMANDS if not command.hidden}
    for command in (each for each in COMMANDS if each.hidden):
        assert meaning(*command.words) == command.name
        assert command.name not in {meaning(each) for each in prefixes(command.name)[:-1]}


@pytest.mark.parametrize(("short", "name"), SHORTEST.items())
def test_every_longer_form_of_an_abbreviation_means_the_same(short: str, name: str) -> None:
    least, words = short.split(), name.split()
    for first in prefixes(words[0], len(least[0])):
        if len(words) == 1:
            assert meaning(first) == meaning(first, "anything") == name
            continue
        assert meaning(first) == "what"
        for second in prefixes(words[1], len(least[1])):
            assert meaning(first, second) == meaning(first, second, "anything") == name


@pytest.mark.parametrize(("typed", "message"), AMBIGUOUS.items())
def test_an_ambiguous_word_is_refused_with_all_that_it_may_mean(typed: str, message: str) -> None:
    assert meaning(*typed.split()) == message
    with pytest.raises(Usage) as caught:
        called(*typed.split())
    assert str(caught.value) == message


def test_nothing_shorter_is_accepted_and_nothing_else_is_ambiguous() -> None:
    """Every first word and every pair of words that begin some command are typed, in all lengths."""
    typed = {(first,) for command in COMMANDS for first in prefixes(command.words[0])}
    typed |= {
        (first, second)
        for command in COMMANDS
        if len(command.words) == 2
        for first in prefixes(command.words[0])
        for second in prefixes(command.words[1])
    }
    refused = {words for words in typed if meaning(*words).startswith("ambiguous")}
    groups = {first: prefixes(first) for first in ("list", "make", "remove", "describe")}
    assert refused == {("s",), *((first, "s") for first in groups["describe"])}
    understood = {words for words in typed if meaning(*words) in SHORTEST.values()}
    for words in understood:
        (short,) = (short for short, name in SHORTEST.items() if name == meaning(*words))
        assert all(given.startswith(least) for given, least in zip(words, short.split(), strict=True))
    unknown = {words for words in typed if meaning(*words).startswith("unknown")}
    hidden_or_in_full = ("exit-if-idle", "stdio-bridge", "complete-words")
    assert all(any(name.startswith(word) for name in hidden_or_in_full) for (word,) in unknown)


@pytest.mark.parametrize("command", [each for each in COMMANDS if len(each.words) == 2], ids=lambda each: each.name)
def test_singular_and_plural_are_the_same(command: Command) -> None:
    first, second = command.words
    stem = second.removesuffix("es") if second.startswith("process") else second.removesuffix("s")
    for form in (stem, stem + ("es" if stem == "process" else "s")):
        assert meaning(first, form) == command.name


@pytest.mark.parametrize("typed", ["", "L", "lists", "exit-if-idl", "stdio", "complete-", "q"])
def test_what_begins_no_command_is_unknown(typed: str) -> None:
    assert meaning(typed) == f"unknown command {typed!r}"


@pytest.mark.parametrize("typed", ["", "x", "S", "socketsss"])
def test_a_second_word_that_begins_nothing_is_told_what_may_stand_there(typed: str) -> None:
    assert meaning("l", typed) == f"cannot list {typed!r}; list what? sockets, processes or values"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_prefix_of_an_option_is_that_option_or_names_all_that_it_may_be(command: Command) -> None:
    known = {option.long: option for option in (*COMMON, *command.options)}  # its own hides a common one
    for long in known:
        for typed in prefixes(long):
            meant = sorted(each for each in known if each.startswith(typed))
            answer = given_option(command, typed, known[long])
            if typed in known:
                assert answer == typed
            elif len(meant) > 1:
                names = [f"--{each}" for each in meant]
                assert answer == f"ambiguous option --{typed}: {', '.join(names[:-1])} or {names[-1]}?"
            else:
                assert answer == long


def given_option(command: Command, typed: str, option: Option) -> str:
    """What `--typed` sets, with a value that `option` takes; or the error."""
    value = option.choices[0] if option.choices else "7" if option.octal or option.optional else "a=b"
    words = ["x"] * max(command.least, 1) if not command.choices else [command.choices[0]]
    argv = [*command.words, f"--{typed}", *([value] if option.metavar else []), *words[: command.most]]
    try:
        call = called(*argv)
    except Usage as error:
        return str(error)
    if call.command.name == "help" and command.name != "help":
        return "help"
    if call.pairs:
        (found,) = (each for each in command.options if each.protocol and call.pairs[0][0].startswith(each.protocol))
        return found.long
    (key,) = call.options
    return key.replace("_", "-")


@pytest.mark.parametrize(
    ("line", "options", "words", "pairs"),
    [
        ("-n 5 x", {"lines": "5"}, ["x"], []),
        ("-n x", {"lines": "10"}, ["x"], []),
        ("-fn+5 x", {"follow": "1", "lines": "+5"}, ["x"], []),
        ("--lines all x", {"lines": "all"}, ["x"], []),
        ("-n -- -f", {"lines": "10"}, ["-f"], []),
        ("-g -f x -", {"grep": "-f"}, ["x", "-"], []),
        ("-H a -H b", {"host": ["a", "b"]}, [], []),
    ],
)
def test_options_and_their_values(
    line: str, options: dict[str, object], words: list[str], pairs: list[tuple[str, str]]
) -> None:
    assert called("output", *line.split())[1:] == (options, words, pairs)


@pytest.mark.parametrize(
    ("line", "words", "pairs"),
    [
        ("x -d /tmp ls -d /", ["x", "ls", "-d", "/"], [("working_dir", "/tmp")]),
        ("x uid=1 -E A=B=C ls uid=2", ["x", "ls", "uid=2"], [("uid", "1"), ("env.A", "B=C")]),
        ("x -- A=1 -d", ["x", "A=1", "-d"], []),
        ("A=1 ls", ["A=1", "ls"], []),
        ("x --shell A=1 ls", ["x", "A=1", "ls"], [("shell", "1")]),
        ("x --shell env.A=1 uid=2 ls", ["x", "ls"], [("shell", "1"), ("env.A", "1"), ("uid", "2")]),
    ],
)
def test_the_options_of_papactl_end_where_the_command_begins(
    line: str, words: list[str], pairs: list[tuple[str, str]]
) -> None:
    assert called("make", "process", *line.split())[2:] == (words, pairs)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("output --follow=1", "--follow takes no value"),
        ("output -S", "-S needs a value: -S TIME"),
        ("output --", ""),
        ("--=x", "unknown option --"),
        ("--h=x", "ambiguous option --h: --help or --host?"),
        ("make process x shell=maybe a=b", "shell must be 0 or 1, not 'maybe'"),
        ("output -fz", "unknown option -z"),
        ("get a b", "get: unexpected argument: 'b'"),
        ("make socket x --umask 8", "--umask must be an octal number such as 077, not '8'"),
        ("make process x --env =1 y", "--env needs a name and a value: --env NAME=VALUE"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(line: str, message: str) -> None:
    if not message:
        assert called(*line.split()).words == []
        return
    with pytest.raises(Usage) as caught:
        called(*line.split())
    assert str(caught.value) == message


def test_whether_it_prints_as_output_comes() -> None:
    live = ("watch x", "output -f", "make process x -w ls", "make process x watch=1 ls", "make process x watch=yes ls")
    assert all(called(*line.split()).live for line in live)
    assert not any(called(*line.split()).live for line in ("output", "make process x ls", "make process x watch=0 ls"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_help_of_a_command_says_all_that_is_declared(command: Command) -> None:
    text = help_text(command)
    for each in (command.usage, command.summary, command.help, command.example):
        assert each in text
    assert all(f"--{option.long}" in text and option.help in text for option in command.options)


WORDS = [
    *"lmrsd",
    "list",
    "make",
    "process",
    "sockets",
    "output",
    "--",
    "-",
    "",
    "-n",
    "-H",
    "--json",
    "--e",
    "a=b",
    "x",
]


@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=7))
def test_any_words_are_understood_or_refused(argv: list[str]) -> None:
    """Anything but Usage would be a bug."""
    with contextlib.suppress(Usage):
        call = called(*argv)
        assert call.command in COMMANDS
        assert [word for word in call.words if word not in argv] == []
