"""Completion: what may stand at the end of a command line, from the declarations and from what papad holds."""

from __future__ import annotations

import sys
from collections.abc import Callable

from papad.ctl.connect import CannotConnect, Session
from papad.ctl.declared import COMMANDS, COMMON
from papad.ctl.parser import Call, Command, Option, Usage, find
from papad.errors import Error

_BASH = """\
# Completion of papactl for bash.
_papactl() {
    local words cur=${COMP_WORDS[COMP_CWORD]}
    words=$(papactl complete-words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    if [ "$words" = "<files>" ]; then
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -f -- "$cur"))
    else
        local IFS=$'\\n'
        COMPREPLY=($words)
    fi
}
complete -F _papactl papactl
"""

_ZSH = """\
#compdef papactl
# Completion of papactl for zsh.
_papactl() {
    local -a found
    found=("${(@f)$(papactl complete-words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ $found == "<files>" ]]; then
        _files
    elif [[ -n $found ]]; then
        compadd -- $found
    fi
}
if [ "$funcstack[1]" = "_papactl" ]; then _papactl "$@"; else compdef _papactl papactl; fi
"""

_FISH = """\
# Completion of papactl for fish.
function __papactl_words
    set -l found (papactl complete-words -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)
    if test "$found" = "<files>"
        __fish_complete_path (commandline -ct)
    else
        printf '%s\\n' $found
    end
end
complete -c papactl -f -a '(__papactl_words)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
FILES = "<files>"


def script(call: Call, session: object = None) -> int:
    """`completion`: what to source, or to put where the shell looks."""
    if call.words[0] not in SCRIPTS:
        raise Usage(f"completion for which shell? bash, zsh or fish, not {call.words[0]!r}")
    sys.stdout.write(SCRIPTS[call.words[0]])
    return 0


def candidates(call: Call, session: Session) -> int:
    """`complete-words`: one candidate a line."""
    for word in complete(call.words or [""], lambda: session):
        print(word)
    return 0


def complete(words: list[str], session: Callable[[], Session]) -> list[str]:
    """What the last of these words, which may be empty, can become; FILES alone stands for the names of files.

    Where the words name a server, that one is asked for names; one of another machine is not.
    """
    *before, last = words
    state = _State()
    for word in before:
        state.take(word)
    found = state.choices(last, state.session or session)
    return found if found == [FILES] else sorted(each for each in set(found) if each.startswith(last))


class _State:
    """How far a command line has come, as well as one can tell while it is being typed."""

    def __init__(self) -> None:
        self.typed: list[str] = []
        self.command: Command | None = None
        self.words: list[str] = []
        self.pending: Option | None = None
        self.verbatim = False
        self.session: Callable[[], Session] | None = None

    def take(self, word: str) -> None:
        """A word before the one that is being typed."""
        if self.pending is not None:
            self._server(self.pending, word)
            self.pending = None
        elif word == "--":
            self.verbatim = self.command is not None
        elif word.startswith("-") and not self.verbatim:
            self.pending = next((each for each in self._options() if each.metavar and _is(word, each)), None)
        elif self.command is not None:
            self.words.append(word)
            self.verbatim = self.verbatim or (self.command.tail and len(self.words) > 1 and "=" not in word)
        else:
            self.typed.append(word)
            try:
                self.command = find(self.typed[:2], COMMANDS)
            except Usage:
                self.typed = ["?", "?"]

    def choices(self, last: str, session: Callable[[], Session]) -> list[str]:
        """What may stand here."""
        if self.pending is not None:
            option = self.pending
            return list(option.choices) or _live(option.completes, session)
        if last.startswith("-") and not self.verbatim:
            return [f"--{each.long}" for each in self._options()] + [
                f"-{each.short}" for each in self._options() if each.short
            ]
        shown = [each for each in COMMANDS if not each.hidden]
        if self.command is None:
            depth = len(self.typed)
            group = shown
            if depth:
                group = [each for each in shown if len(each.words) > 1 and each.words[0].startswith(self.typed[0])]
            return [each.words[depth] for each in group] if depth < 2 else []
        if self.command.tail and self.words:
            return [FILES]
        return _live(self.command.completes, session, words=self.words)

    def _server(self, option: Option, value: str) -> None:
        if option in COMMON and option.key == "host":
            self.session = lambda: Session("/nonexistent")
        elif option in COMMON and option.key in ("socket", "port"):
            self.session = lambda: Session(**{option.key: value})

    def _options(self) -> tuple[Option, ...]:
        return (*(self.command.options if self.command else ()), *COMMON)


def _is(word: str, option: Option) -> bool:
    return word == f"--{option.long}" or (word[1:2] != "-" and bool(option.short) and word.endswith(option.short))


def _live(kind: str, session: Callable[[], Session], words: list[str] | None = None) -> list[str]:
    """The names of that kind that there are now; none where papad does not answer."""
    if kind == "files":
        return [FILES]
    if kind == "commands":
        depth = len(words or [])
        return [each.words[depth] for each in COMMANDS if len(each.words) > depth and not each.hidden]
    if not kind:
        return []
    try:
        return [each["name"] for each in session().client().describe(kind)]
    except (CannotConnect, Error, Usage):
        return []
