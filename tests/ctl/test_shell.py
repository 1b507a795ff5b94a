"""`papactl shell`, at a terminal and in a pipe."""

from __future__ import annotations

from pathlib import Path

from tests.ctl.support import Papactl, Terminal


def test_commands_at_a_prompt_with_history_and_completion(ctl: Papactl, tmp_path: Path) -> None:
    ctl.out("set", "release.one", "5")
    env = {**ctl.env, "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}
    terminal = Terminal("shell", **env)
    terminal.until("papad> ")
    terminal.type("get rel\t\r")
    terminal.until("get release.one")
    assert "5" in terminal.until("papad> ")
    terminal.type("lst\r")
    assert "Did you mean: papactl list" in terminal.until("papad> ")
    terminal.type("set v 'a  b'\r")
    terminal.until("papad> ")
    terminal.interrupt_until("papad> ")
    terminal.type("quit\r")
    assert terminal.rest()[0] == 0
    assert ctl.out("get", "v") == "a  b\n"
    assert "get release.one" in (tmp_path / "papad/history").read_text()
    terminal = Terminal("shell", **env)
    terminal.until("papad> ")
    terminal.type("\x10" * 4 + "\r")
    terminal.until("\r\n5\r\n")
    terminal.until("papad> ")
    terminal.type("\x04")
    assert terminal.rest()[0] == 0


def test_commands_in_a_pipe(ctl: Papactl) -> None:
    done = ctl("shell", stdin="set a 'x  y'\n\nget a\nnonsense\nl v\nunclosed '\nquit\nget a\n")
    assert (done.status, done.out) == (2, "x  y\na x  y\n")
    assert done.err.startswith("papactl: error: unknown command 'nonsense'\n")
    assert done.err.endswith("papactl: No closing quotation\n")
    assert ctl("shell", stdin="remove sockets nothing\nget a").status == 1
    assert ctl("shell", stdin="get a") == (0, "x  y\n", "")


def test_habits_from_outside(ctl: Papactl) -> None:
    done = ctl("shell", stdin="papactl set a 1\nget a > file\nget a | cat\n?\n")
    assert done.status == 2
    assert done.out.startswith("papactl [OPTION...]")
    assert (
        done.err == "papactl: this shell has no pipes and no redirections; use papactl in your own shell for them\n" * 2
    )
    assert ctl.out("get", "a") == "1\n"


def test_no_shell_without_papad() -> None:
    from tests.ctl.support import papactl

    assert papactl("shell", PAPAD_SOCKET="/nonexistent").status == 3
