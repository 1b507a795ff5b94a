"""Managed sockets: every option, and every way to fail, which must leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from papad.daemon.tables import sockets as module
from papad.daemon.tables.sockets import FIRST_FILENO
from papad.errors import Error
from tests.support.homes import SocketsHome as Home
from tests.support.papad import in_child, no_new_fds


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
    before = (dict(home.vault.entries), home.store.kept.keys(), home.sockets.lines([]))
    with no_new_fds():
        yield
    assert (dict(home.vault.entries), home.store.kept.keys(), home.sockets.lines([])) == before


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
    home.sockets.remove(["x"])
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


def test_the_backlog_is_the_given_one(home: Home) -> None:
    made = home.make("x backlog=1")
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(socket.create_connection(("127.0.0.1", made.spec.port or 0), 5))
        with pytest.raises(TimeoutError):
            stack.enter_context(socket.create_connection(("127.0.0.1", made.spec.port or 0), 0.2))


REFUSED = {
    "x host=no.such.host.invalid": "Cannot resolve host",
    "x host=::1": "Cannot resolve host ::1",
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
    with socket.socket(socket.AF_INET, module.TYPES[kind]) as other:
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
    with socket.socket(socket.AF_UNIX, module.TYPES[kind]) as other:
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
    with socket.socket(socket.AF_UNIX, module.TYPES[kind]) as other:
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
    os.chmod(tmp_path, 0o755)
    for folder in tmp_path.parents[:2]:
        os.chmod(folder, 0o755)

    def stranger() -> None:
        os.setuid(65534)
        with pytest.raises(Error, match="Bind failed"), socket.socket(socket.AF_UNIX) as mine:
            module.bind_path(mine, path, None)

    assert in_child(stranger) == 0
    assert os.path.exists(path)


def test_removing_a_socket_leaves_what_stands_at_its_path_by_now(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "x"
    home.make(f"x path={path}")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        home.sockets.remove(["x"])
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
    home.sockets.remove(["b"])
    home.sockets.remove([str(FIRST_FILENO + 2)])
    home.restart()
    assert {each.name: each.fileno for each in home.sockets} == {"a": 64, "d": 67}
    assert [home.make(name).fileno for name in "efg"] == [65, 66, 68]


def test_the_limit_is_said(home: Home) -> None:
    home.store.max_sockets = 2
    home.make("a")
    home.make("b")
    with pytest.raises(Error, match="The limit of 2 sockets is reached"):
        home.make("c")
    home.sockets.remove(["a"])
    home.make("c")


@pytest.mark.parametrize("broken", ["store", "vault"])
def test_what_cannot_be_kept_is_not_made(home: Home, tmp_path: Path, broken: str) -> None:
    home.make("before")
    kept = home.store.kept.keys()
    with no_new_fds():
        if broken == "store":
            home.store.refusing = Error("the store is full")
        else:
            home.vault._append = lambda *_: (_ for _ in ()).throw(OSError(28, "full"))  # type: ignore[method-assign]
        with pytest.raises((Error, OSError), match="full"):
            home.make(f"x path={tmp_path}/x umask=0")
    assert not (tmp_path / "x").exists()
    assert home.store.kept.keys() == kept
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
    home.sockets.remove([])
    home.restart()
    assert len(home.sockets) == 0
    assert not (tmp_path / "b").exists()
    assert [name for name in home.store.kept if name.startswith("socket")] == []


@pytest.mark.parametrize("missing", ["socket", "record", "damaged"])
def test_a_socket_that_cannot_be_recovered_is_dropped_alone(home: Home, missing: str) -> None:
    for name in "abc":
        home.make(name)
    if missing == "socket":
        home.store.unstore(home.sockets.get("b").entry)
    elif missing == "record":
        home.vault.erase("socket:b")
    else:
        home.vault.write("socket:b", {"spec": {"nonsense": 1}})
    home.restart()
    assert [each.name for each in home.sockets] == ["a", "c"]
    assert "socket:b" not in home.vault.entries
    assert list(home.store.stored) == ([] if missing == "socket" else [module.socket_entry(65, "b")])
    home.store.discard(home.store.stored)
    home.make("b")


def test_something_stored_that_is_no_socket_is_dropped_alone(home: Home) -> None:
    made = home.make("a")
    home.make("b")
    home.store.unstore(made.entry)
    fd = os.memfd_create("no-socket")
    home.store.store(made.entry, fd)
    os.close(fd)
    home.restart()
    assert [each.name for each in home.sockets] == ["b"]


def test_without_a_store_the_paths_are_cleaned_up_at_the_end(home: Home, tmp_path: Path) -> None:
    home.store.managed = False
    home.make(f"x path={tmp_path}/x")
    home.sockets.close()
    assert not (tmp_path / "x").exists()
