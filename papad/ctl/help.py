"""`papactl help`, and --help."""

from __future__ import annotations

import re
import sys

from papad.ctl.declared import COMMANDS, COMMON
from papad.ctl.parser import Call, Usage, find, help_text, option_lines, summaries
from papad.ctl.render import on_terminal

STATUSES = (
    (0, "done"),
    (
        1,
        "papad answered an error, the output could not be written, --grep found nothing, make process found a process that "
        "has ended, or a process was not signalled or has not ended in time",
    ),
    (2, "the command line is wrong"),
    (3, "papad cannot be reached"),
    (130, "interrupted, with Ctrl-C"),
)


def run(call: Call, session: object = None) -> int:
    """Run `help`: list the commands, or describe one."""
    text = about(call.words)
    if on_terminal():
        from shutil import get_terminal_size

        text = "".join(line + "\n" for each in text.splitlines() for line in folded(each, get_terminal_size().columns))
    sys.stdout.write(text)
    return 0


def folded(line: str, width: int) -> list[str]:
    """Fold a line of help between words; what follows a term stays in its column."""
    found = re.match(r" +\S.*?  +(?=\S)", line)
    column = len(found[0]) if found else len(line) - len(line.lstrip())
    if column > width * 2 // 3:
        return [line]
    from textwrap import wrap

    return wrap(line, width, subsequent_indent=" " * column, break_long_words=False, break_on_hyphens=False) or [""]


def about(words: list[str]) -> str:
    """Return the help of the commands that these words begin, or the overview. Raises Usage."""
    if not words:
        return overview()
    command = find(words[:2], COMMANDS)
    group = [each for each in COMMANDS if each.words[0] == words[0] or each.words[0].startswith(words[0])]
    found = [command] if command else [each for each in group if not each.hidden]
    if not found:
        raise Usage(f"no such command: {words[0]!r}")
    return "\n".join(map(help_text, found))


def overview() -> str:
    """Return the list of commands and of common options."""
    pairs = list(option_lines(COMMON))
    width = max(len(left) for left, _ in pairs)
    return "\n".join(
        [
            "papactl [OPTION...] COMMAND [ARGUMENT...]",
            "",
            "Talk to papad, which keeps sockets, values and processes across its own restart.",
            "",
            "Commands:",
            *summaries(COMMANDS),
            "",
            "Options:",
            *(f"  {left:{width}}  {right}" for left, right in pairs),
            "",
            "Commands may be abbreviated: papactl l p. papactl help COMMAND describes one.",
            "Exit status: " + ", ".join(f"{status} {meaning}" for status, meaning in STATUSES) + ".",
            "",
        ]
    )
