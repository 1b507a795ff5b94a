"""Lines of `papactl shell` that come from a pipe. At a terminal: tests/ctl/test_shell.py."""

from __future__ import annotations

import io

import pytest

from papad.ctl.connect import Session
from papad.ctl.shell import run
from tests.support.papad import Daemon
from tests.unit.ctl.support import called


def typed(monkeypatch: pytest.MonkeyPatch, session: Session, lines: str, *options: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    return run(called("shell", *options), session)


@pytest.mark.parametrize(
    ("lines", "printed"),
    [
        ("get v\n", "a  b\n"),
        ("get v", "a  b\n"),
        ("papactl get v\n", "a  b\n"),
        ("\n  \nget 'v'\n", "a  b\n"),
        ("quit\nget v\n", ""),
        ("exit\nget v\n", ""),
        ("q\nget v\n", ""),
        ("papactl quit\nget v\n", ""),
        ("g v\nget v", "a  b\n" * 2),
        ("", ""),
    ],
)
def test_lines_are_run_until_quit(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lines: str, printed: str
) -> None:
    session.client().command("set", "v", "a  b")
    assert typed(monkeypatch, session, lines, "--no-pager") == 0
    assert capsys.readouterr() == (printed, "")


def test_a_question_mark_is_help(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, session, "?\n") == 0
    assert capsys.readouterr().out.startswith("papactl [OPTION...] COMMAND")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("set v '1", "papactl: No closing quotation\n"),
        ("set v 1 > file", "papactl: this shell has no pipes and no redirections; "),
        ("set v 1 | cat", "papactl: this shell has no pipes and no redirections; "),
    ],
)
def test_what_this_shell_does_not_have_is_not_run(
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    message: str,
) -> None:
    assert typed(monkeypatch, session, f"{line}\nlist values\n") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)


@pytest.mark.parametrize(
    ("lines", "status"),
    [("get none\nlist values\n", 1), ("get none\nnonsense\nlist values\n", 2), ("nonsense\nget none\n", 1)],
)
def test_the_status_is_that_of_the_last_line_that_failed(
    session: Session, monkeypatch: pytest.MonkeyPatch, lines: str, status: int
) -> None:
    assert typed(monkeypatch, session, lines) == status


def test_it_goes_on_with_a_new_connection_after_the_old_one_was_lost(
    papad: Daemon, session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """exit-if-idle ends a connection, whatever papad answers."""
    session.client().command("set", "v", "1")
    assert typed(monkeypatch, session, "exit-if-idle\nget v\n") == 1
    assert capsys.readouterr().out == "1\n"
