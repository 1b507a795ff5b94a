"""The nursery as the program that it is: what it starts, how it starts it, and that it forgets nothing unacknowledged."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from papad.daemon.durable import parcel
from tests.support.papad import REPOSITORY, open_fds
from tests.support.waiting import wait_until

NOTHING = {"env": {}, "rlimits": {}, "working_dir": None, "uid": None, "gid": None, "groups": None, "nofile": 1024}
Report = dict[str, Any]


class Nursery:
    """A running nursery and papad's end of its channel."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(10)
        # A parent like those found in the wild: signals ignored and blocked, an odd umask.
        with theirs:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "papad.daemon.nursery.main", str(theirs.fileno())],
                cwd=REPOSITORY,
                pass_fds=[theirs.fileno()],
                umask=0o077,
            )
        self.last_id = 0
        self.pidfds: list[int] = []
        assert self.hear() == {"what": "hello", "pid": self.popen.pid}

    def say(self, **message: Any) -> None:
        parcel.send(self.channel, message)

    def hear(self) -> Report:
        data, fds = parcel.receive(self.channel)
        assert data, "the nursery is gone"
        self.pidfds += fds
        report = parcel.unpack(data, fds)
        assert len(fds) == (report["what"] == "forked")
        return report

    def spawn(self, *args: str, targets: dict[int, int] | None = None, **changes: Any) -> int:
        """Ask for a process with these descriptors besides /dev/null for 0, 1 and 2; its id."""
        self.last_id += 1
        null = os.open(os.devnull, os.O_RDWR)
        wanted = {0: null, 1: null, 2: null} | (targets or {})
        message = {"do": "spawn", "id": self.last_id, "args": args, "targets": list(wanted), **NOTHING, **changes}
        spilled = parcel.send(self.channel, message, list(wanted.values()))
        parcel.close_all([null, *([] if spilled is None else [spilled])])
        return self.last_id

    def until(self, id: int, *whats: str) -> Report:
        """Acknowledge everything until one of `whats` is said of the process."""
        while True:
            report = self.hear()
            if "id" in report:
                self.say(do="ack", id=report["id"], what=report["what"])
            if report.get("id") == id and report["what"] in whats:
                return report

    def code(self, id: int) -> int:
        report = self.until(id, "exited", "failed")
        assert report["what"] == "exited", report
        return int(report["code"])

    def output(self, *args: str, targets: dict[int, int] | None = None, **changes: Any) -> str:
        """What a process writes to its standard output before it ends well."""
        reader, writer = os.pipe()
        id = self.spawn(*args, targets={1: writer, **(targets or {})}, **changes)
        os.close(writer)
        with open(reader, "rb") as pipe:
            text = pipe.read().decode(errors="surrogateescape")
        assert self.code(id) == 0
        return text

    def close(self) -> None:
        self.channel.close()
        parcel.close_all(self.pidfds)
        self.pidfds.clear()


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()
    try:
        assert made.popen.wait(10) in (0, -signal.SIGKILL)
    except subprocess.TimeoutExpired:
        made.popen.kill()
        made.popen.wait()
        pytest.fail("the nursery stays, though papad is gone and no child is left")


def test_every_exit_code_arrives(nursery: Nursery) -> None:
    ids = {nursery.spawn("/bin/sh", "-c", f"exit {code}"): code for code in range(256)}
    found = {}
    while len(found) < len(ids):
        report = nursery.hear()
        nursery.say(do="ack", id=report["id"], what=report["what"])
        if report["what"] == "exited":
            found[report["id"]] = report["code"]
    assert found == ids


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGPIPE, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_a_negative_code_and_kills_by_default(nursery: Nursery, number: signal.Signals) -> None:
    id = nursery.spawn("/bin/sleep", "60")
    pid = nursery.until(id, "forked")["pid"]
    nursery.until(id, "spawned")
    os.kill(pid, number)
    assert nursery.code(id) == -number


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
    assert children(nursery) == []


def children(nursery: Nursery) -> list[int]:
    return [
        int(pid) for pid in Path(f"/proc/{nursery.popen.pid}/task/{nursery.popen.pid}/children").read_text().split()
    ]


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
    reader, writer = os.pipe()
    message = {"do": "spawn", "id": 1, "args": ["/bin/sh", "-c", "ls /proc/$$/fd"], **NOTHING, "env": {"PATH": "/bin"}}
    parcel.send(nursery.channel, message | {"targets": [*range(3, 303), 0, 1, 2]}, [*fds[240:], writer, writer, writer])
    parcel.close_all([*fds, writer])
    with open(reader) as pipe:
        assert sorted(map(int, pipe.read().split())) == list(range(303))
    assert nursery.code(1) == 0


def test_missing_descriptors_are_an_error_and_not_a_wrong_process(nursery: Nursery) -> None:
    nursery.say(do="spawn", id=1, args=["/bin/true"], targets=[0, 1, 2], **NOTHING)
    assert nursery.until(1, "failed", "spawned")["what"] == "failed"


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


def test_reports_are_repeated_after_a_sync_until_they_are_acknowledged(nursery: Nursery) -> None:
    id = nursery.spawn("/bin/sh", "-c", "exit 7")
    first = [nursery.hear() for _ in range(3)]
    assert [report["what"] for report in first] == ["forked", "spawned", "exited"]
    nursery.say(do="sync", number=5)
    assert [nursery.hear() for _ in range(4)] == [*first, {"what": "synced", "pid": nursery.popen.pid, "number": 5}]
    nursery.say(do="ack", id=id, what="spawned")
    nursery.say(do="sync")
    assert [nursery.hear()["what"] for _ in range(3)] == ["forked", "exited", "synced"]
    nursery.say(do="ack", id=id, what="exited")
    nursery.say(do="ack", id=id, what="forked")
    nursery.say(do="ack", id=id, what="nothing")
    nursery.say(do="sync")
    assert nursery.hear()["what"] == "synced"


def test_reports_that_nobody_reads_wait_and_then_all_arrive(nursery: Nursery) -> None:
    """More than the channel holds; then a papad that starts, and acknowledges old copies while new ones still wait."""
    count = 300
    fds = open_fds(nursery.popen.pid)
    ids = [nursery.spawn("/bin/true") for _ in range(count)]
    wait_until(lambda: nursery_is_idle(nursery), "everything was started and has ended", 30)
    nursery.say(do="sync")
    wait_until(lambda: nursery_is_idle(nursery), "sync was heard")
    nursery.popen.send_signal(signal.SIGSTOP)
    seen: set[tuple[str, int]] = set()
    for _ in range(30):
        hear_and_acknowledge(nursery, seen)
    nursery.popen.send_signal(signal.SIGCONT)
    while hear_and_acknowledge(nursery, seen):
        pass
    assert seen == {(what, id) for what in ("forked", "spawned", "exited") for id in ids}
    nursery.say(do="sync")
    assert nursery.hear()["what"] == "synced"
    assert open_fds(nursery.popen.pid) == fds


def hear_and_acknowledge(nursery: Nursery, seen: set[tuple[str, int]]) -> bool:
    """Whether there was one more report before the end of the sync."""
    report = nursery.hear()
    parcel.close_all(nursery.pidfds)
    nursery.pidfds.clear()
    if report["what"] == "synced":
        return False
    seen.add((report["what"], report["id"]))
    nursery.say(do="ack", id=report["id"], what=report["what"])
    return True


def nursery_is_idle(nursery: Nursery) -> bool:
    """It has read all requests, has no children, and sleeps."""
    _, writable, _ = select.select([], [nursery.channel], [], 0)
    stat = Path(f"/proc/{nursery.popen.pid}/stat").read_text().rpartition(")")[2].split()
    return bool(writable) and not children(nursery) and stat[0] == "S" and _unread(nursery.channel) == 0


def _unread(sock: socket.socket) -> int:
    return int.from_bytes(fcntl.ioctl(sock, 0x5411, bytes(4)), sys.byteorder)  # SIOCOUTQ


def test_it_outlives_papad_until_its_last_child_has_ended(nursery: Nursery) -> None:
    reader, writer = os.pipe()
    id = nursery.spawn("/bin/sh", "-c", "read x", targets={0: reader})
    os.close(reader)
    pid = nursery.until(id, "forked")["pid"]
    nursery.until(id, "spawned")
    nursery.channel.close()
    with pytest.raises(subprocess.TimeoutExpired):
        nursery.popen.wait(0.3)
    os.kill(pid, 0)
    os.close(writer)
    assert nursery.popen.wait(10) == 0


def test_sigterm_ends_it_once_its_children_have_ended(nursery: Nursery) -> None:
    id = nursery.spawn("/bin/sleep", "60")
    pid = nursery.until(id, "forked")["pid"]
    nursery.until(id, "spawned")
    nursery.popen.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        nursery.popen.wait(0.3)
    os.kill(pid, signal.SIGTERM)
    report = nursery.hear()
    assert (report["what"], report["id"], report["code"]) == ("exited", id, -signal.SIGTERM)
    assert nursery.popen.wait(10) == 0


def test_sigint_and_sighup_of_a_terminal_do_not_end_it(nursery: Nursery) -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        nursery.popen.send_signal(number)
    assert nursery.code(nursery.spawn("/bin/true")) == 0


def test_it_leaks_no_descriptor_and_no_zombie(nursery: Nursery) -> None:
    assert nursery.code(nursery.spawn("/bin/true")) == 0
    nursery.say(do="sync")
    assert nursery.hear()["what"] == "synced"
    before = open_fds(nursery.popen.pid)
    fd = os.memfd_create("test")
    for number in range(70):
        assert nursery.code(nursery.spawn("/bin/true", targets={64: fd})) == 0
        assert nursery.until(nursery.spawn("/no/such/thing", targets={70: fd}), "failed")
        assert nursery.until(nursery.spawn("/bin/true", working_dir=f"/no/{number}"), "failed")
    nursery.say(do="sync")
    assert nursery.hear()["what"] == "synced"
    assert open_fds(nursery.popen.pid) == before
    assert children(nursery) == []
    os.close(fd)


def test_orphans_of_a_process_become_its_children_and_are_reaped(nursery: Nursery) -> None:
    reader, writer = os.pipe()
    text = nursery.output("/bin/sh", "-c", "(read x; exit 3) <&3 >/dev/null 2>&1 & echo $!", targets={3: reader})
    os.close(reader)
    orphan = int(text)
    assert children(nursery) == [orphan]
    os.close(writer)
    wait_until(lambda: not Path(f"/proc/{orphan}").exists(), "the orphan is reaped")
    assert nursery.code(nursery.spawn("/bin/true")) == 0


def test_a_child_dies_with_a_nursery_that_was_killed_before_it_could_tell_of_it(nursery: Nursery) -> None:
    """Stopped right after a fork it cannot be; but a child that is not let go does not exec."""
    marker = os.memfd_create("test")
    for _ in range(20):
        nursery.spawn("/bin/sh", "-c", "echo ran >&3", targets={3: marker})
    told = {nursery.hear()["id"]}
    nursery.popen.kill()
    nursery.popen.wait()
    with contextlib.suppress(AssertionError, OSError):
        while True:
            report = nursery.hear()
            told.add(report["id"])
    wait_until(lambda: _users(marker) == 1, "the children have ended")
    assert parcel.read_all(marker).count(b"ran") <= len(told)
    os.close(marker)


def _users(fd: int) -> int:
    """How many processes have the file open."""
    inode = os.fstat(fd).st_ino
    found = 0
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            found += any(
                os.stat(f"/proc/{pid}/fd/{number}").st_ino == inode for number in os.listdir(f"/proc/{pid}/fd")
            )
    return found
