"""What a process gets, and what it is told of what it cannot get: between fork and exec."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from papad.daemon.durable import parcel
from tests.support.nurseries import NOTHING, Nursery, children, pipe
from tests.support.papad import REPOSITORY
from tests.support.waiting import wait_until

FAILURES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "Bad command - [Errno 2] No such file or directory: '/no/such/thing'": (("/no/such/thing",), {}),
    "Bad command - [Errno 2] No such file or directory: 'nothing'": (("nothing",), {}),
    "Bad command - [Errno 13] Permission denied: '/etc/passwd'": (("/etc/passwd",), {}),
    "Bad working_dir - [Errno 2] No such file or directory: '/no/dir'": (("/bin/true",), {"working_dir": "/no/dir"}),
    "Bad working_dir - [Errno 20] Not a directory: '/etc/passwd'": (("/bin/true",), {"working_dir": "/etc/passwd"}),
    "Bad rlimit - ": (("/bin/true",), {"rlimits": {"nofile": 1 << 40}}),
    "Bad uid or gid - ": (("/bin/true",), {"uid": 1 << 40}),
    "Bad command - ": (("/bin/echo", "x" * (1 << 18)), {}),
}


@pytest.mark.parametrize("message", FAILURES)
def test_what_cannot_be_done_is_told_and_leaves_no_process(nursery: Nursery, message: str) -> None:
    args, changes = FAILURES[message]
    id = nursery.spawn(*args, **changes)
    report = nursery.until(id, "failed", "spawned")
    assert report["what"] == "failed"
    assert report["error"].startswith(message)
    assert nursery.code(nursery.spawn("/bin/true")) == 0
    wait_until(lambda: children(nursery) == [], "it is reaped")


def test_a_child_has_the_given_descriptors_and_no_other(nursery: Nursery) -> None:
    fds = {target: os.memfd_create(f"for-{target}") for target in (3, 64, 70, 900)}
    listing = nursery.output("/bin/sh", "-c", "ls -l /proc/$$/fd", targets=fds, env={"PATH": "/bin:/usr/bin"})
    words = [line.split() for line in listing.splitlines()[1:]]
    links = {int(line[-3] if line[-1] != "(deleted)" else line[-4]): line[-1] for line in words}
    assert links.keys() == {0, 1, 2, *fds}
    named = {int(line[-4]): line[-2] for line in words if line[-1] == "(deleted)"}
    assert named == {target: f"/memfd:for-{target}" for target in fds}
    parcel.close_all(list(fds.values()))


def test_descriptors_swap_places_without_treading_on_each_other(nursery: Nursery) -> None:
    """The numbers that the nursery happens to receive them under are among the targets."""
    fds = {target: os.memfd_create(f"for-{target}") for target in range(20, 2, -1)}
    listing = nursery.output(
        "/bin/sh", "-c", "readlink /proc/$$/fd/*; true", targets=fds, env={"PATH": "/bin:/usr/bin"}
    )
    names = [line.split()[0] for line in listing.splitlines() if "memfd" in line]
    assert sorted(names) == sorted(f"/memfd:for-{target}" for target in fds)
    parcel.close_all(list(fds.values()))


def test_more_descriptors_than_fit_into_one_message_arrive(nursery: Nursery) -> None:
    fds = [os.memfd_create("test") for _ in range(300)]
    parcel.send(nursery.channel, {"do": "descriptors"}, fds[:240])
    with pipe() as (reader, writer):
        script = ["/bin/sh", "-c", "ls /proc/$$/fd"]
        message = {"do": "spawn", "id": 1, "args": script, "hold": ["a", "b"], **NOTHING, "env": {"PATH": "/bin"}}
        message |= {"targets": [*range(3, 303), 0, 1, 2]}
        parcel.send(nursery.channel, message, [*fds[240:], writer, writer, writer, *fds[:2]])
        os.close(writer)
        assert nursery.code(1) == 0
        assert sorted(map(int, os.read(reader, 10_000).split())) == list(range(303))
    held, _ = nursery.hello()
    assert held == {"a": os.fstat(fds[0]).st_ino, "b": os.fstat(fds[1]).st_ino}
    parcel.close_all(fds)


def test_missing_descriptors_are_an_error_and_not_a_wrong_process(nursery: Nursery) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    message = {"do": "spawn", "id": 1, "args": ["/bin/true"], "targets": [0, 1, 2], "hold": ["a"], **NOTHING}
    parcel.send(nursery.channel, message, [null] * 3)
    assert nursery.until(1, "failed", "spawned")["what"] == "failed"
    assert nursery.hello() == ({}, [])
    os.close(null)


def test_a_child_begins_in_a_clean_state(nursery: Nursery) -> None:
    script = "cat /proc/self/status; umask; ulimit -n; cut -d' ' -f5,6 /proc/$$/stat; echo $$; pwd"
    lines = nursery.output("/bin/sh", "-c", script, env={"PATH": "/bin:/usr/bin"}, nofile=321).splitlines()
    status = dict(line.split(":\t") for line in lines if ":\t" in line)
    settable = sum(1 << number - 1 for number in signal.valid_signals())  # 32 and 33 are the C library's own
    states = {name: int(status[name], 16) & settable for name in ("SigBlk", "SigIgn", "ShdPnd")}
    assert states == dict.fromkeys(("SigBlk", "SigIgn", "ShdPnd"), 0)
    umask, nofile, group_and_session, pid, directory = lines[-5:]
    assert (umask, nofile, directory) == ("0022", "321", str(REPOSITORY))
    assert group_and_session == f"{pid} {pid}"


KEYRING = """
import ctypes, os
keyctl = {"x86_64": 250, "aarch64": 219}.get(os.uname().machine, -1)
print(ctypes.CDLL(None).syscall(keyctl, 0, -3, 0))  # KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING
"""


def test_a_child_has_a_session_keyring_of_its_own(nursery: Nursery) -> None:
    ours = subprocess.run([sys.executable, "-c", KEYRING], capture_output=True, text=True, check=True).stdout
    if int(ours) < 0:
        pytest.skip("keyctl(2) is not to be had here")
    children = [nursery.output(sys.executable, "-c", KEYRING) for _ in range(2)]
    assert len({ours, *children}) == 3
    assert all(int(each) > 0 for each in children)


def test_a_child_of_another_user_has_no_capability(nursery: Nursery) -> None:
    status = nursery.output("/bin/cat", "/proc/self/status", uid=65534, gid=65534, groups=[65534])
    sets = {name: value for name, _, value in (line.partition(":\t") for line in status.splitlines())}
    assert {sets[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}


def test_the_environment_is_exactly_the_given_one(nursery: Nursery) -> None:
    assert nursery.output("/usr/bin/env") == ""
    env = {"A": "", "B": "x=y z", "caf\u00e9": "\udce9", "PATH": "/nowhere"}
    lines = nursery.output("/usr/bin/env", env=env).splitlines()
    assert sorted(lines) == sorted(f"{name}={value}" for name, value in env.items())


def test_a_command_is_sought_along_the_path_that_the_process_gets(nursery: Nursery, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho mine\n")
    program.chmod(0o755)
    assert nursery.output("program", env={"PATH": f"/nowhere:{tmp_path}"}) == "mine\n"
    assert nursery.output("echo", "default", env={}) == "default\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user")
def test_a_process_of_another_user_has_that_users_groups_only(nursery: Nursery) -> None:
    text = nursery.output("/usr/bin/id", uid=65534, gid=12, groups=[12, 13])
    assert "uid=65534" in text
    assert "gid=12" in text
    assert {word.partition("(")[0] for word in text.split("groups=")[1].split(",")} == {"12", "13"}


def test_rlimits_are_set_soft_and_hard(nursery: Nursery) -> None:
    limits = {"core": 0, "nofile": 77, "as": 1 << 33}
    text = nursery.output("/bin/cat", "/proc/self/limits", rlimits=limits)
    rows = {line[:26].strip(): line[26:].split()[:2] for line in text.splitlines()}
    assert rows["Max open files"] == ["77", "77"]
    assert rows["Max core file size"] == ["0", "0"]
    assert rows["Max address space"] == [str(1 << 33)] * 2
