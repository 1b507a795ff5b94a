"""`papactl output` at a terminal: colour, the pager, Ctrl-C."""

from __future__ import annotations

import shutil

import pytest

from tests.ctl.support import Papactl, Terminal, not_found

needs_less = pytest.mark.skipif(shutil.which("less") is None, reason="less is not installed")


def test_standard_error_is_red_on_a_terminal(ctl: Papactl) -> None:
    ctl.runs("p", "echo fine; printf 'bad\\033[2J\\n' >&2")
    status, text = Terminal("output", "p", "--no-pager", **ctl.env).rest()
    assert status == 0
    assert "p: fine\n" in text
    assert "p: \x1b[31mbad\\x1b[2J\x1b[0m\n" in text
    text = Terminal("output", "p", "--no-pager", "-o", "cat", **ctl.env).rest()[1]
    assert text == "fine\n\x1b[31mbad\\x1b[2J\x1b[0m\n"
    text = Terminal("output", "p", "--no-pager", "-a", **ctl.env).rest()[1]
    assert "p: \x1b[31mbad\x1b[2J\x1b[0m\n" in text
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in Terminal("output", "p", "--no-pager", **env, **ctl.env).rest()[1]
    assert "\x1b" not in ctl.out("output", "p")
    assert Terminal("output", "-S", "now", PAGER="", **ctl.env).rest() == (0, "-- No entries --\n")


def test_a_pager_shows_it_on_a_terminal(ctl: Papactl) -> None:
    ctl.runs("p", "echo fine; echo bad >&2")
    status, text = Terminal("output", "p", PAPAD_PAGER="sed 's/^/> /'", PAGER="false", **ctl.env).rest()
    assert status == 0
    assert [line[:2] for line in text.splitlines()] == ["> "] * 3
    for env in ({"PAGER": "cat"}, {"PAPAD_PAGER": "", "PAGER": "false"}, {"PAGER": "false", "TERM": "dumb"}):
        assert len(Terminal("output", "p", **env, **ctl.env).rest()[1].splitlines()) == 3
    assert Terminal("output", "p", PAGER="exit 0; cat", **ctl.env).rest() == (0, "")
    terminal = Terminal("output", "-f", "p", PAGER="false", **ctl.env)
    terminal.until("ended with exit code 0")
    terminal.type("\x03")
    assert terminal.rest()[0] == 130


def test_what_is_wrong_is_said_without_a_pager(ctl: Papactl) -> None:
    assert Terminal("output", "nobody", PAGER="echo pager", **ctl.env).rest() == (1, not_found("nobody"))


def test_a_pager_that_is_not_there_is_an_error(ctl: Papactl) -> None:
    ctl.runs("p", "seq 100000")
    status, text = Terminal("output", "p", PAGER="no-such-pager", **ctl.env).rest()
    assert status == 1
    assert text.endswith("papactl: cannot find the pager 'no-such-pager'; --no-pager prints without one\n")


@needs_less
def test_less_is_left_before_the_end(ctl: Papactl) -> None:
    ctl.runs("p", "seq 100000")
    for keys in ("q", "\x03q"):  # less may go on after Ctrl-C
        terminal = Terminal("output", "-o", "cat", PAGER="less", **ctl.env)
        terminal.until("20")
        for key in keys:
            terminal.type(key)
        status, text = terminal.rest()
        assert status == (0 if keys == "q" else 130)
        assert "papactl" not in text


def test_the_pager_gets_ctrl_c_for_itself(ctl: Papactl) -> None:
    ctl.runs("p", "echo hi")
    terminal = Terminal("output", PAGER="trap 'echo caught; exit' INT; cat; echo ready; sleep 30 & wait", **ctl.env)
    terminal.until("ready")
    terminal.type("\x03")
    terminal.until("caught")
    assert terminal.rest()[0] == 0


@needs_less
def test_less_begins_at_the_end(ctl: Papactl) -> None:
    ctl.runs("p", "seq 100000")
    terminal = Terminal("output", "-e", "-o", "cat", PAGER="less", **ctl.env)
    terminal.until("100000")
    terminal.type("q")
    status, text = terminal.rest()
    assert status == 0
    assert "98000" not in text
