"""Managed sockets: every option, and every way to fail, which must leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from papad.daemon.tables import sockets as module
from papad.daemon.tables.nodes import InUse, bind_path
from papad.daemon.tables.sockets import FIRST_FILENO, specify
from papad.errors import Error
from tests.support.homes import SocketsHome as Home
from tests.support.homes import StoreHome
from tests.support.papad import in_child, no_new_fds, open_to_all

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """No test leaves another umask behind than it found."""
    before = os.umask(0o027)
    os.umask(0o027)
    yield
    assert os.umask(before) == 0o027


@pytest.fixture
def nothing_left(home: Home, tmp_path: Path) -> Iterator[None]:
    """After the body: no descriptor, no record, no store entry, no file more than before."""
    home.make("before port=0")
    before = (dict(home.store.entries), home.fd_store.kept.keys(), home.sockets.lines([]))
    with no_new_fds():
        yield
    assert (dict(home.store.entries), home.fd_store.kept.keys(), home.sockets.lines([])) == before


def test_a_tcp_socket_has_all_defaults_and_listens(home: Home) -> None:
    made = home.make("web")
    assert str(made) == f"web family=inet type=stream backlog=5 host=127.0.0.1 port={made.spec.port} fileno=64"
    with socket.create_connection(("127.0.0.1", made.spec.port or 0), 5), made.sock.accept()[0]:
        pass


def test_the_line_of_a_unix_socket_and_its_umask(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    made = home.make(f"x path={path} umask=18 backlog=9")
    assert str(made) == f"x family=unix type=stream backlog=9 path={path} umask=18 fileno=64"
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert os.umask(0o027) == 0o027
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    home.remove("x")
    assert not path.exists()


@only_root
def test_the_line_of_a_unix_socket_with_mode_and_owner_and_that_a_restart_keeps_both(
    home: Home, tmp_path: Path
) -> None:
    path = tmp_path / "x.sock"
    user = pwd.getpwnam("www-data")
    made = home.make(f"x path={path} mode=660 owner=www-data:")
    line = f"x family=unix type=stream backlog=5 path={path} mode=0660 owner={user.pw_uid}:{user.pw_gid} fileno=64"
    assert str(made) == line
    status = path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o660, user.pw_uid, user.pw_gid)
    home.restart()
    assert home.sockets.lines([]) == [line]
    again = home.sockets.get("x")
    for words in ("mode=0660 owner=www-data:www-data", f"mode=0660 owner=0{user.pw_uid}:", "mode=660 owner=www-data:"):
        assert home.make(f"x path={path} {words}") is again, "a name and a number mean the same user"
    for words in ("mode=0600 owner=www-data:", "mode=0660 owner=www-data", "mode=0660", "owner=www-data:", "umask=7"):
        with pytest.raises(Error, match=f"Socket for x has already been created - {re.escape(line)}"):
            home.make(f"x path={path} {words}")
    home.remove("x")
    assert not path.exists()


@pytest.mark.parametrize("kind", ["stream", "dgram", "seqpacket"])
def test_unix_sockets_of_every_type_work(home: Home, tmp_path: Path, kind: str) -> None:
    made = home.make(f"x path={tmp_path}/x type={kind}")
    with socket.socket(socket.AF_UNIX, made.sock.type) as client:
        client.connect(str(tmp_path / "x"))
        client.send(b"hello")
        with made.sock if kind == "dgram" else made.sock.accept()[0] as end:
            assert end.recv(10) == b"hello"


@pytest.mark.parametrize(
    ("line", "host"), [("x family=inet6", "::1"), ("x family=inet6 interface=lo", "::"), ("x interface=lo", "0.0.0.0")]
)
@pytest.mark.parametrize("kind", ["stream", "dgram"])
def test_families_types_and_interfaces_combine(home: Home, line: str, host: str, kind: str) -> None:
    made = home.make(f"{line} type={kind}")
    assert made.spec.host == host
    family = socket.AF_INET6 if "inet6" in line else socket.AF_INET
    with socket.socket(family, made.sock.type) as client:
        client.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", made.spec.port))
        client.send(b"hello")
        with made.sock if kind == "dgram" else made.sock.accept()[0] as end:
            assert end.recv(10) == b"hello"


@pytest.mark.parametrize(
    ("options", "family"),
    [("host=::1", "inet6"), ("host=::", "inet6"), ("host=127.0.0.1", "inet"), ("host=localhost", "inet"), ("", "inet")],
)
def test_an_ipv6_address_makes_the_family(options: str, family: str) -> None:
    given = dict(pair.split("=") for pair in options.split())
    assert specify(given).family == family
    assert specify(given | {"family": "inet"}).family == "inet"


def test_an_automatic_backlog_is_large_for_a_new_socket_and_any_for_one_that_is_there(home: Home) -> None:
    made = home.make("x backlog=auto")
    assert made.spec.backlog == 4096
    assert home.make("x backlog=auto") is home.make("x backlog=4096") is made
    with pytest.raises(Error, match="already been created"):
        home.make("x")  # the original's default, 5
    small = home.make("y")
    assert home.make("y backlog=auto") is small
    assert small.spec.backlog == 5


def test_the_backlog_is_the_given_one(home: Home) -> None:
    made = home.make("x backlog=1")
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(socket.create_connection(("127.0.0.1", made.spec.port or 0), 5))
        with pytest.raises(TimeoutError):
            stack.enter_context(socket.create_connection(("127.0.0.1", made.spec.port or 0), 0.2))


REFUSED = {
    "x host=no.such.host.invalid": "Cannot resolve host",
    "x host=::1 family=inet": "Cannot resolve host ::1",
    "x family=inet6 host=127.0.0.1": "Cannot resolve host",
    "x host=192.0.2.1": "Bind failed on 192.0.2.1:0",
    "x interface=nowhere0": "There is no interface nowhere0; there are: .*lo",
    "x type=rdm": "Cannot make a inet socket of type rdm",
    "x type=raw": "Cannot make a inet socket of type raw",
    "x family=unix": "Absolute path required",
    "x path=relative": "Absolute path required",
    "x path=/tmp/": "Absolute path required",
    "x path=/no/such/dir/x": "Bind failed",
    "x path=/tmp/x family=inet": "path is for Unix sockets",
    "x path=/tmp/x port=5": "A Unix socket has no port",
    "x path=/tmp/x reuseport=1": "A Unix socket has no reuseport",
    "x path=/tmp/" + "x" * 200: "Bind failed",
    "x path=/tmp/x\0y umask=7": "Error|path|NUL|Bind failed",
    "x host=127.0.0.1\0x": "Cannot resolve host|NUL",
    "x interface=lo\0": "There is no interface|NUL",
    "x path=/tmp/never mode=0660 umask=7": "mode= and umask= both say who may connect; leave one of them out",
    "x path=/tmp/never mode=0860": 'mode must be an octal number from 0 to 0777, such as 0660, not "0860"',
    "x path=/tmp/never mode=1777": "mode must be an octal number from 0 to 0777",
    "x path=/tmp/never mode=": "mode must be an octal number from 0 to 0777",
    "x path=/tmp/never owner=:": "owner must be USER, USER:GROUP, USER: or :GROUP, by name or number, not",
    "x path=/tmp/never owner=a:b:c": "owner must be USER, USER:GROUP",
    "x path=/tmp/never owner=4294967295": "owner must be USER, USER:GROUP",
    "x path=/tmp/never owner=nosuchuser": "'nosuchuser' is not a valid user name",
    "x path=/tmp/never owner=-1": "'-1' is not a valid user name",
    "x path=/tmp/never owner=:nosuchgroup": "No such group: 'nosuchgroup'",
    "x path=/tmp/never owner=4711:": "User 4711 has no group of its own; write owner=4711:GROUP",
    "x mode=0660": "mode is for Unix sockets; leave it out or give a path=",
    "x owner=nobody": "owner is for Unix sockets; leave it out or give a path=",
    "x type=rdm path=/tmp/never": "Cannot make a unix socket of type rdm",
}


@pytest.mark.parametrize("line", REFUSED, ids=repr)
@pytest.mark.usefixtures("nothing_left")
def test_what_cannot_be_made_is_one_clear_error(home: Home, line: str) -> None:
    with pytest.raises(Error, match=REFUSED[line]):
        home.make(line)
    assert not os.path.lexists("/tmp/never")


@pytest.mark.parametrize("kind", ["stream", "dgram"])
@pytest.mark.usefixtures("nothing_left")
def test_a_port_in_use_is_refused(home: Home, kind: str) -> None:
    with socket.socket(socket.AF_INET, module.TYPE[kind]) as other:
        other.bind(("127.0.0.1", 0))
        if kind == "stream":
            other.listen()
        for option in ("", " reuseport=1"):
            with pytest.raises(Error, match=r"Bind failed on 127\.0\.0\.1"):
                home.make(f"x type={kind} port={other.getsockname()[1]}{option}")


@pytest.mark.parametrize("kind", ["stream", "dgram", "seqpacket"])
@pytest.mark.usefixtures("nothing_left")
def test_a_live_socket_at_the_path_is_never_taken_over(home: Home, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "live"
    with socket.socket(socket.AF_UNIX, module.TYPE[kind]) as other:
        other.bind(str(path))
        if kind != "dgram":
            other.listen()
        inode = path.stat().st_ino
        for mine in ("stream", "dgram", "seqpacket"):
            with pytest.raises(Error, match="is in use by another socket"):
                home.make(f"x path={path} type={mine} umask=0")
        assert path.stat().st_ino == inode


@pytest.mark.usefixtures("nothing_left")
def test_a_live_socket_with_a_full_backlog_is_not_taken_over(home: Home, tmp_path: Path) -> None:
    path = str(tmp_path / "live")
    with socket.socket(socket.AF_UNIX) as other, contextlib.ExitStack() as stack:
        other.bind(path)
        other.listen(0)
        with pytest.raises(BlockingIOError):
            while True:
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(path)
        with pytest.raises(Error, match="is in use"):
            home.make(f"x path={path}")


@pytest.mark.parametrize("what", ["file", "directory", "link", "dangling link"])
@pytest.mark.usefixtures("nothing_left")
def test_anything_else_at_the_path_is_left_alone(home: Home, tmp_path: Path, what: str) -> None:
    path, file = tmp_path / "x", tmp_path / "file"
    file.write_text("precious")
    if what == "directory":
        path.mkdir()
    elif what == "file":
        path.write_text("precious")
    else:
        path.symlink_to(file if what == "link" else tmp_path / "nothing")
    with pytest.raises(Error, match=r"is not a socket; it is left alone"):
        home.make(f"x path={path}")
    assert os.path.lexists(path)
    assert file.read_text() == "precious"


@pytest.mark.parametrize("kind", ["stream", "dgram", "seqpacket"])
def test_a_stale_socket_file_is_replaced(home: Home, tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "stale")
    with socket.socket(socket.AF_UNIX, module.TYPE[kind]) as other:
        other.bind(path)
    home.make(f"x path={path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not unlink")
def test_a_stale_socket_that_may_not_be_unlinked_is_one_clear_error(tmp_path: Path) -> None:
    path = str(tmp_path / "stale")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
    os.chmod(path, 0o777)
    open_to_all(tmp_path)

    def stranger() -> None:
        os.setuid(65534)
        with pytest.raises(Error, match="Bind failed"), socket.socket(socket.AF_UNIX) as mine:
            bind_path(mine, path, None)

    assert in_child(stranger) == 0
    assert os.path.exists(path)


def test_removing_a_socket_leaves_what_stands_at_its_path_by_now(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "x"
    home.make(f"x path={path}")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        home.remove("x")
        assert path.exists()


def test_the_same_name_with_the_same_options_is_the_same_socket(home: Home) -> None:
    first = home.make("x")
    assert home.make("x") is first
    assert home.make(f"x port={first.spec.port}") is first
    with pytest.raises(Error, match=f"Socket for x has already been created - {first}"):
        home.make("x backlog=6")


def test_the_same_path_under_another_name_is_refused(home: Home, tmp_path: Path) -> None:
    home.make(f"x path={tmp_path}/x")
    with pytest.raises(Error, match="already been created"):
        home.make(f"y path={tmp_path}/x")


def test_file_numbers_are_the_lowest_free_and_never_change(home: Home) -> None:
    for name in "abcd":
        home.make(name)
    home.remove("b")
    home.remove(str(FIRST_FILENO + 2))
    home.restart()
    assert {each.name: each.fileno for each in home.sockets} == {"a": 64, "d": 67}
    assert [home.make(name).fileno for name in "efg"] == [65, 66, 68]


def test_the_limit_is_said(home: Home) -> None:
    home.sockets._limit = 2
    home.make("a")
    home.make("b")
    with pytest.raises(Error, match="The limit of 2 sockets is reached"):
        home.make("c")
    home.remove("a")
    home.make("c")


@pytest.mark.parametrize("broken", ["homes", "store"])
def test_what_cannot_be_kept_is_not_made(
    home: Home, tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.make("before")
    kept, entries = home.fd_store.kept.keys(), dict(home.store.entries)

    def full(*_: object) -> int:
        raise OSError(28, "full")

    with no_new_fds():
        if broken == "homes":
            home.fd_store.refusing = Error("the store is full")
        else:
            monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises((Error, OSError), match="full"):
            home.make(f"x path={tmp_path}/x umask=0")
    assert not (tmp_path / "x").exists()
    assert home.fd_store.kept.keys() == kept
    assert home.store.entries == entries
    assert len(home.sockets) == 1


def test_a_restart_brings_back_the_very_same_sockets(home: Home, tmp_path: Path) -> None:
    for line in ("a", f"b path={tmp_path}/b umask=7", "c type=dgram", "d reuseport=1", "caf\u00e9:x interface=lo"):
        home.make(line)
    before = {str(each): os.fstat(each.sock.fileno()).st_ino for each in home.sockets}
    with socket.create_connection(("127.0.0.1", home.sockets.get("a").spec.port), 5) as client:
        client.sendall(b"waiting in the backlog")
        home.restart()
        assert {str(each): os.fstat(each.sock.fileno()).st_ino for each in home.sockets} == before
        with home.sockets.get("a").sock.accept()[0] as end:
            assert end.recv(100) == b"waiting in the backlog"
    home.remove()
    home.restart()
    assert len(home.sockets) == 0
    assert not (tmp_path / "b").exists()
    assert [name for name in home.fd_store.kept if name.startswith("socket")] == []


def test_a_removal_that_cannot_be_written_removes_nothing(home: Home, tmp_path: Path) -> None:
    home.make(f"x path={tmp_path}/x")

    def full(*_: object) -> int:
        raise OSError(28, "full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="full"):
            home.remove("x")
    assert (tmp_path / "x").exists()
    home.restart()
    assert [each.name for each in home.sockets] == ["x"]


@pytest.mark.parametrize("missing", ["socket", "entry"])
def test_a_socket_of_which_half_is_lost_is_dropped_alone(home: Home, missing: str) -> None:
    for name in "abc":
        home.make(name)
    if missing == "socket":
        home.homes.drop(home.sockets.get("b").held_as)
    else:
        home.store.erase("socket:b")
    home.restart()
    assert [each.name for each in home.sockets] == ["a", "c"]
    assert "socket:b" not in home.store.entries
    home.homes.settle(home.store.names)
    assert home.fd_store.kept.keys() == {"store", "socket-64-a", "socket-66-c"}
    assert home.make("b").fileno == 65


def test_something_stored_that_is_no_socket_is_dropped_alone(home: Home) -> None:
    made = home.make("a")
    home.make("b")
    home.homes.drop(made.held_as)
    fd = os.memfd_create("no-socket")
    home.homes.hold(made.held_as, fd)
    os.close(fd)
    home.restart()
    assert [each.name for each in home.sockets] == ["b"]
    assert home.fd_store.kept.keys() == {"store", "socket-65-b"}
    home.make("a")


ODD: dict[str, dict[str, Any]] = {
    "a spec of another kind": {"spec": {"nonsense": 1}},
    "no spec": {"spec": None},
    "a spec that is no dict": {"spec": 7},
    "a node of another kind": {"node": 7},
    "a node of another kind, and more": {"node": 7, "watched": [1]},
    "a fileno of another kind": {"fileno": [65]},
    "no fileno": {"fileno": None},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_socket_that_this_version_cannot_use_is_kept_until_one_that_can(
    home: Home, tmp_path: Path, odd: dict[str, Any]
) -> None:
    for line in ("a", f"b path={tmp_path}/b", "c"):
        home.make(line)
    inode = os.fstat(home.sockets.get("b").sock.fileno()).st_ino
    usable = {name: home.store.entries["socket:b"][name] for name in ("spec", "node", "fileno")}
    home.store.write("socket:b", odd)
    for again in range(2):
        home.restart()
        home.homes.settle(home.store.names)
        assert [each.name for each in home.sockets] == ["a", "c", "other0"][: 2 + again]
        for line in ("b", f"b path={tmp_path}/b", "b port=1 host=192.0.2.1"):
            with no_new_fds(), pytest.raises(Error, match=r"^b is kept for a papad that can use it; see papad's log$"):
                home.make(line)
        assert home.make(f"other{again}").fileno == 67 + again
        assert os.fstat(home.fd_store.kept["socket-65-b"]).st_ino == inode
        kept = [fd for name, (fd, _) in home.homes._held.items() if name == "socket-65-b"]
        assert [os.fstat(fd).st_ino for fd in kept] == [inode], "a new nursery would get it"
        os.close(kept[0])  # as the end of this papad does
    home.leave()
    home.fd_store = home.fd_store.next()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "b"))
        client.sendall(b"waiting in the backlog")
        StoreHome.begin(home)
        home.store.write("socket:b", usable)  # what an upgrade is able to read
        StoreHome.leave(home)
        home.fd_store = home.fd_store.next()
        home.begin()
        made = home.sockets.get("b")
        assert made is not None
        assert (made.fileno, os.fstat(made.sock.fileno()).st_ino) == (65, inode)
        with made.sock.accept()[0] as end:
            assert end.recv(100) == b"waiting in the backlog"
    home.remove("b")
    assert not (tmp_path / "b").exists()


def test_a_socket_that_the_nursery_has_no_room_to_pass_is_kept_for_the_next_start(home: Home) -> None:
    home.make("a")
    home.make("b")
    home.leave()
    entry = module.socket_entry(65, "b")
    home.fd_store.drop(entry)  # the FD store does not have it
    home.fd_store = home.fd_store.next()
    StoreHome.begin(home)
    home.homes.withheld.add(entry)
    home.sockets = module.Sockets(home.homes, home.store, 800)
    home.homes.settle(home.store.names)
    assert [each.name for each in home.sockets] == ["a"]
    assert home.store.entries["socket:b"]["fds"] == [entry]
    assert home.make("c").fileno == 66


def test_the_paths_are_cleaned_up_when_nothing_holds_the_sockets_any_more(home: Home, tmp_path: Path) -> None:
    home.make(f"x path={tmp_path}/x")
    home.make(f"y path={tmp_path}/y")
    (tmp_path / "y").unlink()
    (tmp_path / "y").write_text("another's")
    home.sockets.unlink()
    assert not (tmp_path / "x").exists()
    assert (tmp_path / "y").read_text() == "another's"


@pytest.mark.parametrize("when", ["it is made", "it is removed"])
def test_who_owns_a_folder_above_the_path_cannot_redirect_what_is_unlinked(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """At the worst moment, right after it was looked at, the folder becomes a symlink to another."""
    theirs, victim = tmp_path / "theirs", tmp_path / "victim"
    for folder in (theirs, victim):
        folder.mkdir()
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(folder / "x"))
    if when == "it is removed":
        home.make(f"s path={theirs}/x")
    original = os.stat

    def swapping(*args: Any, **kwargs: Any) -> os.stat_result:
        found = original(*args, **kwargs)
        if not os.path.lexists(tmp_path / "away"):
            theirs.rename(tmp_path / "away")
            theirs.symlink_to(victim)
        return found

    monkeypatch.setattr(os, "stat", swapping)
    if when == "it is made":
        with pytest.raises(Error, match="Bind failed"):
            home.make(f"s path={theirs}/x")
    else:
        asyncio.run(home.sockets.remove(["s"]))
    monkeypatch.undo()
    assert theirs.is_symlink()
    assert (victim / "x").is_socket()
    assert not (tmp_path / "away/x").exists()


@pytest.mark.parametrize("option", ["", "type=dgram", "reuseport=1", "type=dgram reuseport=1"])
def test_a_removal_waits_until_the_address_is_free_for_others(home: Home, option: str) -> None:
    port = home.make(f"x {option}".strip()).spec.port
    assert port is not None
    home.fd_store.closing = True

    async def main() -> float:
        began = time.monotonic()
        asyncio.get_running_loop().call_later(0.01, lambda: home.fd_store.kept)
        await home.sockets.remove(["x"])
        with socket.socket(type=socket.SOCK_DGRAM if "dgram" in option else socket.SOCK_STREAM) as other:
            other.bind(("127.0.0.1", port))
        return time.monotonic() - began

    assert asyncio.run(main()) >= 0.01


def test_an_address_that_is_about_to_be_closed_is_waited_for(home: Home) -> None:
    """systemd closes late what it was told to drop: see Service.closing."""
    port = home.make("x").spec.port
    assert port is not None
    home.fd_store.closing = True

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        await home.sockets.remove(["x"])  # waits, but not for good: processes may have it, too
        with pytest.raises(InUse):
            home.make(f"x port={port}")
        loop.call_later(0.1, lambda: home.fd_store.kept)
        made = [str(await home.sockets.make_once_free("x", specify({"port": port})))]
        loop.call_later(0.02, lambda: home.fd_store.kept)
        await home.sockets.remove(["x"])
        made.append(str(home.make(f"x port={port}")))
        return made

    assert asyncio.run(main()) == [f"x family=inet type=stream backlog=5 host=127.0.0.1 port={port} fileno=64"] * 2


def test_an_address_that_stays_in_use_is_not_waited_for(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(InUse, match=r"^Bind failed on 127\.0\.0\.1:"):
        asyncio.run(home.sockets.make_once_free("x", specify({"port": other.getsockname()[1]})))
