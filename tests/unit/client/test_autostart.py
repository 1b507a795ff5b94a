"""How papad is started: by whom, with what, and one at a time. tests/client/test_start.py really starts it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from papad.client import autostart
from papad.client.autostart import own_socket, start
from papad.errors import Error, Refused
from papad.version import FOLDER
from tests.support.papad import child_as, in_child, no_new_fds, open_to_all
from tests.support.peer import Last, Peer
from tests.support.waiting import wait_until

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

HELD = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX); print(flush=True); input()"


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's folder, where locks are, without a service manager."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def soon() -> float:
    return time.monotonic() + 20


# By systemd


def managed(runtime: Path, monkeypatch: pytest.MonkeyPatch, systemctl: str) -> str:
    """The address of the user's own papad, for which there is a service manager, and this `systemctl`."""
    (runtime / "systemd").mkdir()
    (runtime / "systemd" / "private").touch()
    (runtime / "systemctl").write_text(f"#!/bin/sh\n{systemctl}\n")
    (runtime / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{runtime}:{os.environ['PATH']}")
    address = own_socket()
    assert address == f"{runtime}/papad.sock"
    return address


def test_a_user_has_a_papad_of_their_own_where_a_service_manager_is(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert own_socket() is None
    managed(runtime, monkeypatch, "")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert own_socket() is None


def test_the_unit_is_started_where_there_is_one(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = managed(runtime, monkeypatch, 'echo "$@" > "$0.told"')
    with no_new_fds():
        start(address, soon())
    assert (runtime / "systemctl.told").read_text() == "--user --no-ask-password --quiet start papad.socket\n"
    assert list(runtime.glob("*.lock")) == [], "it is systemd that starts one only"


@pytest.mark.parametrize("systemctl", ["exit 5", None], ids=["no unit", "no systemctl"])
def test_it_is_started_by_hand_where_systemd_does_not(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, systemctl: str | None
) -> None:
    address = managed(runtime, monkeypatch, systemctl or "")
    if systemctl is None:
        monkeypatch.setenv("PATH", str(runtime / "systemd"))
    with Peer(Path(address), {}) as peer:
        start(address, soon())
        assert peer.connections == 1, "whoever answers by now"


def test_a_systemctl_that_hangs_is_not_waited_for_for_ever(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = managed(runtime, monkeypatch, "exec sleep 60")
    with no_new_fds(), pytest.raises(Error, match=r"systemctl start papad\.socket timed out"):
        start(address, time.monotonic())


# By hand


def test_it_is_not_started_without_the_module_that_it_needs(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autostart, "_NEEDED", "nonsense")
    with pytest.raises(Error, match=r"needs the Python module nonsense; .* apt-get install papad"):
        start(str(runtime / "s"), soon())


def test_nobody_starts_one_where_one_refuses(runtime: Path) -> None:
    with (
        Peer(runtime / "s", {}, Last(b"Error: not you\n> ")) as peer,
        pytest.raises(Refused, match="not you"),
    ):
        start(peer.path, soon())


def test_no_more_are_started_when_time_is_up(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the one ended that may yet answer."""
    pids = runtime / "pids"
    pids.touch()
    monkeypatch.setattr(autostart, "_command", lambda address: ["sh", "-c", f"echo $$ >> {pids}; exec sleep 60"])
    with no_new_fds(), pytest.raises(Error, match="failed to start papad; to see why, run: sh -c"):
        start(str(runtime / "s"), time.monotonic() + 0.1)
    wait_until(lambda: pids.read_text().endswith("\n"), "it has begun")
    (pid,) = map(int, pids.read_text().split())
    assert autostart._runs(pid)
    os.kill(pid, signal.SIGKILL)


def test_one_that_is_slow_to_answer_is_not_started_again(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autostart, "_command", lambda address: ["false"])
    with Peer(runtime / "s", {}, b"Papa is ho") as peer:
        start(peer.path, time.monotonic() + 0.1)


def test_it_gets_the_environment_but_what_is_meant_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "x")
    monkeypatch.setenv("PYTHONPATH", "/a:/b")
    for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC", "FDSTORE", "INVOCATION_ID"):
        monkeypatch.setenv(name, "1")
    env = autostart._environment()
    assert (env["KEPT"], env["PYTHONPATH"]) == ("x", f"{FOLDER}:/a:/b")
    assert not {name for name in env if name.startswith(("NOTIFY", "LISTEN", "WATCHDOG", "FDSTORE", "INVOCATION"))}


@pytest.mark.parametrize(("address", "where"), [("/a/s", ["-u", "/a/s"]), (1234, ["-p", "1234"])])
def test_it_listens_at_the_address(address: str | int, where: list[str]) -> None:
    assert autostart._command(address) == [sys.executable, "-m", "papad.daemon.main", *where]


def test_what_runs_is_no_zombie() -> None:
    with no_new_fds(), subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        assert autostart._runs(child.pid)
        assert child.stdin is not None
        child.stdin.close()
        wait_until(lambda: not autostart._runs(child.pid), "it is a zombie")
        assert os.path.exists(f"/proc/{child.pid}")
    assert not autostart._runs(child.pid)


# One at a time


def test_who_waits_for_another_to_start_it_does_not_wait_for_ever(runtime: Path) -> None:
    lock = autostart._lock_path("/a")
    assert Path(lock).parent == runtime
    Path(lock).touch(0o600)
    with subprocess.Popen([sys.executable, "-c", HELD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with no_new_fds():
            with pytest.raises(Error, match=f"timed out while .* {lock}"), autostart._alone("/a", time.monotonic()):
                pass
            with autostart._alone("/b", soon()):
                pass
        other.communicate(b"\n")
    with no_new_fds(), autostart._alone("/a", soon()):
        pass


def as_user(uid: int, home: Path, act: Callable[[], object], **environ: str) -> None:
    """Run in a child of this user, with this home and environment."""

    def child() -> None:
        os.environ.pop("XDG_RUNTIME_DIR")
        os.environ.pop("XDG_STATE_HOME", None)
        os.environ |= {"HOME": str(home), **environ}
        if uid != os.getuid():
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        act()

    assert in_child(child) == 0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of a user who has no runtime directory."""
    open_to_all(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, USER, USER)
    return home


# Of each worker of xdist others, for what is in /tmp goes by them.
USER = 64000 + 10 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
STRANGER = USER + 1
OLD = f"/tmp/papad-start-{USER}-"


def held_by_stranger(path: str) -> None:
    """What a stranger can do to a lock in /tmp."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    fcntl.flock(fd, fcntl.LOCK_EX)
    signal.pause()


@only_root
def test_a_stranger_cannot_keep_a_user_from_starting_it(home: Path, tmp_path: Path) -> None:
    """The stranger has made, and holds, the lock that stood in /tmp once, and the folder that would be made there."""
    address = str(tmp_path / "s")
    old = Path(f"{OLD}{hashlib.sha256(address.encode()).hexdigest()[:16]}.lock")
    folder = Path(f"/tmp/papad-{USER}")

    def start_it() -> None:
        with autostart._alone(address, soon()):
            assert Path(autostart._lock_path(address)).parent == home / ".local/state/papad"
            assert stat.S_IMODE((home / ".local/state/papad").stat().st_mode) == 0o700

    def hinder() -> None:
        os.mkdir(folder)
        held_by_stranger(str(old))

    try:
        with child_as(STRANGER, hinder):
            wait_until(old.exists, "the stranger was there first")
            as_user(USER, home, start_it)
    finally:
        old.unlink()
        folder.rmdir()


@only_root
@pytest.mark.parametrize("hinder", ["a folder", "a link", "nobody"])
def test_who_has_no_home_gets_a_folder_in_tmp_unless_another_has_made_it(tmp_path: Path, hinder: str) -> None:
    folder = Path(f"/tmp/papad-{USER}")

    def start_it() -> None:
        with no_new_fds():
            if hinder == "nobody":
                with autostart._alone("/a", soon()):
                    assert os.listdir(folder) == [os.path.basename(autostart._lock_path("/a"))]
                    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            else:
                with pytest.raises(Error) as caught, autostart._alone("/a", soon()):
                    pass
                assert str(caught.value) == (
                    f"cannot start papad: {folder} must be a directory of this user's with mode 0700;"
                    " set XDG_RUNTIME_DIR to one"
                )

    try:
        if hinder == "a folder":
            folder.mkdir()
        elif hinder == "a link":
            (tmp_path / "theirs").mkdir(0o700)
            os.chown(tmp_path / "theirs", USER, USER)
            folder.symlink_to(tmp_path / "theirs")
        as_user(USER, Path("/nonexistent"), start_it)
    finally:
        if folder.is_symlink():
            folder.unlink()
        else:
            shutil.rmtree(folder)


@only_root
@pytest.mark.parametrize(
    ("owner", "mode"),
    [(USER, 0o755), (STRANGER, 0o700), (STRANGER, 0o777)],
    ids=["theirs, open", "another's", "another's, open"],
)
def test_a_runtime_directory_that_others_can_write_to_is_not_used(home: Path, owner: int, mode: int) -> None:
    """As where sudo and su keep XDG_RUNTIME_DIR."""
    theirs = home.parent / "theirs"
    theirs.mkdir()
    theirs.chmod(mode)
    os.chown(theirs, owner, owner)
    expected = {USER: home / ".local/state/papad", 0: Path("/run")}
    for uid, folder in expected.items():

        def start_it(folder: Path = folder) -> None:
            assert Path(autostart._lock_path("/a")).parent == folder

        as_user(uid, home, start_it, XDG_RUNTIME_DIR=str(theirs))
    assert os.listdir(theirs) == []


LOCKS = {
    "a link": (lambda path: os.symlink("/nowhere", path), "cannot open"),
    "a pipe": (os.mkfifo, "not a regular file owned by this user"),
}


@pytest.mark.parametrize("what", LOCKS)
def test_a_lock_that_somebody_else_could_have_put_there_is_not_taken(runtime: Path, what: str) -> None:
    make, why = LOCKS[what]
    make(autostart._lock_path("/a"))
    with no_new_fds(), pytest.raises(Error, match=why), autostart._alone("/a", soon()):
        pass
