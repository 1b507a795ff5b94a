"""Where papad is, and how it is reached."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from papad.client import address
from papad.client.address import DEFAULT_PORT, Address, connected, find, for_people, usual_paths
from papad.errors import ConnectionLost, Error, Refused, Unreachable
from tests.support.papad import in_child, no_new_fds, open_to_all


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    with no_new_fds():
        yield


def test_it_finds_papad_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PAPAD_SOCKET", "/some/where")
    assert find() == "/some/where"
    monkeypatch.setenv("PAPAD_SOCKET", "1234")
    assert find() == 1234
    monkeypatch.delenv("PAPAD_SOCKET")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert find() in (DEFAULT_PORT, "/run/papad/papad.sock")
    (tmp_path / "papad.sock").touch()
    assert find() == str(tmp_path / "papad.sock")


@pytest.mark.parametrize("given", ["0", "65536", "9" * 5000])
def test_a_number_that_is_no_port_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("PAPAD_SOCKET", given)
    with pytest.raises(Unreachable, match=f"PAPAD_SOCKET must be a path, or a port from 1 to 65535, not {given}"):
        find()


def test_the_user_has_a_folder_where_the_environment_tells_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    assert usual_paths()[0] == f"/run/user/{os.getuid()}/papad.sock"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_of_the_paths_that_exist_the_first_counts_at_which_one_may_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="papad-") as folder:
        Path(folder).chmod(0o755)
        own, system, view = paths = [f"{folder}/{name}" for name in ("own", "system", "view")]
        monkeypatch.setattr(address, "usual_paths", lambda: paths)
        monkeypatch.delenv("PAPAD_SOCKET", raising=False)

        def stranger_finds(path: str) -> bool:
            def look() -> None:
                os.setuid(65534)
                assert find() == path

            return in_child(look) == 0

        assert find() == DEFAULT_PORT
        for path in (system, view):
            Path(path).touch(0o600)
        assert find() == system
        assert stranger_finds(system), "who may use none is told about the first"
        os.chown(view, 65534, -1)
        assert stranger_finds(view)
        Path(own).touch()
        Path(own).chmod(0o666)
        assert find() == own
        assert stranger_finds(own)


@pytest.mark.parametrize(("where", "text"), [("/a/b", "/a/b"), (1234, "127.0.0.1:1234"), (socket.socket, "papad")])
def test_people_are_told_where_it_is(where: Address, text: str) -> None:
    assert for_people(where) == text


def test_a_path_a_port_and_a_function_connect(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix.bind(path)
        unix.listen()
        with connected(path, 5) as sock:
            assert (sock.getpeername(), sock.gettimeout()) == (path, 5)
        with connected(tcp.getsockname()[1], None) as sock:
            assert (sock.getpeername(), sock.gettimeout()) == (tcp.getsockname(), None)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "small commands are not held back"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert connected(lambda: ours, 5) is ours


NOBODY: dict[str, tuple[str | int, str]] = {
    "nothing": ("/proc/nothing", r"at /proc/nothing: No such file"),
    "no socket": ("/dev/null", "Connection refused"),
    "no folder": ("/dev/null/s", "Not a directory"),
    "a path that is too long": ("/" + "x" * 200, "too long"),
    "no port": (65536, r"at 127\.0\.0\.1:65536: .*0-65535"),
}


@pytest.mark.parametrize("what", NOBODY)
def test_where_nobody_can_answer_it_says_why(what: str) -> None:
    where, why = NOBODY[what]
    with pytest.raises(Unreachable, match=f"papad does not answer .*{why}"):
        connected(where, 5)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("closed", ["s", "."])
def test_who_may_not_connect_hears_whose_it_is(tmp_path: Path, closed: str) -> None:
    """The group papad opens the system's papad only."""
    open_to_all(tmp_path)
    path, place = tmp_path / "s", (tmp_path / closed).resolve()

    def stranger() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(Refused) as caught:
            connected(str(path), 5)
        assert str(caught.value) == f"no permission to talk to papad at {path}: {place} belongs to root"
        assert not caught.value.membership

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        place.chmod(0o700)
        assert in_child(stranger) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_members_of_the_group_may_use_that_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_to_all(tmp_path)
    monkeypatch.setattr(address, "SYSTEM", str(tmp_path / "s"))

    def stranger() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(Refused, match=r"; members of the group papad have it$") as caught:
            connected(address.SYSTEM, 5)
        assert caught.value.membership

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        (tmp_path / "s").chmod(0o660)
        assert in_child(stranger) == 0


def test_what_cannot_be_a_path_is_an_error() -> None:
    with pytest.raises(Error, match=r"^'/\\ud800' cannot be the path of papad's socket: .*surrogates not allowed"):
        connected("/\ud800", 1)


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_a_queue_that_is_full_is_no_absent_papad(tmp_path: Path, timeout: float) -> None:
    """Who would start one where something listens?"""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        with connected(path, 5), pytest.raises(ConnectionLost, match="too busy"):
            connected(path, timeout)
