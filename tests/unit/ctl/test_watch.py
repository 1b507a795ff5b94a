"""How batches of a watch are printed: in order, each line whole, with what is missing. The program: tests/ctl/test_commands.py."""

from __future__ import annotations

import io
import re

import pytest

from papad.ctl.connect import Session
from papad.ctl.lines import Look
from papad.ctl.parser import Usage
from papad.ctl.watch import _Printer, run, watch
from papad.protocol.responses import ProcessOutput
from papad.protocol.watching import WatchBatch
from tests.unit.ctl.support import Here, called

Record = tuple[str, str, float, bytes | int]


def batch(*records: Record) -> WatchBatch:
    made = WatchBatch([], [], [])
    for kind, name, timestamp, data in records:
        getattr(made, kind).append(ProcessOutput(name, timestamp, data))
    return made


def printed(*batches: WatchBatch, style: str = "short", captured: dict[str, int] | None = None) -> list[str]:
    """The lines, without their time and without a newline at the end of what has been printed so far."""
    stream = io.BytesIO()
    printer = _Printer(Look(style, utc=True), stream)
    for each in batches:
        printer.print(each, {name: {"captured": count, "lost": count} for name, count in (captured or {}).items()})
    return [re.sub(r"^Jan 01 00:00:\d\d ", "", line) for line in stream.getvalue().decode().split("\n")]


@pytest.mark.parametrize("style", ["short", "cat"])
@pytest.mark.parametrize(
    ("batches", "lines"),
    [
        ([[("out", "p", 1, b"one\ntwo\n")]], ["p: one", "p: two", ""]),
        ([[("out", "p", 1, b"na")], [("out", "p", 2, b"me: ")], [("out", "p", 3, b"x\n")]], ["p: name: x", ""]),
        ([[("out", "p", 1, b"name: ")]], ["p: name: "]),
        ([[("out", "p", 2, b"late\n"), ("err", "p", 1, b"early\n")]], ["p: early", "p: late", ""]),
        (
            [[("out", "p", 1, b"cut"), ("err", "p", 2, b"e\n"), ("out", "p", 3, b"on\n")]],
            ["p: cut", "p: e", "p: on", ""],
        ),
        ([[("out", "p", 1, b"a"), ("out", "q", 2, b"b"), ("out", "q", 3, b"c\n")]], ["p: a", "q: bc", ""]),
        ([[("out", "p", 1, b"\n\n")]], ["p: ", "p: ", ""]),
    ],
)
def test_pieces_become_lines(batches: list[list[Record]], lines: list[str], style: str) -> None:
    shown = lines if style == "short" else [line.partition(": ")[2] for line in lines]
    assert printed(*(batch(*records) for records in batches), style=style) == shown


def test_an_end_comes_after_all_output_of_the_same_instant() -> None:
    records: list[Record] = [("closed", "p", 1, 3), ("err", "p", 1, b"e\n"), ("out", "p", 1, b"o")]
    assert printed(batch(*records), captured={"p": 3}) == ["p: o", "p: e", "p: -- ended with exit code 3 --", ""]


def test_a_line_without_an_end_ends_with_its_process_where_that_is_not_shown() -> None:
    records: list[Record] = [("out", "p", 1, b"no end"), ("closed", "r", 2, 0), ("out", "p", 3, b"ing")]
    records += [("closed", "p", 4, 0), ("out", "q", 5, b"next\n")]
    assert printed(batch(*records), style="cat") == ["no ending", "next", ""]


def test_what_was_never_delivered_is_told_before_the_end() -> None:
    first, last = batch(("out", "p", 1, b"four\n")), batch(("closed", "p", 2, 0))
    assert printed(first, last, captured={"p": 12}) == [
        "p: four",
        "p: -- 7 bytes lost --",
        "p: -- ended with exit code 0 --",
        "",
    ]
    assert printed(first, last, captured={"p": 5}) == ["p: four", "p: -- ended with exit code 0 --", ""]
    assert printed(first, last, captured={}) == ["p: four", "p: -- ended with exit code 0 --", ""]


def test_what_was_lost_before_the_watch_is_told_first() -> None:
    stream = io.BytesIO()
    printer = _Printer(Look(utc=True), stream)
    printer.begin("o", 10, 10, 0)
    assert stream.getvalue() == b""
    printer.begin("p", 0, 7, 7)
    printer.print(batch(("out", "p", 1, b"x")), {})
    printer.end_line()
    printer.end_line()
    assert stream.getvalue().endswith(b" p: -- 7 bytes lost --\nJan 01 00:00:01 p: x\n")


def test_a_watch_acknowledges_what_it_has_printed_and_tells_the_codes(
    here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    here.runs("p", "echo one; exit 5")
    here.runs("q", "echo two; kill -9 $$")
    capsys.readouterr()
    assert watch(here.session, ["*"], Look("cat")) == {"p": 5, "q": -9}
    assert capsys.readouterr().out == "one\ntwo\n"
    assert here.daemon.ask("list processes") == ""


def test_what_could_not_be_printed_is_delivered_again(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.runs("p", "echo one")
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", full)
        with pytest.raises(OSError, match="No space left"):
            watch(here.session, ["p"])
        patch.undo()
        with pytest.raises(OSError, match="No space left"):
            full.close()
    assert here.described("p")["acknowledged"] == 0


def test_what_another_watcher_has_got_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 12 bytes this one got 5; 3 were overwritten, so somebody has acknowledged the other 4."""
    printer = _Printer(Look(utc=True), io.BytesIO())
    printer.begin("p", 0, 0, 10)
    printer.print(batch(("out", "p", 1, b"four\n")), {})
    printer.print(batch(("closed", "p", 2, 0)), {"p": {"captured": 12, "lost": 13}})
    assert capsys.readouterr().err == "papactl: p: another watcher has acknowledged 4 of the 7 bytes lost\n"


def test_json_is_for_output() -> None:
    with pytest.raises(Usage, match="watch has no --json; use papactl output -f --json"):
        run(called("watch", "x", "--json"), Session("/dev/null/none"))
