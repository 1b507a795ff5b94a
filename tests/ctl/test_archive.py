"""`papactl archive`: what processes print is in files, each line exactly once, whoever is killed."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ctl.support import COMMAND, Papactl, environment, not_found, papactl
from tests.support.papad import Daemon
from tests.support.waiting import wait_until

WRITER = """
import os, sys, time, random
chance = random.Random(sys.argv[1])
for n in range(2500):
    stream = chance.choice((1, 2))
    line = b"%d %d %s\\n" % (stream, n, b"x" * chance.randrange(60))
    cut = chance.randrange(len(line) + 1) if n % 7 == 0 else len(line)
    os.write(stream, line[:cut])
    if cut < len(line):
        os.write(3 - stream, b"%d between %d\\n" % (3 - stream, n))
        os.write(stream, line[cut:])
    if n % 40 == 0: time.sleep(.1)
os.write(1, b"1 no end")
"""


def written(seed: str) -> dict[int, list[bytes]]:
    """What a writer prints, line by line, to each stream."""
    chance = random.Random(seed)
    lines: dict[int, list[bytes]] = {1: [], 2: []}
    for n in range(2500):
        stream = chance.choice((1, 2))
        line = b"%d %d %s" % (stream, n, b"x" * chance.randrange(60))
        cut = chance.randrange(len(line) + 2) if n % 7 == 0 else len(line) + 1
        if cut < len(line) + 1:
            lines[3 - stream].append(b"%d between %d" % (3 - stream, n))
        lines[stream].append(line)
    lines[1].append(b"1 no end")
    return lines


def archived(folder: Path, name: str) -> list[bytes]:
    """All lines of a process, from the older files on."""
    data = b""
    for path in (*sorted(folder.glob(f"{name}.log.*")), folder / f"{name}.log"):
        with contextlib.suppress(FileNotFoundError):  # it has just been put aside
            data += path.read_bytes()
    return data.splitlines()


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


@pytest.mark.parametrize(("seed", "options"), [(11, ()), (12, ("--rotate-size=24k",)), (13, ("--acknowledge",))])
def test_each_line_is_there_once_whoever_is_killed(
    own_papad: Daemon, tmp_path: Path, seed: int, options: tuple[str, ...]
) -> None:
    """papactl and papad are killed at random while real processes print numbered lines."""
    chance, ctl, folder = random.Random(seed), Papactl(own_papad), tmp_path / "logs"
    names = [f"w.{n}" for n in range(3)]
    for name in names:
        ctl.out("make", "process", name, "--", sys.executable, "-S", "-c", WRITER, f"{seed} {name}")
    command = [*COMMAND, "archive", str(folder), "-o", "cat", *options, "w.*"]
    kills = {"papactl": 0, "papad": 0}

    def size() -> int:
        return sum(map(_size, folder.glob("w.*")))

    def complete() -> bool:
        return all(b"1 no end" in archived(folder, name) for name in names)

    while not complete():
        assert kills["papactl"] < 500
        with subprocess.Popen(command, env=environment(**ctl.env)) as popen, contextlib.ExitStack() as stack:
            stack.callback(popen.kill)
            while True:
                more = size() + chance.randrange(1, 6000)
                wait_until(lambda more=more: size() > more or complete(), "it writes something")  # type: ignore[misc]
                victim = chance.choice(("papactl", "papad"))
                with contextlib.suppress(ProcessLookupError, ValueError):
                    os.kill(popen.pid if victim == "papactl" else own_papad.pid, signal.SIGKILL)
                    kills[victim] += 1
                if victim == "papactl":
                    break
    ctl.out("archive", str(folder), "-o", "cat", *options, "--once")
    for name in names:
        lines, expected = archived(folder, name), written(f"{seed} {name}")
        for stream in (1, 2):
            assert [line for line in lines if line.startswith(b"%d " % stream)] == expected[stream]
        assert len(lines) == sum(map(len, expected.values()))
        if "24k" in "".join(options):
            assert len(list(folder.glob(f"{name}.log.*"))) >= 3
            assert all(path.stat().st_size <= 24 << 10 for path in folder.glob(f"{name}.log*"))
    if "--acknowledge" in options:
        assert ctl.out("list", "processes") == ""
    assert min(kills.values()) > 3
    print(f"seed {seed}: {kills}")


def test_lines_have_time_and_name_and_the_end(ctl: Papactl, tmp_path: Path) -> None:
    ctl.runs("web/1", "echo one; exit 3")
    assert ctl.out("archive", str(tmp_path / "new" / "logs"), "--once", "--utc") == ""
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"
    text = (tmp_path / "new" / "logs" / "web%2F1.log").read_text()
    assert re.fullmatch(rf"{time} web/1: one\n{time} web/1: -- ended with exit code 3 --\n", text)
    assert ctl.out("archive", str(tmp_path / "new" / "logs"), "--once", "--utc") == ""
    assert (tmp_path / "new" / "logs" / "web%2F1.log").read_text() == text
    assert ctl.described("web/1")["acknowledged"] == 0


def test_a_name_that_is_used_again_goes_on_in_its_file(ctl: Papactl, tmp_path: Path) -> None:
    for text in ("one", "two"):
        ctl.runs("p", f"echo {text}")
        ctl.out("archive", str(tmp_path), "--once", "-o", "cat")
        ctl.out("remove", "process", "p")
    assert (tmp_path / "p.log").read_text() == "one\ntwo\n"


def test_only_so_many_older_files_are_kept(ctl: Papactl, tmp_path: Path) -> None:
    for n in range(6):
        ctl.runs(f"p.{n}", f"echo {n}")
        ctl.runs("q", f"echo {n}")
        ctl.out("archive", str(tmp_path), "--once", "-o", "cat", "--rotate-size", "1", "--keep", "2")
        ctl.out("remove", "process", "q")
    assert archived(tmp_path, "q") == [b"3", b"4", b"5"]
    assert len(list(tmp_path.glob("p.*"))) == 6


def test_it_rotates_by_time_when_there_is_something_to_write(ctl: Papactl, tmp_path: Path) -> None:
    for text in ("one", "two"):
        ctl.runs("p", f"echo {text}")
        ctl.out("archive", str(tmp_path), "--once", "-o", "cat", "--rotate-time", "0.001")
        ctl.out("remove", "process", "p")
    (older,) = tmp_path.glob("p.log.*")
    assert (older.read_text(), (tmp_path / "p.log").read_text()) == ("one\n", "two\n")


def test_sigterm_ends_it_in_order_and_it_writes_as_it_goes(ctl: Papactl, tmp_path: Path) -> None:
    with ctl.running("archive", str(tmp_path), "-o", "cat") as popen:
        ctl.out("make", "process", "later", "--", "/bin/sh", "-c", "echo here; exec sleep 600")
        wait_until(lambda: (tmp_path / "later.log").exists() and (tmp_path / "later.log").read_text() == "here\n", "it")
        popen.terminate()
        assert popen.wait(10) == 0
        assert popen.communicate() == (b"", b"")


def test_one_directory_is_for_one_papactl(ctl: Papactl, tmp_path: Path) -> None:
    with ctl.running("archive", str(tmp_path)):
        ctl.runs("p", "echo hi")
        wait_until((tmp_path / "p.log").exists, "it writes")
        said = f"papactl: another papactl archives to {tmp_path}; give each a directory of its own\n"
        assert ctl("archive", str(tmp_path), "--once") == (1, "", said)


def test_lost_bytes_are_told(ctl: Papactl, tmp_path: Path) -> None:
    ctl.out("make", "process", "p", "--bufsize", "100", "--", "/bin/sh", "-c", "seq 1000 1099")
    ctl.ends("p")
    assert ctl("archive", str(tmp_path), "--once", "-o", "cat") == (0, "", "papactl: p: 400 bytes lost\n")
    assert ctl("archive", str(tmp_path), "--once", "-o", "cat") == (0, "", "")
    assert (tmp_path / "p.log").read_text() == "".join(f"{n}\n" for n in range(1080, 1100))


def test_a_directory_that_cannot_be_used_is_an_error(ctl: Papactl, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = f"papactl: cannot use the directory {tmp_path}/file: "
    assert ctl("archive", f"{tmp_path}/file").err == said + "File exists\n"
    assert ctl("archive", f"{tmp_path}/file/x").err == said.replace("file:", "file/x:") + "Not a directory\n"
    assert ctl("archive", str(tmp_path), "--once", "nobody") == (1, "", not_found("nobody"))


@pytest.mark.parametrize("name", ["p.log", ".p.log.state"])
def test_a_link_in_the_directory_leads_it_to_no_other_file(ctl: Papactl, tmp_path: Path, name: str) -> None:
    """Whoever may write to the directory could make root write to any file."""
    (tmp_path / "other").write_text("other\n")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / name).symlink_to(tmp_path / "other")
    ctl.runs("p", "echo one")
    done = ctl("archive", str(tmp_path / "logs"), "--once")
    assert (done.status, done.out) == (1, "")
    assert done.err == f"papactl: cannot write to {tmp_path}/logs/{name}: it is a link\n"
    assert (tmp_path / "other").read_text() == "other\n"


def test_what_is_in_the_files_may_be_acknowledged(ctl: Papactl, tmp_path: Path) -> None:
    ctl.runs("p", "seq 20000")
    ctl.out("make", "process", "q", "--", "/bin/sh", "-c", "echo up; printf name:; exec sleep 600")
    wait_until(lambda: ctl.described("q")["captured"] == 8, "it asks")
    assert ctl.out("archive", str(tmp_path), "--once", "--acknowledge", "-o", "cat") == ""
    assert ctl.out("list", "processes", "p") == "", "it is forgotten"
    assert archived(tmp_path, "p") == [b"%d" % n for n in range(1, 20001)]
    assert ctl.described("q")["buffered"] == 8, "not what a line that has not ended is among"
    os.kill(ctl.described("q")["pid"], signal.SIGTERM)
    ctl.ends("q")
    with ctl.running("archive", str(tmp_path), "--acknowledge", "-o", "cat") as popen:
        wait_until(lambda: not ctl.out("list", "processes", "q"), "it is acknowledged in passing")
        popen.terminate()
        assert popen.wait(10) == 0
    assert (tmp_path / "q.log").read_text() == "up\nname:\n"


WRONG = {
    "": "archive needs the directory to write to\nTry: papactl archive /var/log/web --rotate-size 10m --keep 5 'web.*'",
    "x --json": "archive has no --json; use -o json",
    "x --rotate-size 0": "--rotate-size must be a number of bytes, perhaps with k, m or g, not '0'",
    "x --rotate-size 1.5m": "--rotate-size must be a number of bytes, perhaps with k, m or g, not '1.5m'",
    "x --rotate-time soon": "invalid duration: 'soon'\nTry: 90, 30s, 15min, 12h, 1d, '1h 30min'",
    "x --rotate-time 0": "--rotate-time must be more than nothing, not '0'",
    "x --keep 0 --rotate-size 1k": "--keep must be a number from 1 on, not '0'",
    "x --keep 3": "--keep needs --rotate-size or --rotate-time",
    "x -f": "unknown option -f\npapactl help archive lists its options",
    "-H a -H b x": "archive in this form works with one host only",
}


@pytest.mark.parametrize("typed", WRONG)
def test_wrong_turns(typed: str) -> None:
    assert papactl("archive", *typed.split(), PAPAD_SOCKET="/nonexistent") == (
        2,
        "",
        f"papactl: error: {WRONG[typed]}\n",
    )
