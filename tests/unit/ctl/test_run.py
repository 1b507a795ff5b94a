"""A line that is run: its status, and what is said of what went wrong."""

from __future__ import annotations

import pytest

from papad.ctl.connect import CannotConnect, Session
from papad.ctl.parser import Usage
from papad.ctl.run import complain, execute, guarded, interpret
from papad.errors import ConnectionLost, Error, TimedOut, Unreachable
from papad.version import __version__
from tests.ctl.support import not_found
from tests.unit.ctl.support import called


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (Usage("no", "a\nb"), 2, "papactl: error: no\na\nb\n"),
        (CannotConnect("no", "a"), 3, "papactl: no\na\n"),
        (Unreachable("no"), 3, "papactl: no\n"),
        (Error("web not found"), 1, not_found("web")),
        (Error("Socket web not found"), 1, "papactl: Socket web not found\nTo make it: papactl make socket web\n"),
        (
            Error('Unknown option "a-b". Type "help make socket"'),
            1,
            'papactl: Unknown option "a-b". Type "papactl help make socket"\npapactl help make socket lists them\n',
        ),
        (ConnectionLost("gone"), 1, "papactl: gone\n"),
        (TimedOut("late"), 1, "papactl: late\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=repr,
)
def test_an_error_becomes_a_line_and_a_status(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, said: str
) -> None:
    def fails() -> int:
        raise error

    assert guarded(fails) == status
    assert capsys.readouterr() == ("", said)


def test_what_goes_well_has_its_own_status_and_a_bug_is_not_hidden() -> None:
    assert guarded(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 // 0)


def test_nothing_is_said_where_standard_error_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    complain("lost", "hint")


def test_a_command_that_is_offline_needs_no_session(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(called("completion", "bash"), None) == 0
    assert capsys.readouterr().out.startswith("# Completion of papactl for bash.\n")


def test_lines_of_the_shell_share_one_session(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    assert interpret(["set", "v", "a  b"], session) == 0
    assert interpret(["g", "v"], session) == 0
    assert capsys.readouterr() == ("a  b\n", "")
    assert interpret(["remove", "sockets", "none"], session) == 1
    assert capsys.readouterr() == ("", not_found("none"))


def test_the_version_is_told_in_the_shell_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert interpret(["--version"], Session("/nonexistent")) == 0
    assert capsys.readouterr().out == f"papactl {__version__}\n"


@pytest.mark.parametrize("words", ["shell", "stdio-bridge", "--socket /x status", "--port 1 status", "status -H one"])
def test_what_is_for_the_command_line_is_refused_in_the_shell(capsys: pytest.CaptureFixture[str], words: str) -> None:
    assert interpret(words.split(), Session("/nonexistent")) == 2
    assert capsys.readouterr().err == "papactl: error: not available in the shell, which is already connected\n"
