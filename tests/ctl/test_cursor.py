"""`papactl output` with a cursor: the next one goes on where the last one was, whatever ended that."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ctl.support import COMMAND, Papactl, environment, interrupted, line_of, papactl
from tests.support.papad import Daemon
from tests.support.waiting import wait_until

BOTH = 'while read -r stream text; do if [ $stream = e ]; then printf "$text" >&2; else printf "$text"; fi; done'


@contextlib.contextmanager
def fed(ctl: Papactl, folder: Path, name: str, script: str = "exec cat") -> Iterator[int]:
    """A process whose standard input is this descriptor."""
    fifo = folder / name
    os.mkfifo(fifo)
    ctl.out("make", "process", name, "--", "/bin/sh", "-c", f"({script}) <{fifo}")
    fd = os.open(fifo, os.O_WRONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def writes(ctl: Papactl, name: str, fd: int, data: bytes, size: int | None = None) -> None:
    """Feed it, and wait until it has printed that much."""
    before = ctl.described(name)["captured"]
    os.write(fd, data)
    wait_until(lambda: ctl.described(name)["captured"] == before + (size or len(data)), "it is captured")


def test_each_shows_what_came_since_the_last(ctl: Papactl, tmp_path: Path) -> None:
    since = ("output", "-o", "cat", "--cursor-file", str(tmp_path / "cursor"))
    with fed(ctl, tmp_path, "p") as fd:
        writes(ctl, "p", fd, b"one\ntwo\nthr")
        assert ctl.out(*since) == "one\ntwo\n"
        assert ctl.out(*since) == ""
        writes(ctl, "p", fd, b"ee\nno end")
        assert ctl.out(*since) == "three\n"
    ctl.ends("p")
    assert ctl.out(*since, "-g", "no") == "no end\n"
    assert ctl("output", "--cursor-file", str(tmp_path / "cursor"), "-g", "no").status == 1
    ctl.runs("q", "echo later")
    assert ctl.out("output", "--cursor-file", str(tmp_path / "cursor")).splitlines()[1:][0].endswith("code 0 --")
    assert [path.name for path in tmp_path.iterdir() if "cursor" in path.name] == ["cursor"]


def test_an_exit_whose_output_is_held_is_told_once(ctl: Papactl, tmp_path: Path) -> None:
    """The first process has ended with 3; a child of it goes on."""
    since = ("output", "--cursor-file", str(tmp_path / "cursor"))
    with fed(ctl, tmp_path, "p", "exec 3<&0; { while read -r text; do echo $text; done; } <&3 & exit 3") as fd:
        wait_until(lambda: ctl.described("p")["held"], "it has ended, and its child has not")
        assert [line.partition(": ")[2] for line in ctl.out(*since).splitlines()] == [
            "-- ended with exit code 3; a child of it still holds its output --"
        ]
        assert ctl.out(*since, "-q") == ""
        writes(ctl, "p", fd, b"one\n")
        assert [line.partition(": ")[2] for line in ctl.out(*since).splitlines()] == ["one"]
    wait_until(lambda: ctl.described("p")["closed"], "its child has ended, too")
    assert [line.partition(": ")[2] for line in ctl.out(*since).splitlines()] == ["-- ended with exit code 3 --"]
    assert ctl.out(*since, "-q") == ""


def test_a_line_of_one_stream_around_lines_of_the_other_comes_once(ctl: Papactl, tmp_path: Path) -> None:
    since = ("output", "-o", "cat", "--cursor-file", str(tmp_path / "cursor"))
    with fed(ctl, tmp_path, "p", BOTH) as fd:
        for text, size, shown in (
            (b"o begun\n", 5, ""),
            (b"e bad\\n\n", 4, "bad\n"),
            (b"e more\n", 4, ""),
            (b"o ,done\\n\n", 6, "begun,done\n"),
            (b"e .\\n\n", 2, "more.\n"),
        ):
            writes(ctl, "p", fd, text, size)
            assert ctl.out(*since) == shown
            assert ctl.out(*since) == ""


def test_a_cursor_may_be_kept_by_the_caller(ctl: Papactl) -> None:
    ctl.runs("p", "echo one")
    *shown, last = ctl.out("output", "-o", "cat", "--show-cursor").splitlines()
    assert shown == ["one"]
    cursor = last.removeprefix("-- cursor: ")
    ctl.runs("q", "echo two")
    assert ctl.out("output", "-o", "cat", "--after-cursor", cursor) == "two\n"
    with ctl.running("output", "-f", "-o", "cat", "--after-cursor", cursor) as popen:
        assert line_of(popen) == "two"
        assert interrupted(popen)[0] == 130


def test_what_is_forgotten_leaves_the_cursor(ctl: Papactl, tmp_path: Path) -> None:
    file = tmp_path / "cursor"
    for round in range(2):
        with ctl.daemon.connect() as talk:
            for n in range(101):
                assert talk.ask(f"make process p.{n} /bin/echo {n}").startswith("p.")
        for n in range(101):
            ctl.ends(f"p.{n}")
        assert len(ctl.out("output", "-o", "cat", "--cursor-file", str(file)).splitlines()) == 101, round
        assert file.read_text().count("=") == 101, "not those of the round before"
        ctl.out("remove", "processes", "*")


@pytest.mark.parametrize("seed", [20261126, 7])
def test_nothing_is_lost_whoever_is_killed(own_papad: Daemon, tmp_path: Path, seed: int) -> None:
    """At least once: what was printed right before papactl was killed may come again, nothing else."""
    chance, ctl = random.Random(seed), Papactl(own_papad)
    script = "import sys, time\nfor i in range(3000):\n print(i, flush=True)\n if i % 20 == 0: time.sleep(.005)"
    ctl.out("make", "process", "p", "--", sys.executable, "-S", "-c", script)
    shown = tmp_path / "shown"
    command = [*COMMAND, "output", "-f", "-o", "cat", "--cursor-file", str(tmp_path / "cursor"), "p"]
    cuts = []
    while not shown.exists() or not shown.read_bytes().endswith(b"\n2999\n"):
        assert len(cuts) < 200
        size = shown.stat().st_size if shown.exists() else 0
        with open(shown, "ab") as out, subprocess.Popen(command, env=environment(**ctl.env), stdout=out) as popen:
            more = size + chance.randrange(1, 3000)
            wait_until(lambda more=more: shown.stat().st_size > more or _ends(shown), "it shows something")  # type: ignore[misc]
            if chance.random() < 0.3:
                with contextlib.suppress(ProcessLookupError, ValueError):
                    os.kill(own_papad.pid, signal.SIGKILL)
            popen.kill()
        cuts.append(shown.stat().st_size)
    data, at = shown.read_bytes(), 0
    expected = -1
    for piece in [data[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]:
        lines = [int(line) for line in piece.split(b"\n")[:-1] if line]
        if not lines:
            continue
        assert lines[0] <= expected + 1, f"lost before {lines[0]}"
        assert lines == list(range(lines[0], lines[-1] + 1)), "within one run each line comes once"
        expected, at = max(expected, lines[-1]), at + 1
    assert expected == 2999
    assert at > 3


def _ends(shown: Path) -> bool:
    return shown.read_bytes().endswith(b"\n2999\n")


def test_a_cursor_that_cannot_be_read_or_written_is_an_error(ctl: Papactl, tmp_path: Path) -> None:
    ctl.runs("p", "echo one")
    (tmp_path / "other").write_text("something else\n")
    said = f"papactl: {tmp_path}/other has no cursor of papactl in it; to begin anew, remove it\n"
    assert ctl("output", "--cursor-file", str(tmp_path / "other")) == (1, "", said)
    for more in ((), ("-f",)):
        done = ctl("output", "-o", "cat", "--cursor-file", str(tmp_path / "no" / "such"), *more)
        assert done.status == 1
        assert done.err == f"papactl: cannot write the cursor to {tmp_path}/no/such: No such file or directory\n"
    assert ctl("output", "--cursor-file", str(tmp_path)).err == (
        f"papactl: cannot read the cursor in {tmp_path}: Is a directory\n"
    )
    (tmp_path / "empty").touch()
    assert ctl.out("output", "-o", "cat", "--cursor-file", str(tmp_path / "empty")) == "one\n"


WRONG = {
    "--cursor-file x -r": "--cursor-file cannot be combined with --reverse",
    "--cursor-file x -n 5": "--cursor-file cannot be combined with --lines",
    "--show-cursor -U now": "--show-cursor cannot be combined with --until",
    "--after-cursor 1=2/3 -e": "--after-cursor cannot be combined with --pager-end",
    "--after-cursor 1=2/3 --cursor-file x": "use either --cursor-file or --after-cursor, not both",
    "--show-cursor -f": "--show-cursor cannot be combined with --follow; use --cursor-file",
    "-H a -H b --cursor-file x": "--cursor-file works with one host only",
}


@pytest.mark.parametrize("typed", WRONG)
def test_wrong_turns(typed: str) -> None:
    assert papactl("output", *typed.split(), PAPAD_SOCKET="/nonexistent") == (
        2,
        "",
        f"papactl: error: {WRONG[typed]}\n",
    )


def test_what_is_no_cursor_is_refused(ctl: Papactl) -> None:
    said = "papactl: error: --after-cursor: not a cursor: 'id=5;position=3'\n--show-cursor shows one\n"
    assert ctl("output", "--after-cursor", "id=5;position=3") == (2, "", said)
