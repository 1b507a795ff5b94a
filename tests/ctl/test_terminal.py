"""What the words look like on terminals of several widths, and in a pipe."""

from __future__ import annotations

import pytest

from tests.ctl.support import Papactl, Terminal, not_found, papactl
from tests.support.waiting import wait_until


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("word", ["make process", "signal", "pid", "archive", "watch", "output", ""])
def test_help_fits_the_terminal(word: str, columns: int) -> None:
    status, text = Terminal("help", *word.split(), COLUMNS=str(columns)).rest()
    assert status == 0
    assert [line for line in text.splitlines() if len(line) > columns] == []
    assert text.split() == papactl("help", *word.split()).out.split()
    assert "\x1b" not in text


def test_a_watch_has_colour_on_a_terminal_only(ctl: Papactl) -> None:
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        ctl.out("make", "process", "p", "--", "/bin/sh", "-c", "echo fine; echo bad >&2")
        terminal = Terminal("watch", "-f", "p", **env, **ctl.env)
        shown = terminal.until("ended with exit code 0")
        assert ("\x1b[31mbad\x1b[0m" in shown) == coloured
        assert ("\x1b" in shown) == coloured
        wait_until(lambda: not ctl.daemon.ask("list processes p"), "what was printed is acknowledged")
        terminal.type("\x03")
        assert terminal.rest()[0] == 130


def test_pids_and_errors_are_plain_everywhere(ctl: Papactl) -> None:
    ctl.out("make", "process", "p", "/bin/sleep", "600")
    assert Terminal("pid", "p", **ctl.env).rest() == (0, ctl.out("pid", "p"))
    assert Terminal("signal", "nobody", **ctl.env).rest() == (1, not_found("nobody"))
