"""Shell completion: computes candidates from the declared commands and the contents of papad.

Each shell passes what was typed to `complete-words`, which prints one candidate per line in the
format of that shell. bash passes the whole line, because it splits words at colons and equals signs
and leaves quoting to the completion function.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from papad.client.connection import Client
from papad.ctl.connect import Session
from papad.ctl.declared import COMMANDS, COMMON
from papad.ctl.parser import Call, Command, Option, Usage, find
from papad.ctl.run import CannotConnect
from papad.errors import Error

_BASH = """\
# Completion of papactl for bash.
_papactl() {
    local found
    found=$(papactl complete-words -- bash "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null)
    if [ "$found" = $'\\tfiles' ]; then
        compopt -o default
    elif [ -n "$found" ]; then
        mapfile -t COMPREPLY <<<"$found"
    fi
}
complete -F _papactl papactl
"""

_ZSH = """\
#compdef papactl
# Completion of papactl for zsh.
_papactl() {
    local -a found
    found=("${(@f)$(papactl complete-words -- zsh "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    if [[ $found == $'\\tfiles' ]]; then
        compset -P "--*="
        _files
    elif [[ -n $found ]]; then
        _describe papactl found
    fi
}
if [ "$funcstack[1]" = "_papactl" ]; then _papactl "$@"; else compdef _papactl papactl; fi
"""

_FISH = """\
# Completion of papactl for fish.
function __papactl_words
    set -l typed (commandline -ct)
    set -l found (papactl complete-words -- fish (commandline -opc)[2..] "$typed" 2>/dev/null)
    if test "$found" = \\tfiles
        set -l option (string match -r -- '^--[^=]*=' "$typed")
        __fish_complete_path (string replace -- "$option" "" "$typed") | string replace -r '^' -- "$option"
    else
        printf '%s\\n' $found
    end
end
complete -c papactl -f -a '(__papactl_words)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
_PATIENCE = 2.0  # seconds; short, because a user waits at a prompt


class Candidate(NamedTuple):
    """A possible completion of a word."""

    word: str
    help: str = ""


FILES = Candidate("\tfiles")
"""As the only candidate, it makes the shell complete file names. No other one contains a tab."""


def script(call: Call, session: object = None) -> int:
    """Run `completion`: print the script to source or to install for a shell."""
    sys.stdout.write(SCRIPTS[call.words[0]])
    return 0


def candidates(call: Call, session: object = None) -> int:
    """Run `complete-words SHELL ...`: print one candidate per line, none for an unknown shell."""
    shell, *words = call.words or [""]
    dialects: dict[str, Callable[..., Iterator[str]]] = {"bash": _for_bash, "zsh": _for_zsh, "fish": _for_fish}
    if shell in dialects:
        sys.stdout.writelines(line + "\n" for line in dialects[shell](*words))
    return 0


def _for_zsh(*words: str) -> Iterator[str]:
    """Yield candidates in the format of zsh's _describe."""
    for each in _possible(words, _Brief):
        word = re.sub(r"([\\:])", r"\\\1", each.word)
        yield each.word if each is FILES else f"{word}:{each.help}" if each.help else word


def _for_fish(*words: str) -> Iterator[str]:
    for each in _possible(words, _Brief):
        yield each.word if each is FILES else f"{each.word}\t{each.help}"


def _for_bash(line: str = "", typed: str = "", *more: str) -> Iterator[str]:
    """Yield quoted replacements for `typed`, with which the line ends.

    `typed` is the last word, or the part of it that follows a colon or a quote.
    """
    # bash also asks for the target of a redirection.
    if re.search(r"\s\d*&?[<>]+\s*[^\s'\"]*$", line):
        yield FILES.word
        return
    words = _unquoted(line)[0][1:] or [""]
    (*_, kept), quote = _unquoted(line.removesuffix(typed))
    for each in _possible(words, _Brief):
        if each is FILES:
            yield each.word
        elif each.word.startswith(words[-1]):
            yield _quoted(each.word[len(kept) :], quote)


def _unquoted(line: str) -> tuple[list[str], str]:
    """Split an unfinished line of bash. Return its words and the quote that is still open.

    The last word may be empty.
    """
    words, quote, escaped = [""], "", False
    for char in line:
        if escaped:
            words[-1] += char if not quote or char in '\\"$`' else "\\" + char
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif not quote and char.isspace():
            words += [""] * bool(words[-1])
        else:
            words[-1] += char
    return words, quote


def _quoted(text: str, quote: str) -> str:
    """Quote text for a word of bash in which `quote` is open."""
    if quote == "'":
        return text.replace("'", "'\\''")
    if quote == '"':
        # In double quotes, history expansion keeps the backslash of \!, so close them around it.
        return re.sub(r'(["$`\\])', r"\\\1", text).replace("!", '"\\!"')
    return re.sub(r"([^\w@%+:,./=-])", r"\\\1", text)


def complete(words: Sequence[str], session: Callable[[], Session]) -> list[str]:
    """Return the completions of the last of these words, which may be empty, except file names."""
    found = _possible(words, session)
    return [each.word for each in found if each is not FILES and each.word.startswith(words[-1])]


class _Brief(Session):
    """A session with a short timeout, with the default papad or that of the options being typed."""

    def connect(self) -> Client:
        return Client(self.address, _PATIENCE)


def _possible(words: Sequence[str], session: Callable[[], Session]) -> list[Candidate]:
    """Return the sorted candidates for the last word. Not all of them begin with that word.

    If the words name a papad on this machine, that one is asked for names. One on another machine
    is not asked.
    """
    *before, last = words or [""]
    state = _State(session)
    for word in before:
        state.take(word)
    # Of equal words the first one wins: an option of the command hides a common one.
    found = {each.word: each for each in reversed(state.choices(last))}
    return [found[word] for word in sorted(found)]


class _State:
    """The parsing state of an unfinished command line, as far as it can be told."""

    def __init__(self, session: Callable[[], Session]) -> None:
        self.session: Callable[[], Session] | None = session
        self.typed: list[str] = []
        self.command: Command | None = None
        self.words: list[str] = []
        self.pending: Option | None = None
        self.verbatim = False

    def take(self, word: str) -> None:
        """Parse a word before the one being typed."""
        option, self.pending = self.pending, None
        if option is not None and (option.optional is None or word.isdecimal() or word == "all"):
            self._server(option, word)
        elif self.verbatim or not word.startswith("-") or word == "-":
            self._word(word)
        elif word == "--":
            self.verbatim = True
        else:
            option, value = self._option(word)
            if value is None:
                self.pending = None if option is not None and option.attached else option
            elif option is not None:
                self._server(option, value)

    def _word(self, word: str) -> None:
        if self.command is None:
            self.typed.append(word)
            try:
                self.command = find(self.typed, COMMANDS)
            except Usage:
                self.typed = ["?"]  # no command begins with this
        elif not (self.command.pairs and self.words and "=" in word):
            self.words.append(word)
            self.verbatim = self.verbatim or (self.command.tail and len(self.words) > 1)

    def choices(self, last: str) -> list[Candidate]:
        """Return the candidates for the word being typed."""
        if self.pending is not None and self.pending.optional is None:
            return self._values(self.pending)
        if self.verbatim or not last.startswith("-"):
            return [each for each in self._words() if self.verbatim or not each.word.startswith("-")]
        option, value = self._option(last)
        if option is not None and (value is not None or not last.startswith("--")):
            before = last.removesuffix(value or "")
            found = [each if each is FILES else Candidate(before + each.word) for each in self._values(option)]
            if found and (last.startswith("--") or found != [FILES]):
                return found
        short = [Candidate(f"-{each.short}", each.help) for each in self._options() if each.short]
        return [Candidate(f"--{each.long}", each.help) for each in self._options()] + short

    def _words(self) -> list[Candidate]:
        """Return the candidates that are neither options nor values of options."""
        command = self.command
        if command is None:
            return _commands(self.typed)
        if command.tail and self.words:
            return [FILES]
        if command.most is not None and len(self.words) >= command.most:
            return []
        if self.words and command.completes_first:
            return []
        if command.folder_first and not self.words:
            return [FILES]
        if command.choices:
            return [Candidate(each) for each in command.choices]
        return _commands(self.words) if command.completes == "commands" else self._names(command.completes)

    def _values(self, option: Option) -> list[Candidate]:
        if option.completes == "files":
            return [FILES]
        return [Candidate(each) for each in option.choices] or self._names(option.completes)

    def _names(self, kind: str) -> list[Candidate]:
        """Return the printable names of a kind that exist now; none if papad does not answer."""
        if not kind or self.session is None:
            return []
        try:
            found = self.session().client().describe(kind)
        except (CannotConnect, Error, Usage):
            return []
        return [Candidate(each["name"]) for each in found if each["name"].isprintable()]

    def _option(self, word: str) -> tuple[Option | None, str | None]:
        """Return the option that ends this word and takes a value, and the value.

        The option is None if there is none. The value is None if it is the next word.
        """
        options = self._options()
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found = [each for each in options if each.long == name] or [
                each for each in options if name and each.long.startswith(name)
            ]
            return (found[0], value if equals else None) if found and found[0].metavar else (None, None)
        for at, letter in enumerate(word[1:], 2):
            option = next((each for each in options if each.short == letter), None)
            if option is not None and option.metavar:
                return option, word[at:] or None
        return None, None

    def _options(self) -> tuple[Option, ...]:
        return (*(self.command.options if self.command else ()), *COMMON)

    def _server(self, option: Option, value: str) -> None:
        if option not in COMMON:
            return
        if option.key == "host":
            self.session = None
        elif option.key in ("socket", "port"):
            self.session = lambda: _Brief(**{option.key: os.path.expanduser(value)})


def _commands(typed: list[str]) -> list[Candidate]:
    """Return the first words of the commands, or the second words of those that begin like this."""
    shown = [each for each in COMMANDS if not each.hidden]
    if typed:
        group = [each for each in shown if len(each.words) > 1 and each.words[0].startswith(typed[0])]
        return [Candidate(each.words[1], each.summary) for each in group] if len(typed) == 1 else []
    found: dict[str, list[str]] = {}
    for each in shown:
        found.setdefault(each.words[0], []).append(each.summary if len(each.words) == 1 else each.words[1])
    return [Candidate(first, ", ".join(parts)) for first, parts in found.items()]
