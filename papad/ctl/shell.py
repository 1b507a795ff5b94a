"""`papactl shell`: runs commands at a prompt, on one connection. It replaces telnet."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path

from papad.ctl.completion import complete
from papad.ctl.connect import Session
from papad.ctl.parser import Call
from papad.ctl.run import USAGE, complain, interpret, standard_input

_PROMPT = "papad> "
_HISTORY = 1000  # lines


def run(call: Call, session: Session) -> int:
    """Read and run lines until the end of input.

    Return 0 on a terminal, otherwise the last exit status that was not 0.
    """
    interactive = standard_input().isatty()
    session.client()
    history = _set_up_readline(session) if interactive else None
    failed = 0
    before = ["--no-pager"] * call.flag("no_pager")
    try:
        while (words := _next_words(interactive=interactive)) != ["quit"]:
            if words is None:
                failed = USAGE
            elif words:
                failed = interpret([*before, *words], session) or failed
                session.revive()
    finally:
        if history is not None:
            _save(history)
    return 0 if interactive else failed


def _next_words(*, interactive: bool) -> list[str] | None:
    """Return the words of the next line, `quit` at the end of input, None for an invalid line."""
    try:
        line = input(_PROMPT) if interactive else sys.stdin.readline()
    except EOFError:
        print()
        return ["quit"]
    except KeyboardInterrupt:
        print()
        return []
    if not interactive and not line:
        return ["quit"]
    try:
        words = shlex.split(line)
    except ValueError as error:
        complain(str(error))
        return None
    if any(word in ("|", ">", ">>", "<") for word in words):
        complain("this shell has no pipes and no redirections; use papactl in your own shell for them")
        return None
    if words[:1] == ["papactl"]:
        words = words[1:]
    return ["quit"] if words in (["exit"], ["q"]) else ["help"] if words == ["?"] else words


def _set_up_readline(session: Session) -> Path | None:
    """Set up history and completion. Return the path of the history file."""
    try:
        import readline
    except ImportError:
        return None
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    history = Path(state, "papad", "history")
    with suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(_HISTORY)
    readline.set_completer_delims(" ")
    found: list[str] = []

    def completer(text: str, number: int) -> str | None:
        if number == 0:
            before = readline.get_line_buffer()[: readline.get_begidx()].split()
            found[:] = complete([*before, text], lambda: session)
        return found[number] + " " if number < len(found) else None

    readline.set_completer(completer)
    readline.parse_and_bind("tab: complete")
    return history


def _save(history: Path) -> None:
    import readline

    with suppress(OSError):  # the folder may not be writable
        history.parent.mkdir(parents=True, exist_ok=True)
        readline.write_history_file(history)
