"""Which lines `papactl output` shows, how many and in which order. Following, and all of it as a program: tests/ctl/test_output.py."""

from __future__ import annotations

import re

import pytest

from papad.ctl.lines import Line
from papad.ctl.output import CONSUMED, _choice, count_of, lines_of, look_of, newest_first, show, style_of
from papad.ctl.parser import Usage
from tests.support.waiting import wait_until
from tests.unit.ctl.support import Here, called

LAST = 1000, False


@pytest.mark.parametrize(
    ("words", "count", "reverse"),
    [
        ("", (None, False), False),
        ("-f", (10, False), False),
        ("-f -S -1h", (None, False), False),
        ("-n", (10, False), False),
        ("-n 3", (3, False), False),
        ("-n+3", (3, True), False),
        ("-n all", (None, False), False),
        ("-f -n all", (None, False), False),
        ("-n 999999999999999999", (999999999999999999, False), False),
        ("-e", LAST, False),
        ("-e -n 3", (3, False), False),
        ("-r", (None, False), True),
        ("-g x", (None, False), False),
        ("-g x -n 3", (3, False), True),  # as in journalctl
        ("-g x -n+3", (3, True), False),
        ("-g x -n all", (None, False), False),
    ],
)
def test_how_many_lines_and_which_end_comes_first(words: str, count: tuple[int | None, bool], reverse: bool) -> None:
    call = called("output", *words.split())
    assert (count_of(call), newest_first(call)) == (count, reverse)


@pytest.mark.parametrize("text", ["", "-5", "few", "1e3", "+", "++1", "9" * 19, "٣"])
def test_what_is_no_number_of_lines(text: str) -> None:
    with pytest.raises(Usage, match=r"--lines must be a number or all, not"):
        count_of(called("output", f"--lines={text}"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-S", "now", "-U", "-1h"], "--since must be before --until"),
        (["-g", "("], "--grep: invalid regular expression '('"),
        (["-p", "grave"], "--priority must be a level or FROM..TO, not 'grave'"),
        (["-S", "soon"], "invalid time: 'soon'"),
    ],
)
def test_a_wrong_choice_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(Usage, match=re.escape(message)):
        _choice(called("output", *words))


@pytest.mark.parametrize(
    ("pattern", "found"), [("err", ["Err", "err"]), ("Err", ["Err"]), ("^E", ["Err"]), ("r{2}$", ["Err", "err"])]
)
def test_a_pattern_in_lower_case_ignores_case(pattern: str, found: list[str]) -> None:
    choice = _choice(called("output", "-g", pattern))
    texts = ["Err", "err", "fine"]
    assert [each for each in texts if choice.wants(Line("out", "p", 1, 1.0, 0, each.encode()))] == found


def test_the_format_is_that_of_the_last_word_about_it() -> None:
    assert [style_of(called("output", *words.split())) for words in ("", "-o cat", "--json", "--json -o cat")] == [
        "short",
        "cat",
        "json",
        "json",
    ]


@pytest.mark.parametrize(
    ("words", "status", "printed"),
    [
        ("-o cat", 0, "one\n"),
        ("", 0, "Jan 01 00:00:01 p: one\nJan 01 00:00:02 p: -- ended with exit code 0 --\n"),
        ("-g one -o cat", 0, "one\n"),
    ],
)
def test_what_is_found_is_shown(
    capsys: pytest.CaptureFixture[str], words: str, status: int, printed: str, here: Here
) -> None:
    call = called("output", "--utc", *words.split())
    lines = [Line("out", "p", 1, 1.0, 0, b"one"), Line("closed", "p", 1, 2.0, 3, b"")]
    assert show(call, lines, look_of(call, here.session, style_of(call)).format) == status
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("words", "status", "printed"),
    [
        ("", 0, "-- No entries --\n"),
        ("-q", 0, ""),
        ("-o json", 0, ""),
        ("-g x", 1, "-- No entries --\n"),
        ("-g x -q", 1, ""),
    ],
)
def test_nothing_found_is_said_and_is_a_status_with_a_pattern(
    capsys: pytest.CaptureFixture[str], words: str, status: int, printed: str
) -> None:
    assert show(called("output", *words.split()), [], lambda line: b"") == status
    assert capsys.readouterr().out == printed


def test_where_there_is_none_any_more_because_a_watcher_got_it_that_is_said(here: Here) -> None:
    here.out("make", "process", "p", "--", "/bin/sh", "-c", "echo one; exec sleep 600")
    here.runs("q", "echo two")
    with here.daemon.connect() as watcher:
        assert watcher.ask_line("watch processes p") == "Watching 1"
        assert watcher.records()
        watcher.send("-\n")
        wait_until(lambda: here.described("p")["acknowledged"], "it is acknowledged")
    none = "-- No entries --\n"
    assert here("output", "p", "-g", "one") == (1, none, f"papactl: {CONSUMED}\n")
    assert here("output", "-g", "one") == (1, none, f"papactl: {CONSUMED}\n")
    assert here("output", "q", "-g", "one") == (1, none, "")
    assert here("output", "p", "-g", "one", "-q") == (1, "", "")


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("-n 3", [1998, 1999, 2000]),
        ("-n 1500", list(range(501, 2001))),
        ("-n 3 -r", [2000, 1999, 1998]),
        ("-n+3", [1, 2, 3]),
        ("-g 99$", [n for n in range(1, 2001) if n % 100 == 99]),
        ("-g 99$ -n 2", [1999, 1899]),
        ("--stream err", []),
        ("-p err", []),
        ("-n 0", []),
    ],
)
def test_the_chosen_lines_come_in_their_order(here: Here, words: str, numbers: list[int]) -> None:
    here.runs("p", "seq 2000")
    lines = lines_of(called("output", "p", *words.split()), here.session)
    assert [int(line.data) for line in lines if line.kind == "out"] == numbers


def test_a_follower_has_nothing_to_turn_around(here: Here) -> None:
    done = here("output", "-f", "-r")
    assert done == (2, "", "papactl: error: use either --reverse or --follow, not both\n")
