"""Where nobody answers, papad is started: once, however many try."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from papad import Error, Papa, Unreachable
from tests.support.papad import REPOSITORY, no_new_fds
from tests.support.ports import free_port
from tests.support.waiting import wait_until

MANY = 20
TRY = """
import sys
from papad import Papa
where = sys.argv[1]
sys.stdin.readline()
with Papa(int(where) if where.isdecimal() else where, 20) as p:
    print(p.describe("server")[0]["pid"])
    p.set(f"v{sys.argv[2]}", "x")
"""


def papads(address: int | str) -> set[int]:
    """The pids of papads that were started for this address."""
    found = set()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"papad.daemon.main" in words and str(address).encode() in words:
                found.add(int(pid))
    return found


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int | str]:
    """Where nobody answers yet. Whoever does in the end is ended."""
    address = str(tmp_path / "papad.sock") if request.param == "unix" else free_port()
    yield address
    for pid in papads(address):
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not papads(address), "papad has left")


def test_many_at_once_start_one(address: int | str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRY, str(address)]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "XDG_RUNTIME_DIR": str(tmp_path)}
    env |= {"NOTIFY_SOCKET": "/nowhere", "LISTEN_FDS": "1", "LISTEN_PID": "1"}
    tries = [
        subprocess.Popen([*command, str(number)], env=env, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for number in range(MANY)
    ]
    for each in tries:
        assert each.stdin is not None
        each.stdin.write(b"\n")
        each.stdin.flush()
    answers = {each.communicate(timeout=60)[0] for each in tries}
    assert [each.returncode for each in tries] == [0] * MANY
    assert len(answers) == 1
    assert papads(address) == {int(answers.pop())}
    with Papa(address, autostart=False) as p:
        assert set(p.list_values()) == {f"v{number}" for number in range(MANY)}


def test_it_is_detached_from_whoever_started_it(
    address: int | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with no_new_fds(), Papa(address, 20) as p:
        (pid,) = papads(address)
        assert os.getsid(pid) != os.getsid(0)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)} == {"/dev/null"}
        assert f"\nPPid:\t{os.getpid()}\n" not in Path(f"/proc/{pid}/status").read_text()
        assert p.exit_if_idle() is True
    wait_until(lambda: not papads(address), "papad has left")
    assert not [name for name in os.listdir(f"/proc/{os.getpid()}/task") if name == str(pid)]


def test_it_is_not_started_where_that_was_ruled_out(address: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    with no_new_fds(), pytest.raises(Unreachable, match=r"in 0\.3 seconds: papad does not answer"):
        Papa(address, 0.3, autostart=False)
    monkeypatch.setattr(Papa, "spawned", True)
    with pytest.raises(Unreachable):
        Papa(address, 0.1)
    assert not papads(address)


def test_what_keeps_it_from_starting_is_told_to_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with no_new_fds(), pytest.raises(Error, match=r"to see why, run: .* -u /proc/papad\.sock"):
        Papa("/proc/papad.sock", 1)
