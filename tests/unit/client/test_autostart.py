"""How papad is started: by whom, with what, and one at a time. tests/client/test_start.py really starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from papad.client import autostart
from papad.client.autostart import own_socket, start
from papad.errors import Error, Refused
from papad.version import FOLDER
from tests.support.papad import no_new_fds
from tests.support.peer import Last, Peer
from tests.support.waiting import wait_until

HELD = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX); print(flush=True); input()"


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's folder, where locks are, without a service manager."""
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


def test_it_is_not_started_without_the_modules_that_it_needs(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autostart, "_NEEDED", ("json", "nonsense_a", "nonsense_b"))
    with pytest.raises(Error, match=r"needs the Python modules nonsense_a and nonsense_b; .* apt-get install papad"):
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


def test_there_must_be_a_folder_for_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(Error, match=r"^cannot start papad: no folder for its lock .*; set XDG_RUNTIME_DIR to one$"):
        autostart._lock_path("/a")


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
