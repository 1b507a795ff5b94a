"""Log files and their state, killed at each system call. With real processes and kills at random: tests/ctl/test_archive.py."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest

from papad.ctl.cursor import Cursor, Reached
from papad.ctl.logfile import STATE, LogFile, Rotation, _State, file_name
from tests.support.papad import dies_at, no_new_fds

PIECES = [b"piece %d\n" % n for n in range(3)]
CALLS = [(os, name) for name in ("open", "write", "pwrite", "rename", "fsync", "unlink", "ftruncate")]
ID = 5
ROTATIONS = [Rotation(), Rotation(size=20), Rotation(size=1, keep=9)]


def go_on(folder: Path, rotation: Rotation) -> None:
    """Write the pieces that are not there yet, as far as the file itself says."""
    log = LogFile(str(folder), "p.log", {ID}, rotation)
    first = log.at.reached.get(ID, Reached()).out
    for n, piece in list(enumerate(PIECES))[first:]:
        log.write(piece, ID, Reached(n + 1, n + 1))
    log.close(sync=True)


def contents(folder: Path) -> bytes:
    older = sorted(folder.glob("p.log.*"))
    return b"".join(path.read_bytes() for path in (*older, folder / "p.log"))


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_killed_at_any_system_call_it_writes_each_piece_once(tmp_path: Path, rotation: Rotation) -> None:
    for step in itertools.count():
        folder = tmp_path / str(step)
        folder.mkdir()
        killed = dies_at(step, CALLS, lambda folder=folder: go_on(folder, rotation))  # type: ignore[misc]
        for second in itertools.count():  # and again at each of the calls that bring it in order
            again = tmp_path / f"{step}.{second}"
            shutil.copytree(folder, again)
            _same_inode(folder, again)
            killed_again = second < 6 and dies_at(second, CALLS, lambda again=again: go_on(again, rotation))  # type: ignore[misc]
            go_on(again, rotation)
            assert contents(again) == b"".join(PIECES), (step, second)
            if not killed_again:
                break
        if not killed:
            break
    assert step > 14


def _same_inode(folder: Path, copy: Path) -> None:
    """Have the state of a copy name the copy's file."""
    state, path = copy / ".p.log.state", folder / "p.log"
    found = _State.read(state.read_bytes()) if state.exists() else None
    if found is not None and path.exists() and found.inode == path.stat().st_ino:
        with open(state, "r+b") as file:
            found._replace(inode=(copy / "p.log").stat().st_ino).write(file.fileno())


@pytest.mark.parametrize("there", range(len(PIECES[1]) + 1))
def test_a_piece_that_is_there_in_part_is_written_again(tmp_path: Path, there: int) -> None:
    """SIGKILL may cut a write(2) of several pages, and so does a full disk."""

    def begin() -> None:
        log = LogFile(str(tmp_path), "p.log", {ID}, Rotation())
        log.write(PIECES[0], ID, Reached(1, 1))
        os.write = lambda fd, data: os._exit(0)  # type: ignore[assignment]
        log.write(PIECES[1], ID, Reached(2, 2))

    assert not dies_at(10**9, [], begin)
    with open(tmp_path / "p.log", "ab") as file:
        file.write(PIECES[1][:there])
    with no_new_fds():
        go_on(tmp_path, Rotation())
    assert contents(tmp_path) == b"".join(PIECES)


def test_what_papad_has_forgotten_is_left_as_it_is_and_ended(tmp_path: Path) -> None:
    """As after a power failure: the file may be shorter than its state says, and nobody has the rest."""
    log = LogFile(str(tmp_path), "p.log", {ID}, Rotation())
    log.write(PIECES[0], ID, Reached(1, 1))
    log.close()
    os.truncate(tmp_path / "p.log", 5)
    log = LogFile(str(tmp_path), "p.log", {ID + 1}, Rotation())
    log.write(PIECES[1], ID + 1, Reached(1, 1))
    log.close()
    assert contents(tmp_path) == b"piece\npiece 1\n"


def test_a_file_that_somebody_took_away_is_begun_anew(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path), "p.log", {ID}, Rotation())
    log.write(PIECES[0], ID, Reached(1, 1))
    log.close()
    (tmp_path / "p.log").rename(tmp_path / "elsewhere")
    go_on(tmp_path, Rotation())
    assert contents(tmp_path) == b"".join(PIECES[1:])


def test_a_damaged_state_is_as_none(tmp_path: Path) -> None:
    for data in (b"", b"\0" * 512, b"1 2 3\n", b"1 2 x 4 5=1/1 6\n", b"\xff"):
        (tmp_path / ".p.log.state").write_bytes(data)
        log = LogFile(str(tmp_path), "p.log", {ID}, Rotation())
        assert str(log.at) == ""
        log.close()


def test_the_longest_state_fits(tmp_path: Path) -> None:
    most = 10**19 - 1
    cursor = Cursor(f"{most}={most}/{most}/closed")
    with open(tmp_path / "state", "w+b") as file:
        written = _State(2**64, 1e10, cursor, most, cursor, most)
        written.write(file.fileno())
        data = os.pread(file.fileno(), 1000, 0)
    assert len(data) == 512
    found = _State.read(data)
    assert found is not None
    assert str(found.after) == str(cursor)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("web.1", "web.1.log"),
        ("a/b", "a%2Fb.log"),
        ("a%2Fb", "a%252Fb.log"),
        ("..", "%2E..log"),
        (".p.log.state", "%2Ep.log.state.log"),
        ("a\nb", "a%0Ab.log"),
        ("\udcff", "\udcff.log"),
        ("é", "é.log"),
    ],
)
def test_every_name_has_a_file_of_its_own(name: str, file: str) -> None:
    assert file_name(name) == file
    assert not STATE.fullmatch(file)


def test_long_names_have_files_too(tmp_path: Path) -> None:
    names = {file_name("é" * 200 + end) for end in "ab"}
    assert len(names) == 2
    for name in names:
        LogFile(str(tmp_path), name, {ID}, Rotation()).close()
