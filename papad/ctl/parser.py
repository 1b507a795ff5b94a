"""Defines commands and options, and parses the command line of papactl.

declared.py declares them. Parsing, help, completion and the manual page are derived from it.

Options may appear before the command, after it and between its words; `--` ends them. Both words of
a command may be abbreviated as long as they are unambiguous. In `make process`, the name is
followed by options and `name=value` words. The first other word begins the command to run, so its
own options are not parsed as papactl's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from papad.ctl.advice import for_option, for_word
from papad.protocol.options import flag


class Usage(Exception):
    """The command line is invalid. `hint` says what to do instead; it may have several lines."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Hosts(Enum):
    """What a command does when it is given several hosts."""

    EACH = "it runs once for each"
    MERGE = "it merges their output by time, unless it is live"
    REFUSE = "it takes only one"


class Option(NamedTuple):
    """One option. It is a flag if `metavar` is empty."""

    long: str
    help: str
    short: str = ""
    metavar: str = ""
    repeat: bool = False
    choices: tuple[str, ...] = ()
    optional: str | None = None  # the value if none is given; a value in the next word must be N, +N or `all`
    attached: bool = False  # its optional value is never in the next word
    protocol: str = ""  # the option of the protocol it sets, or a prefix such as `env.`
    completes: str = ""  # sockets, processes, values or files: what to complete
    octal: bool = False  # typed in octal, as in umask(1); the protocol uses decimal
    live: bool = False  # with it, a command prints output as it comes

    @property
    def key(self) -> str:
        return self.long.replace("-", "_")


class Command(NamedTuple):
    """One command. `run` is the module in papad.ctl and its function, as `module:function`."""

    words: tuple[str, ...]
    run: str
    usage: str
    summary: str
    help: str = ""
    options: tuple[Option, ...] = ()
    least: int = 0
    most: int | None = 0
    missing: str = ""  # the error if there are fewer than `least` words
    choices: tuple[str, ...] = ()  # what its words may be
    example: str = ""
    pairs: bool = False  # takes `name=value` words after its first word
    tail: bool = False  # words are not parsed from its second word on
    completes: str = ""  # sockets, processes, values or commands: what its words are
    completes_first: bool = False  # only its first word is one of these
    folder_first: bool = False  # its first word is a directory, and `completes` is about the others
    hidden: bool = False
    in_full: bool = False  # cannot be abbreviated
    offline: bool = False  # needs no papad
    in_shell: bool = True  # may be given in `papactl shell`
    hosts: Hosts = Hosts.EACH
    live: bool = False  # prints output as it comes

    @property
    def name(self) -> str:
        return " ".join(self.words)


class Call(NamedTuple):
    """A parsed command line."""

    command: Command
    options: dict[str, str | list[str]]
    words: list[str]
    pairs: list[tuple[str, str]]

    def text(self, key: str) -> str | None:
        """Return the value of an option, or None if it was not given."""
        value = self.options.get(key)
        return value if isinstance(value, str) else None

    def texts(self, key: str) -> list[str]:
        """Return the values of an option that may be repeated."""
        value = self.options.get(key, [])
        return value if isinstance(value, list) else [value]

    def flag(self, key: str) -> bool:
        return key in self.options

    @property
    def live(self) -> bool:
        """Whether it prints output as it comes."""
        return self.command.live or any(
            each.live and (each.key in self.options or turned_on(each.key, self.pairs)) for each in self.command.options
        )


def turned_on(name: str, pairs: list[tuple[str, str]]) -> bool:
    """Return whether the last `name=value` word of this name means yes. Raises Usage."""
    value = dict(pairs).get(name, "0")
    try:
        return flag(value)
    except ValueError as error:
        raise Usage(f"{name} must be {error}, not {value!r}") from None


def parse(argv: list[str], commands: tuple[Command, ...], common: tuple[Option, ...]) -> Call:
    """Parse a command line without the name of the program. Raises Usage.

    `--help` makes it a call of `help`. The caller handles `--version`. With one of these, the
    command may be missing.
    """
    return _Parse(list(argv), commands, common).call()


class _Parse:
    def __init__(self, argv: list[str], commands: tuple[Command, ...], common: tuple[Option, ...]) -> None:
        self.argv = argv
        self.commands = commands
        self.common = common
        self.typed: list[str] = []
        self.command: Command | None = None
        self.options: dict[str, str | list[str]] = {}
        self.words: list[str] = []
        self.pairs: list[tuple[str, str]] = []

    def call(self) -> Call:
        while self.argv:
            word = self.argv.pop(0)
            if word == "--":
                self._take_rest()
            elif len(word) > 1 and word[0] == "-":
                self._option(word)
            else:
                self._word(word)
        command = self._finished()
        return Call(command, self.options, self.words, self.pairs)

    def _finished(self) -> Command:
        """Return the command, or `help` if help is asked for. Raises Usage."""
        if "help" in self.options or (self.command is None and "version" in self.options):
            return self._help()
        if self.command is None:
            raise self._unfinished()
        self._check(self.command)
        return self.command

    def _take_rest(self) -> None:
        while self.argv and self.command is None:
            self._word(self.argv.pop(0))
        self.words += self.argv
        self.argv.clear()

    def _word(self, word: str) -> None:
        if self.command is None:
            self.typed.append(word)
            self.command = find(self.typed, self.commands)
            return
        if self.command.pairs and self.words and self._is_pair(word):
            name, _, value = word.partition("=")
            self.pairs.append((name, value))
            return
        self.words.append(word)
        if self.command.tail and len(self.words) > 1:
            self._take_rest()

    def _is_pair(self, word: str) -> bool:
        """Return whether a word is an option of the protocol.

        In a command for the shell, only known options are; any other `=` belongs to the command.
        """
        assert self.command is not None
        name, equals, _ = word.partition("=")
        known = {each.protocol for each in self.command.options}
        return bool(equals) and (
            not turned_on("shell", self.pairs) or name in known or name.partition(".")[0] + "." in known
        )

    def _option(self, word: str) -> None:
        known = (*(self.command.options if self.command else ()), *self.common)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            self._long(_long(name, known, self._hint(name)), value if equals else None)
            return
        letters = word[1:]
        while letters:
            option = next((each for each in known if each.short == letters[0]), None)
            if option is None:
                raise Usage(f"unknown option -{letters[0]}", self._hint(letters[0]))
            letters = letters[1:]
            if option.metavar:
                self._set(option, self._argument(option, letters or None, f"-{option.short}"))
                return
            self._set(option, "1")

    def _long(self, option: Option, value: str | None) -> None:
        if option.metavar:
            self._set(option, self._argument(option, value, f"--{option.long}"))
        elif value is not None:
            raise Usage(f"--{option.long} takes no value")
        else:
            self._set(option, "1")

    def _argument(self, option: Option, value: str | None, typed: str) -> str:
        following = self.argv[0] if self.argv else None
        if value is not None:
            return value
        if option.optional is not None:
            if following is not None and not option.attached and re.fullmatch(r"all|\+?\d+", following, re.ASCII):
                return self.argv.pop(0)
            return option.optional
        if following is None:
            raise Usage(f"{typed} needs a value: {typed} {option.metavar}")
        return self.argv.pop(0)

    def _set(self, option: Option, value: str) -> None:
        if option.choices and value not in option.choices:
            raise Usage(f"--{option.long} must be one of: {', '.join(option.choices)}; not {value!r}")
        if option.protocol:
            self._set_pair(option, value)
        elif option.repeat:
            previous = self.options.setdefault(option.key, [])
            assert isinstance(previous, list)
            previous.append(value)
        else:
            self.options[option.key] = value

    def _set_pair(self, option: Option, value: str) -> None:
        if option.octal:
            value = _from_octal(option, value)
        if not option.protocol.endswith("."):
            self.pairs.append((option.protocol, value))
            return
        name, equals, value = value.partition("=")
        if not (name and equals):
            raise Usage(f"--{option.long} needs a name and a value: --{option.long} {option.metavar}")
        self.pairs.append((option.protocol + name, value))

    def _hint(self, name: str) -> str:
        if self.command is None:
            return "Put the options of a command after it. papactl help lists the commands"
        hint = for_option(name, [each.long for each in self.command.options])
        if not hint and self.command.options:
            hint = f"papactl help {self.command.name} lists its options"
        return hint + ("\nPut the command to run, with its own options, after --" if self.command.tail else "")

    def _help(self) -> Command:
        """Return `help`, with the command that was typed as its words."""
        asked = find(["help"], self.commands)
        assert asked is not None
        if self.command is not asked:
            self.words = [*self.command.words] if self.command else self.typed
        return asked

    def _unfinished(self) -> Usage:
        """Return what to say of a command line without a whole command."""
        if not self.typed:
            return Usage("no command", "\n".join(["Commands:", *summaries(self.commands)]))
        choices = [each for each in self.commands if each.words[0] == self.typed[0] or _begins(each, self.typed[0])]
        group = choices[0].words[0]
        seconds = _either(list(dict.fromkeys(each.words[1] for each in choices)))
        return Usage(f"{group} what? {seconds}", "\n".join(f"    papactl {each.usage}" for each in choices))

    def _check(self, command: Command) -> None:
        if len(self.words) < command.least:
            raise Usage(
                command.missing, f"Try: papactl {command.example}" if command.example else f"papactl {command.usage}"
            )
        if command.most is not None and len(self.words) > command.most:
            extra = self.words[command.most]
            raise Usage(f"{command.name}: unexpected argument: {extra!r}", f"papactl {command.usage}")
        if command.choices and (wrong := next((each for each in self.words if each not in command.choices), None)):
            raise Usage(f"{command.missing}, not {wrong!r}")


def _from_octal(option: Option, value: str) -> str:
    try:
        return str(int(value, 8))
    except ValueError:
        raise Usage(f"--{option.long} must be an octal number such as 077, not {value!r}") from None


def _begins(command: Command, typed: str) -> bool:
    return command.words[0].startswith(typed) and not command.hidden


def find(typed: list[str], commands: tuple[Command, ...]) -> Command | None:
    """Return the command that these words name or abbreviate, None if its second word is missing.

    Raises Usage if no command matches, or more than one.
    """
    first = _one(typed[0], list(dict.fromkeys(each.words[0] for each in commands)), commands)
    group = [each for each in commands if each.words[0] == first]
    if len(group[0].words) == 1:
        return group[0]
    if len(typed) == 1:
        return None
    choices = [each.words[1] for each in group]
    word = typed[1]
    found = [each for each in choices if each == word] or [each for each in choices if _means(word, each)]
    if len(found) > 1:
        raise Usage(f"ambiguous command {first} {word}: {_either(found)}?")
    if not found:
        raise Usage(f"cannot {first} {word!r}; {first} what? {_either(choices)}", for_word(f"{first} {word}"))
    return next(each for each in group if each.words[1] == found[0])


def _means(word: str, choice: str) -> bool:
    """Return whether `word` abbreviates `choice`, or is its singular or plural."""
    return bool(word) and (choice.startswith(word) or word in (choice + "s", choice + "es"))


def _one(word: str, choices: list[str], commands: tuple[Command, ...]) -> str:
    if word in choices:
        return word
    hidden = {each.words[0] for each in commands if each.hidden or each.in_full}
    found = [each for each in choices if word and each.startswith(word) and each not in hidden]
    if len(found) == 1:
        return found[0]
    if found:
        raise Usage(f"ambiguous command {word}: {_either(found)}?")
    from difflib import get_close_matches

    near = get_close_matches(word, [each for each in choices if each not in hidden], 1, 0.75)
    hint = for_word(word) or (f"Did you mean: papactl {near[0]}" if near else "papactl help lists the commands")
    raise Usage(f"unknown command {word!r}", hint)


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _long(name: str, known: tuple[Option, ...], hint: str) -> Option:
    exact = [each for each in known if each.long == name]
    if exact:
        return exact[0]  # the command's own option hides a common one of the same name
    found = sorted({each.long for each in known if name and each.long.startswith(name)})
    if len(found) == 1:
        return next(each for each in known if each.long == found[0])
    if found:
        raise Usage(f"ambiguous option --{name}: {_either([f'--{each}' for each in found])}?")
    raise Usage(f"unknown option --{name}", hint)


def summaries(commands: tuple[Command, ...]) -> list[str]:
    """Return one line for each command."""
    shown = [each for each in commands if not each.hidden]
    width = max(len(each.name) for each in shown)
    return [f"    {each.name:{width}}  {each.summary}" for each in shown]


def option_lines(options: tuple[Option, ...]) -> Iterator[tuple[str, str]]:
    """Yield the syntax and the description of each option."""
    for option in options:
        value = option.metavar if option.optional is None else f"[{option.metavar}]"
        long = f"--{option.long}" + (
            f"[={option.metavar}]" if option.optional is not None else f" {value}" if value else ""
        )
        yield (f"-{option.short}, {long}" if option.short else f"    {long}"), option.help


def help_text(command: Command) -> str:
    """Return the help of one command."""
    lines = [f"papactl {command.usage}", "", command.summary + "."]
    if command.help:
        lines += ["", command.help]
    if command.options:
        lines += ["", "Options:"]
        pairs = list(option_lines(command.options))
        width = min(28, max(len(left) for left, _ in pairs))
        lines += [f"  {left:{width}}  {right}" for left, right in pairs]
    if command.example:
        lines += ["", f"Example: papactl {command.example}"]
    return "\n".join(lines) + "\n"
