"""The file of a Unix socket: at no instant more open, or another's, than was asked for, whoever owns the folder."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import stat
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from papad.daemon.tables.nodes import bind_path, unlink
from papad.errors import Error
from tests.support.papad import child_as, dies_at, in_child, no_new_fds, open_to_all

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, or become another user")
USER = 64001


@pytest.fixture(autouse=True)
def nothing_but_files_is_left(tmp_path: Path) -> Iterator[None]:
    """Neither a descriptor nor another umask."""
    open_to_all(tmp_path)
    before = os.umask(0o027)
    with no_new_fds():
        yield
    assert os.umask(before) == 0o027


def bound(path: Path, umask: int | None = None, kind: type[socket.socket] = socket.socket, **wanted: Any) -> None:
    """Bind a socket that is closed at once."""
    with kind(socket.AF_UNIX) as sock:
        bind_path(sock, str(path), umask, **wanted)


def facts(path: Path) -> tuple[int, int, int]:
    """Mode, user and group."""
    status = path.lstat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def as_user(act: Callable[[], object], groups: tuple[int, ...] = ()) -> None:
    """Run in a child of another user."""

    def child() -> None:
        os.setgroups(groups)
        os.setgid(USER)
        os.setuid(USER)
        act()

    assert in_child(child) == 0


WANTED: list[tuple[dict[str, Any], tuple[int, int, int]]] = [
    ({}, (0o750, 0, 0)),
    ({"umask": 0o007}, (0o770, 0, 0)),
    ({"mode": 0o660}, (0o660, 0, 0)),
    ({"mode": 0}, (0, 0, 0)),
    ({"owner": (USER, -1)}, (0o750, USER, 0)),
    ({"owner": (-1, USER), "umask": 0o007}, (0o770, 0, USER)),
    ({"mode": 0o606, "owner": (USER, 33)}, (0o606, USER, 33)),
]


@only_root
@pytest.mark.parametrize(("wanted", "expected"), WANTED)
def test_the_file_has_the_mode_and_the_owner_that_are_wanted(
    tmp_path: Path, wanted: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as client:
        node = bind_path(sock, str(path), wanted.pop("umask", None), **wanted)
        assert facts(path) == expected
        assert node == (path.stat().st_dev, path.stat().st_ino)
        assert sock.getsockname() == str(path), "as programs print it, or unlink it"
        sock.listen()
        client.connect(str(path))
    unlink(str(path), (node[0], node[1] + 1))
    assert path.exists(), "it is another's"
    unlink(str(path), node)
    assert not path.exists()


@only_root
@pytest.mark.parametrize("how", ["root", "root, with a default ACL", "user"])
def test_killed_at_any_step_the_file_is_open_to_nobody_or_as_was_asked_and_the_next_replaces_it(
    tmp_path: Path, how: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    if "ACL" in how:
        entries = ((1, 7), (4, 7), (0x20, 7))  # its user, its group and all others: rwx
        acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry, 0xFFFFFFFF) for entry in entries)
        os.setxattr(folder, "system.posix_acl_default", acl)
    path, wanted = folder / "s", {"mode": 0o660} if how == "user" else {"mode": 0o660, "owner": (USER, 33)}
    calls = [(socket.socket, "bind"), (os, "umask"), (os, "chown"), (os, "chmod"), (os, "open")]

    def steps() -> None:
        seen, step = set(), 0
        while dies_at(step, calls, lambda: bound(path, **wanted)):
            seen.add(facts(path) if path.exists() else None)
            bound(path, **wanted)
            path.unlink()
            step += 1
        owner = (USER, USER) if how == "user" else (USER, 33)
        bare = {(0, *owner)} if how == "user" else {(0, 0, 0), (0, *owner)}
        assert seen == {None, *bare, (0o660, *owner)}
        assert step > 10

    if how == "user":
        os.chown(folder, USER, USER)
        as_user(steps)
    else:
        steps()


@only_root
def test_one_that_is_served_but_closed_to_all_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    os.chown(tmp_path, USER, USER)

    def user() -> None:
        with socket.socket(socket.AF_UNIX) as served:
            bind_path(served, str(path), None, mode=0)
            served.listen()
            with pytest.raises(Error, match="is in use by another socket"):
                bound(path)
        assert facts(path) == (0, USER, USER)
        bound(path, mode=0o600)
        assert facts(path) == (0o600, USER, USER)

    as_user(user)


@only_root
def test_who_is_not_root_may_choose_a_group_of_theirs_and_nothing_is_left_of_what_they_may_not(tmp_path: Path) -> None:
    os.chown(tmp_path, USER, USER)
    path = tmp_path / "s"

    def user() -> None:
        bound(path, mode=0o660, owner=(-1, 33))
        assert facts(path) == (0o660, USER, 33)
        path.unlink()
        for owner, who in (((0, -1), "0"), ((-1, 34), ":34"), ((34, 34), "34:34")):
            with pytest.raises(Error) as caught, no_new_fds():
                bound(path, mode=0o660, owner=owner)
            assert str(caught.value) == (
                f"Cannot make {who} the owner of {path}: Operation not permitted;"
                " only root may choose it, others may choose a group of theirs"
            )
            assert not os.path.lexists(path)

    as_user(user, (33,))


SWAPS: dict[str, Callable[[Path, Path], object]] = {
    "a link to a file": lambda path, victim: path.symlink_to(victim),
    "a hard link": lambda path, victim: path.hardlink_to(victim),
    "a file itself": lambda path, victim: victim.rename(path),
    "nothing": lambda path, victim: None,
}


@only_root
@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("victim", ["file", "socket"])
def test_who_owns_the_folder_cannot_have_mode_and_owner_given_to_another_file(
    tmp_path: Path, swap: str, victim: str
) -> None:
    """At the worst moment, right after bind."""
    path, other = tmp_path / "s", tmp_path / "other"
    if victim == "file":
        other.write_text("precious")
        other.chmod(0o600)
    else:
        bound(other, 0o177)
    inode = other.stat().st_ino

    class Swapping(socket.socket):
        def bind(self, address: Any) -> None:
            super().bind(address)
            path.rename(tmp_path / "away")
            SWAPS[swap](path, other)

    with pytest.raises(Error, match=f"at {path} there is another file than was made there"):
        bound(path, None, Swapping, mode=0o666, owner=(USER, USER))
    found = next(each for each in (other, path) if os.path.lexists(each) and each.lstat().st_ino == inode)
    assert facts(found) == (0o600, 0, 0)
    assert facts(tmp_path / "away") == (0, 0, 0)


@only_root
def test_who_really_exchanges_it_all_the_time_gets_no_other_file(tmp_path: Path) -> None:
    folder, victims = tmp_path / "theirs", tmp_path / "victims"
    for each in (folder, victims):
        each.mkdir()
    (victims / "file").write_text("precious")
    (victims / "file").chmod(0o600)
    bound(victims / "socket", 0o177)
    os.chown(folder, USER, USER)

    def exchange() -> None:
        os.chdir(folder)
        for turn in itertools.count():
            with contextlib.suppress(OSError):
                os.symlink(victims / ("file", "socket")[turn % 2], "link")
            with contextlib.suppress(OSError):
                os.rename("link" if turn % 3 else "s", "s" if turn % 3 else "away")

    outcomes: Counter[str] = Counter()
    deadline = time.monotonic() + 30
    with child_as(USER, exchange):
        while outcomes.total() < 2000 or not (outcomes["made"] and outcomes["exchanged"]):
            assert time.monotonic() < deadline, outcomes
            try:
                bound(folder / "s", mode=0o666, owner=(USER, USER))
                outcomes["made"] += 1
            except Error as error:
                outcomes["exchanged" if "another file than was made" in str(error) else "refused"] += 1
    assert (facts(victims / "file"), facts(victims / "socket")) == ((0o600, 0, 0), (0o600, 0, 0))
    assert sorted(os.listdir(victims)) == ["file", "socket"]


@only_root
def test_what_comes_into_its_place_after_it_was_looked_at_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "s", tmp_path / "other"
    other.write_text("precious")
    other.chmod(0o600)
    original = os.chown

    def swapping(*args: Any, **kwargs: Any) -> None:
        path.rename(tmp_path / "away")
        path.symlink_to(other)
        original(*args, **kwargs)

    monkeypatch.setattr(os, "chown", swapping)
    bound(path, mode=0o666, owner=(USER, USER))
    assert facts(other) == (0o600, 0, 0)
    assert facts(tmp_path / "away") == (0o666, USER, USER)


@only_root
@pytest.mark.parametrize("wanted", [{}, {"mode": 0o666, "owner": (USER, USER)}])
def test_a_path_that_leads_elsewhere_while_it_is_bound_is_refused(tmp_path: Path, wanted: dict[str, Any]) -> None:
    theirs, victim = tmp_path / "theirs", tmp_path / "victim"
    theirs.mkdir()
    victim.mkdir()

    class Swapping(socket.socket):
        def bind(self, address: Any) -> None:
            theirs.rename(tmp_path / "away")
            theirs.symlink_to(victim)
            super().bind(address)

    with pytest.raises(Error, match="there is another file than was made there"):
        bound(theirs / "s", None, Swapping, **wanted)
    assert os.listdir(tmp_path / "away") == []
    with contextlib.suppress(FileNotFoundError):
        assert facts(victim / "s") == (0 if wanted else 0o750, 0, 0), "what docs/security.md says may be there"


PATHS = {
    "/no/such/folder/s": "[Errno 2] No such file or directory",
    "/dev/null/s": "[Errno 20] Not a directory",
    "/tmp/" + "x" * 200: "AF_UNIX path too long",
    "/tmp/a\0b": "embedded null byte",
}


@pytest.mark.parametrize("path", PATHS)
def test_what_cannot_be_a_path_is_one_error_as_of_old(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(Error) as caught:
        bind_path(sock, path, 0o077, mode=0o600)
    assert str(caught.value) == f"Bind failed: {PATHS[path]}"
