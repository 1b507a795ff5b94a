"""Declare, find and check commands. Help, errors and docs/protocol.md follow from the declarations.

A command is one or two words. Each may be abbreviated: an exact word wins, then the first in sorted
order that starts with what was typed. Abbreviations keep their meaning forever, so think before you
add a word.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from papad.daemon.commands.roles import MANAGERS, Role
from papad.errors import Error
from papad.protocol import wire

_SHORT, _REMEMBERED = 100, 1000  # bytes of a line that is remembered, and the most of them


@dataclass(frozen=True)
class Option:
    """A `name=value` option. `parse` returns the value; its ValueError says what is expected."""

    name: str
    parse: Callable[[str], Any]
    help: str


@dataclass(frozen=True)
class Arguments:
    """The words after a command, parsed as the command declares."""

    name: str = ""  # the first word, if the command needs a name
    options: dict[str, Any] = field(default_factory=dict)  # those given; for a prefix, a dict
    words: list[str] = field(default_factory=list)  # the others
    viewer: int | None = None  # the uid of a client with the role view


@dataclass(frozen=True)
class Command:
    """A command and its handler.

    The handler is called with the tables and the Arguments. It returns the text of the reply, or
    something for the connection to do (Watching, Leave, Output), or an awaitable of either.
    """

    words: tuple[str, ...]
    usage: str
    summary: str
    handler: Callable[[Any, Arguments], Any]
    _: KW_ONLY
    role: Role = Role.MANAGE
    help: str = ""
    needs_name: str = ""  # the error when no name follows
    options: tuple[Option, ...] = ()
    prefixes: Mapping[str, str] = field(default_factory=dict)  # `env.NAME` (any NAME) -> its help
    rest: bool = True  # whether words may follow name and options
    abbreviate: bool = True
    examples: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The command's words in full."""
        return " ".join(self.words)

    def arguments(self, words: list[str], viewer: int | None = None) -> Arguments:
        """Check the role and parse the words after the command, for the handler. Raises Error.

        `viewer` is the uid of a client with the role view, None for one with the role manage.
        """
        if viewer is not None and self.role > Role.VIEW:
            raise Error(f'You may only look; "{self.name}" is for root and members of the group {MANAGERS}')
        name = ""
        texts: dict[str, str] = {}
        if self.needs_name:
            if not any(words[:1]):
                raise Error(self.needs_name)
            name, *words = words
            if not name.isprintable() and ("\n" in name or name != name.encode("utf-8", "replace").decode()):
                raise Error("A name must be text without newlines")
        if self.options:
            texts, words = wire.split_options(words)
        if words and not self.rest:
            raise Error(f'Unexpected "{words[0]}"; options are name=value. {self._see_help()}')
        return Arguments(name, self._parse(texts), words, viewer)

    def _parse(self, texts: dict[str, str]) -> dict[str, Any]:
        known = {option.name: option for option in self.options}
        prefixes = {name.partition(".")[0] + "." for name in self.prefixes}
        values: dict[str, Any] = {}
        for name, text in texts.items():
            if "\0" in name + text:
                raise Error(f"{name} cannot hold the character NUL".replace("\0", "\\0"))
            prefix = name.partition(".")[0] + "."
            if prefix in prefixes:
                values.setdefault(prefix, {})[name[len(prefix) :]] = text
            elif name not in known:
                raise Error(f'Unknown option "{name}". {self._see_help()}')
            else:
                try:
                    values[name] = known[name].parse(text)
                except ValueError as error:
                    raise Error(f'{name} must be {error}, not "{text}"') from None
        return values

    def _see_help(self) -> str:
        return f'Type "help {self.name}"'

    def full_help(self) -> str:
        """Return the text of `help COMMAND`."""
        parts = [f"{self.usage}\n\n{self.summary}."]
        if self.help:
            parts.append(self.help)
        parts.append(f"Role: {self.role}.")
        if self.options:
            rows = [(option.name, option.help) for option in self.options]
            rows += self.prefixes.items()
            width = max(len(name) for name, _ in rows)
            parts.append("Options:\n" + "\n".join(f"    {name:{width}}  {text}" for name, text in rows))
        if self.examples:
            parts.append("Examples:\n" + "\n".join(f"    {example}" for example in self.examples))
        return "\n\n".join(parts) + "\n"


class Grammar:
    """All commands, in the order in which help lists them."""

    def __init__(self, commands: Iterable[Command]) -> None:
        self.commands = tuple(commands)
        self._remembered: dict[bytes, tuple[Command, Arguments]] = {}
        self._tree: dict[str, Command | dict[str, Command]] = {}
        for command in self.commands:
            if len(command.words) == 1:
                self._tree[command.words[0]] = command
            else:
                group = self._tree.setdefault(command.words[0], {})
                assert isinstance(group, dict)
                group[command.words[1]] = command

    def knows(self, word: str) -> bool:
        """Return whether a command begins with that word."""
        return bool(word) and _match(word.lower(), self._tree) is not None

    def parse(self, line: bytes, viewer: int | None = None) -> tuple[Command, Arguments]:
        """Return the command of a line and its arguments; `viewer` is as for Command.arguments. Raises Error.

        Short lines without options are remembered, because many clients ask the same again and again.
        """
        if viewer is None and (found := self._remembered.get(line)):
            return found
        words = wire.exact_words(line) if line.startswith(b"%") else wire.split_words(wire.decode(line))
        if not words:
            raise Error("No command")
        command, rest = self.find(words)
        parsed = command, command.arguments(rest, viewer)
        if viewer is None and len(line) <= _SHORT and not command.options:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[line] = parsed
        return parsed

    def find(self, words: list[str]) -> tuple[Command, list[str]]:
        """Return the command at the start of `words`, and the words after it. Raises Error."""
        found, rest = self._descend(words)
        if isinstance(found, Command):
            return found, rest
        group = next(name for name, entry in self._tree.items() if entry is found)
        raise Error(f'"{group}" must be followed by one of: {", ".join(sorted(found))}')

    def help(self, words: list[str]) -> str:
        """Return the list of commands, or help for the command or group `words`. Raises Error."""
        if not words:
            return self._overview()
        found, _ = self._descend(words)
        if isinstance(found, Command):
            return found.full_help()
        return "\n".join(command.full_help() for command in found.values())

    def _descend(self, words: list[str]) -> tuple[Command | dict[str, Command], list[str]]:
        word = words[0].lower()
        first = _match(word, self._tree)
        if first is None:
            raise Error(f'Unknown command "{word}"')
        entry = self._tree[first]
        if isinstance(entry, Command):
            if word != first and not entry.abbreviate:
                raise Error(f'You cannot abbreviate "{first}"')
            return entry, words[1:]
        if len(words) == 1:
            return entry, []
        word = words[1].lower()
        abbreviations = [name for name, command in entry.items() if command.abbreviate]
        second = word if word in entry else _match(word, abbreviations)
        if second is None:
            choices = ", ".join(sorted(entry))
            raise Error(f'Bad "{first}" command. The following word must be one of: {choices}')
        return entry[second], words[2:]

    def _overview(self) -> str:
        width = max(len(command.name) for command in self.commands)
        lines = [f"    {command.name:{width}}  {command.summary}" for command in self.commands]
        notes = (
            'Type "help COMMAND" for more about one. Every word of a command but exit-if-idle may be abbreviated down to one'
            " letter. Names may end in the wildcard *. While you watch, a line (say, -) acknowledges what you got and asks"
            " for more; q acknowledges it and stops."
        )
        return "Possible commands are:\n" + "\n".join(lines) + "\n\n" + textwrap.fill(notes, 100) + "\n"


def _match(word: str, choices: Iterable[str]) -> str | None:
    choices = sorted(choices)
    if word in choices:
        return word
    return next((choice for choice in choices if choice.startswith(word)), None)
