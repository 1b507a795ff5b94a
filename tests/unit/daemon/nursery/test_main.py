"""The nursery as the program that it is: what it starts and when, what it holds, and that it forgets nothing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from papad.daemon.durable import parcel
from tests.support.nurseries import LONG, Daemon, Hanging, Nursery, children, pipe
from tests.support.papad import REPOSITORY, in_child, open_fds
from tests.support.waiting import wait_until


def at_end(reader: int) -> bool:
    """Whether a pipe has no writer any more."""
    poll = select.poll()
    poll.register(reader, 0)
    return bool(poll.poll(0))


@pytest.fixture
def our_orphans() -> Iterator[None]:
    """Whoever loses its parent becomes a child of this process."""
    prctl = ctypes.CDLL(None).prctl
    prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    yield
    prctl(36, 0, 0, 0, 0)


def test_every_exit_code_arrives(nursery: Nursery) -> None:
    ids = {nursery.spawn("/bin/sh", "-c", f"exit {code}"): code for code in range(256)}
    found: dict[int, int] = {}
    while len(found) < len(ids):
        report = nursery.hear()
        nursery.acknowledge(report)
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


def test_reports_are_told_again_until_they_are_acknowledged(nursery: Nursery) -> None:
    id = nursery.spawn("/bin/sh", "-c", "exit 7")
    forked = nursery.forked(id)
    assert nursery.hello() == ({}, [forked])
    nursery.reconnect()
    assert nursery.hello() == ({}, [forked])
    assert [pid_of(pidfd) for pidfd in nursery.pidfds] == [forked["pid"]] * 3
    nursery.acknowledge(forked)
    after = [nursery.hear() for _ in range(2)]
    assert [(report["what"], report["id"]) for report in after] == [("spawned", id), ("exited", id)]
    nursery.reconnect()
    assert nursery.hello() == ({}, after)
    assert nursery.hello() == ({}, after)
    nursery.acknowledge(after[0])
    assert nursery.hello() == ({}, after[1:])
    nursery.say(do="ack", id=id, what="nothing")
    nursery.say(do="ack", id=id + 1, what="exited")
    assert nursery.hello() == ({}, after[1:])
    nursery.acknowledge(after[1])
    assert nursery.hello() == ({}, [])


def pid_of(pidfd: int) -> int:
    return int(Path(f"/proc/self/fdinfo/{pidfd}").read_text().rpartition("\nPid:")[2].split()[0])


def test_reports_that_nobody_reads_wait_and_then_all_arrive(nursery: Nursery) -> None:
    """More than the channel holds; then a papad that starts, and acknowledges old copies while new ones still wait."""
    count = 300
    fds = open_fds(nursery.popen.pid)
    ids = [nursery.spawn("/bin/true") for _ in range(count)]
    wait_until(lambda: is_idle(nursery) and len(children(nursery)) == count, "everything was forked", 30)
    nursery.say(do="hello", number=1)
    wait_until(lambda: is_idle(nursery), "hello was heard")
    nursery.popen.send_signal(signal.SIGSTOP)
    seen: set[tuple[str, int]] = set()
    for _ in range(30):
        hear_and_acknowledge(nursery, seen)
    assert len(seen) == 30
    nursery.popen.send_signal(signal.SIGCONT)
    while len(seen) < 3 * count:
        hear_and_acknowledge(nursery, seen)
    assert seen == {(what, id) for what in ("forked", "spawned", "exited") for id in ids}
    assert nursery.hello() == ({}, [])
    assert open_fds(nursery.popen.pid) == fds


def hear_and_acknowledge(nursery: Nursery, seen: set[tuple[str, int]]) -> None:
    data, fds = parcel.receive(nursery.channel)
    parcel.close_all(fds)  # none, where an old copy was acknowledged
    report = parcel.unpack(data, [])
    if "id" in report:
        seen.add((report["what"], report["id"]))
        nursery.acknowledge(report)


def is_idle(nursery: Nursery) -> bool:
    """It has read all requests, and sleeps."""
    _, writable, _ = select.select([], [nursery.channel], [], 0)
    stat = Path(f"/proc/{nursery.popen.pid}/stat").read_text().rpartition(")")[2].split()
    return bool(writable) and stat[0] == "S" and _unread(nursery.channel) == 0


def _unread(sock: socket.socket) -> int:
    return int.from_bytes(fcntl.ioctl(sock, 0x5411, bytes(4)), sys.byteorder)  # SIOCOUTQ


def test_it_outlives_papad_until_its_last_child_has_ended(nursery: Nursery) -> None:
    with pipe() as (reader, _):
        id = nursery.spawn("/bin/sh", "-c", "read x", targets={0: reader})
        pid = nursery.until(id, "forked")["pid"]
        nursery.until(id, "spawned")
        nursery.channel.close()
        with pytest.raises(subprocess.TimeoutExpired):
            nursery.popen.wait(0.3)
        os.kill(pid, 0)
    assert nursery.popen.wait(10) == 0


def test_it_outlives_papad_as_long_as_it_holds_something(nursery: Nursery) -> None:
    fd = os.memfd_create("test")
    nursery.hold("a", fd)
    nursery.channel.close()
    with pytest.raises(subprocess.TimeoutExpired):
        nursery.popen.wait(0.3)
    nursery.reconnect()
    assert nursery.hello()[0] == {"a": os.fstat(fd).st_ino}
    nursery.say(do="drop", name="a")
    nursery.channel.close()
    assert nursery.popen.wait(10) == 0
    os.close(fd)


def test_sigterm_ends_it_once_its_children_have_ended_and_that_is_acknowledged(nursery: Nursery) -> None:
    id = nursery.spawn("/bin/sleep", "60")
    pid = nursery.until(id, "forked")["pid"]
    nursery.until(id, "spawned")
    nursery.popen.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        nursery.popen.wait(0.3)
    os.kill(pid, signal.SIGTERM)
    report = nursery.hear()
    assert (report["what"], report["id"], report["code"]) == ("exited", id, -signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        nursery.popen.wait(0.3)
    nursery.acknowledge(report)
    assert nursery.popen.wait(5) == 0


def test_after_sigterm_the_last_exits_wait_for_a_papad_that_comes_later(nursery: Nursery) -> None:
    fd = os.memfd_create("test")
    nursery.hold("a", fd)
    id = nursery.spawn("/bin/sleep", "60")
    pid = nursery.until(id, "forked")["pid"]
    nursery.until(id, "spawned")
    nursery.channel.close()
    nursery.popen.send_signal(signal.SIGTERM)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the child is reaped")
    nursery.reconnect()
    held, (report,) = nursery.hello()
    assert held == {"a": os.fstat(fd).st_ino}
    assert (report["what"], report["id"], report["code"]) == ("exited", id, -signal.SIGTERM)
    nursery.acknowledge(report)
    assert nursery.popen.wait(5) == 0, "it would stay, for what it holds"
    os.close(fd)


@pytest.mark.parametrize("present", [True, False], ids=["a papad that says nothing", "no papad"])
def test_after_sigterm_it_does_not_wait_for_an_acknowledgement_for_ever(present: bool) -> None:
    nursery = Nursery(linger=0.5)
    id = nursery.spawn("/bin/true")
    nursery.until(id, "spawned")
    if not present:
        nursery.channel.close()
    nursery.popen.send_signal(signal.SIGTERM)
    assert nursery.popen.wait(10) == 0
    nursery.close()


def test_sigint_and_sighup_of_a_terminal_do_not_end_it(nursery: Nursery) -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        nursery.popen.send_signal(number)
    assert nursery.code(nursery.spawn("/bin/true")) == 0


def test_it_leaks_no_descriptor_and_no_zombie(nursery: Nursery) -> None:
    assert nursery.code(nursery.spawn("/bin/true")) == 0
    assert nursery.hello() == ({}, [])
    before = len(open_fds(nursery.popen.pid))
    fd = os.memfd_create("test")
    for number in range(20):
        ids = {nursery.spawn("/bin/true", targets={64: fd}, hold={f"{each}": fd, "a": fd}) for each in range(50)}
        while ids:
            report = nursery.hear()
            nursery.acknowledge(report)
            ids -= {report["id"]} if report["what"] == "exited" else set()
        error = nursery.until(nursery.spawn(LONG, targets={70: fd}, hold={"b": fd}), "failed")["error"]
        assert error == f"Bad command - [Errno {errno.ENAMETOOLONG}] File name too long: '{LONG}'"
        assert nursery.until(nursery.spawn("/bin/true", working_dir=f"/no/{number}"), "failed")
        nursery.spawn(LONG)  # its report is told to nobody, then to two
        nursery.reconnect()
        nursery.hello()
        nursery.reconnect()
        held, reports = nursery.hello()
        assert len(held) == 52
        for report in reports:
            nursery.acknowledge(report)
        for name in held:
            nursery.say(do="drop", name=name)
        nursery.close_pidfds()
    wait_until(lambda: nursery_forgot(nursery), "the last failure is acknowledged")
    wait_until(lambda: children(nursery) == [], "no zombie is left")
    assert len(open_fds(nursery.popen.pid)) == before
    os.close(fd)


def nursery_forgot(nursery: Nursery) -> bool:
    _, reports = nursery.hello()
    for report in reports:
        nursery.acknowledge(report)
    return not reports


def test_orphans_of_a_process_become_its_children_and_are_reaped(nursery: Nursery) -> None:
    with pipe() as (reader, _):
        script = "(read x; exit 3) <&3 >/dev/null 2>&1 & echo $!"
        orphan = int(nursery.output("/bin/sh", "-c", script, targets={3: reader}))
        assert children(nursery) == [orphan]
    wait_until(lambda: not Path(f"/proc/{orphan}").exists(), "the orphan is reaped")
    assert nursery.code(nursery.spawn("/bin/true")) == 0


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_child_does_not_exec_before_it_is_acknowledged(nursery: Nursery, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    id = nursery.spawn("/bin/sh", "-c", f"echo x >>{touched}; exit 5")
    forked = nursery.forked(id)
    for _ in range(20):
        assert nursery.code(nursery.spawn("/bin/true")) == 0
    assert command_line(forked["pid"]) == command_line(nursery.popen.pid)
    assert not touched.exists()
    nursery.acknowledge(forked)
    nursery.acknowledge(forked)
    assert nursery.code(id) == 5
    assert touched.read_text() == "x\n"


@pytest.mark.usefixtures("our_orphans")
def test_what_was_not_acknowledged_never_runs_once_the_nursery_was_killed(nursery: Nursery) -> None:
    ran = os.memfd_create("test")
    reader, writer = os.pipe()
    forked = {}
    for _ in range(20):
        id = nursery.spawn("/bin/sh", "-c", "echo x >>/dev/fd/3; read x; exit 9", targets={0: reader, 3: ran})
        forked[id] = nursery.forked(id)["pid"]
    os.close(reader)
    released = list(forked)[::2]
    for id in released:
        nursery.say(do="ack", id=id, what="forked")
    nursery.barrier()
    nursery.popen.kill()
    nursery.popen.wait()
    os.close(writer)
    codes = {id: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for id, pid in forked.items()}
    assert codes == {id: 9 if id in released else 127 for id in forked}
    assert parcel.read_all(ran) == b"x\n" * len(released)
    os.close(ran)


@pytest.mark.usefixtures("our_orphans")
def test_a_child_whose_gate_we_have_can_be_released_once_the_nursery_was_killed(nursery: Nursery) -> None:
    """A gate that we close as well ends the child."""
    nursery.keeps_gates = True
    pids = [nursery.forked(nursery.spawn("/bin/sh", "-c", "exit 9"))["pid"] for _ in range(3)]
    nursery.popen.kill()
    nursery.popen.wait()
    os.write(nursery.gates[0], b"!")
    os.write(nursery.gates[1], b"!")
    parcel.close_all(nursery.gates)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [9, 9, 127]


@pytest.mark.parametrize("args", [("/bin/sh", "-c", "exit 9"), ("/bin/sh", "-c", "kill -9 $$"), ("/no/such/thing",)])
def test_a_child_that_was_released_by_its_gate_may_end_before_the_nursery_hears_of_that(
    nursery: Nursery, args: tuple[str, ...]
) -> None:
    nursery.keeps_gates = True
    forked = nursery.forked(nursery.spawn(*args))
    os.write(nursery.gates[0], b"!")
    parcel.close_all(nursery.gates)
    reports = [nursery.hear()]
    if reports[0]["what"] == "spawned":
        reports.append(nursery.hear())
    assert all(report["id"] == forked["id"] for report in reports)
    code = 9 if "exit 9" in args else -9
    if args == ("/no/such/thing",):
        assert [report["error"] for report in reports] == [
            "Bad command - [Errno 2] No such file or directory: '/no/such/thing'"
        ]
    else:
        assert [(report["what"], report.get("code")) for report in reports] == [("spawned", None), ("exited", code)]
    nursery.acknowledge(forked)
    assert nursery.hello()[1] == reports


def test_a_child_that_was_released_by_its_gate_and_by_the_nursery_runs_once(nursery: Nursery) -> None:
    nursery.keeps_gates = True
    for args, what in ((("/bin/sh", "-c", "exit 9"), "exited"), (("/no/such/thing",), "failed")):
        forked = nursery.forked(nursery.spawn(*args))
        os.write(nursery.gates[-1], b"!")
        nursery.acknowledge(forked)
        report = nursery.until(forked["id"], "exited", "failed")
        assert (report["what"], report.get("code")) == (what, 9 if what == "exited" else None)
    parcel.close_all(nursery.gates)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_that_is_killed_before_it_is_released_has_failed(nursery: Nursery, number: signal.Signals) -> None:
    id = nursery.spawn("/bin/sleep", "60")
    forked = nursery.forked(id)
    os.kill(forked["pid"], number)
    assert nursery.hear() == {"what": "failed", "id": id, "error": "It was killed before it could start"}
    nursery.acknowledge(forked)
    assert [report["what"] for report in nursery.hello()[1]] == ["failed"]
    assert children(nursery) == []


def test_a_child_that_is_called_off_never_runs_and_has_failed(nursery: Nursery, tmp_path: Path) -> None:
    id = nursery.spawn("/bin/touch", f"{tmp_path}/touched")
    nursery.forked(id)
    nursery.say(do="cancel", id=id)
    assert nursery.until(id, "failed", "spawned")["what"] == "failed"
    assert not (tmp_path / "touched").exists()
    running = nursery.spawn("/bin/sh", "-c", "sleep 0.1; exit 4")
    nursery.until(running, "spawned")
    nursery.say(do="cancel", id=running)
    nursery.say(do="cancel", id=id)
    assert nursery.code(running) == 4


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Hanging]:
    made = Hanging(tmp_path)
    yield made
    os.close(made.fd)


def test_an_exec_that_hangs_delays_nobody_else(nursery: Nursery, hanging: Hanging) -> None:
    with pipe() as (reader, writer), pipe() as (dropped, hold):
        living = nursery.spawn("/bin/sh", "-c", "read x; exit 3", targets={0: reader})
        nursery.until(living, "spawned")
        nursery.hold("a", hold)
        os.close(hold)
        id = nursery.spawn(hanging.path)
        nursery.until(id, "forked")
        hanging.wait()
        waiting = nursery.spawn("/bin/true")
        forked = nursery.forked(waiting)
        assert nursery.code(nursery.spawn("/bin/sh", "-c", "exit 6")) == 6
        assert nursery.until(nursery.spawn("/no/such/thing"), "failed")
        os.write(writer, b"\n")
        assert nursery.code(living) == 3
        assert not at_end(dropped)
        nursery.say(do="drop", name="a")
        nursery.barrier()
        wait_until(lambda: at_end(dropped), "what was dropped is closed everywhere")
        nursery.reconnect()
        assert nursery.hello() == ({}, [forked])
        nursery.acknowledge(forked)
        assert nursery.code(waiting) == 0
        assert command_line(children(nursery)[0]) == command_line(nursery.popen.pid)
        hanging.go()
        assert nursery.until(id, "spawned", "exited", "failed")["what"] == "spawned"
        assert nursery.code(id) == 0


@pytest.mark.parametrize("renewed", [False, True])
def test_a_child_that_is_called_off_while_its_exec_hangs_has_failed(
    nursery: Nursery, hanging: Hanging, renewed: bool
) -> None:
    id = nursery.spawn(hanging.path)
    pid = nursery.until(id, "forked")["pid"]
    hanging.wait()
    if renewed:
        nursery.say(do="renew", executable=sys.executable, folder=str(REPOSITORY))
        assert nursery.hear()["what"] == "hello"
    nursery.say(do="cancel", id=id)
    assert nursery.until(id, "failed", "spawned")["error"] == "It was cancelled"
    wait_until(lambda: pid not in children(nursery), "it is gone")
    nursery.say(do="cancel", id=id)
    assert nursery.code(nursery.spawn("/bin/true")) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_that_is_killed_in_an_exec_that_hangs_has_exited(
    nursery: Nursery, hanging: Hanging, number: signal.Signals
) -> None:
    id = nursery.spawn(hanging.path)
    pid = nursery.until(id, "forked")["pid"]
    hanging.wait()
    os.kill(pid, number)
    assert nursery.code(id) == -number


@pytest.mark.usefixtures("our_orphans")
def test_a_nursery_that_is_killed_while_an_exec_hangs_is_gone_at_once(nursery: Nursery, hanging: Hanging) -> None:
    """Papad sees it, and a new papad does not wait for it; the child does as it was told."""
    id = nursery.spawn(hanging.path)
    pid = nursery.until(id, "forked")["pid"]
    hanging.wait()
    nursery.popen.kill()
    nursery.popen.wait()
    wait_until(nursery.lost, "papad sees the end of the nursery", 5)
    with pytest.raises(ConnectionRefusedError):
        Daemon(nursery.address)
    hanging.go()
    assert os.waitpid(pid, 0)[1] == 0


def test_what_it_holds_can_be_replaced_and_dropped(nursery: Nursery) -> None:
    with pipe() as (first, replaced), pipe() as (second, dropped), pipe() as (third, kept):
        nursery.hold("a", replaced)
        nursery.hold("b", dropped)
        parcel.close_all([replaced, dropped])
        assert nursery.hello()[0] == {"a": os.fstat(first).st_ino, "b": os.fstat(second).st_ino}
        nursery.hold("a", kept)
        os.close(kept)
        nursery.say(do="drop", name="b")
        nursery.say(do="drop", name="c")
        nursery.barrier()
        assert [at_end(reader) for reader in (first, second, third)] == [True, True, False]
        assert nursery.hello() == ({"a": os.fstat(third).st_ino}, [])
        nursery.say(do="drop", name="a")
        nursery.barrier()
        assert at_end(third)
        assert nursery.hello() == ({}, [])


def test_all_that_it_holds_comes_back_in_its_order(nursery: Nursery) -> None:
    """More than fit into one message, and more than the channel takes."""
    held = {}
    for number in range(1500):
        fd = os.memfd_create("test")
        held[f"name-{number * 7919 % 1500}-" + "n" * 40] = os.fstat(fd).st_ino
        nursery.hold(list(held)[-1], fd)
        os.close(fd)
    nursery.reconnect()
    found, _ = nursery.hello()
    assert list(found.items()) == list(held.items())
    for name in list(held)[:1450]:
        nursery.say(do="drop", name=name)
    assert list(nursery.hello()[0].items()) == list(held.items())[1450:]


def test_what_is_dropped_while_hello_is_being_answered_does_not_disturb_the_answer(nursery: Nursery) -> None:
    with pipe() as (reader, writer):
        names = [f"{number}" for number in range(2000)]
        for name in names:
            nursery.hold(name, writer)
        os.close(writer)
        nursery.barrier()
        for number in range(60):
            nursery.say(do="hello", number=number)
        for name in names:
            nursery.say(do="drop", name=name)
        wait_until(lambda: is_idle(nursery), "all was dropped, though nothing is read", 30)
        while (report := nursery.hear()) != {"what": "synced", "number": 59}:
            parcel.close_all(report.get("fds", []))
        assert at_end(reader)
        assert nursery.hello() == ({}, [])


@pytest.mark.parametrize("leave", [True, False], ids=["a papad that has left", "one that is still there"])
@pytest.mark.parametrize("listens", [True, False], ids=["and had heard all", "and had not heard all"])
def test_all_that_the_older_papad_had_said_is_done_before_the_newest_is_served(
    nursery: Nursery, leave: bool, listens: bool
) -> None:
    fd = os.memfd_create("test")
    first = nursery.spawn("/bin/true")
    if listens:
        nursery.forked(first)
    else:
        wait_until(lambda: select.select([nursery.channel], [], [], 0)[0], "there is something to hear")
    nursery.popen.send_signal(signal.SIGSTOP)
    nursery.hold("a", fd)
    second = nursery.spawn("/bin/true", hold={"b": fd})
    nursery.hold("c", fd)
    nursery.say(do="drop", name="a")
    older = nursery.channel
    if leave:
        older.close()
    nursery.channel = Daemon(nursery.address).channel
    nursery.say(do="hello", number=1)
    nursery.popen.send_signal(signal.SIGCONT)
    held, reports = nursery.hello()
    assert list(held) == ["b", "c"]
    assert [(report["what"], report["id"]) for report in reports] == [("forked", first), ("forked", second)]
    if not leave:
        nursery.channel, newest = older, nursery.channel
        wait_until(nursery.lost, "the older one sees that, once the new child has closed the channel too")
        older.close()
        nursery.channel = newest
    for report in reports:
        nursery.acknowledge(report)
    assert nursery.code(second) == 0
    os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_is_turned_away(nursery: Nursery) -> None:
    nursery.hold("a", nursery.channel.fileno())

    def stranger() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        other = Daemon(nursery.address)  # nothing keeps anybody from this address
        with contextlib.suppress(BrokenPipeError):
            other.say(do="hello", number=1)
        with pytest.raises((AssertionError, ConnectionResetError), match=r"the nursery is gone|reset by peer"):
            other.hear()

    assert in_child(stranger) == 0
    assert nursery.code(nursery.spawn("/bin/true")) == 0
    nursery.say(do="drop", name="a")


def test_a_lack_of_descriptors_ends_nothing(nursery: Nursery) -> None:
    pid, soft = nursery.popen.pid, resource.getrlimit(resource.RLIMIT_NOFILE)
    living = nursery.spawn("/bin/sleep", "60")
    child = nursery.until(living, "forked")["pid"]
    nursery.until(living, "spawned")
    nursery.barrier()
    used = len(open_fds(pid))
    for room in range(8):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + room, soft[1]))
        nursery.until(nursery.spawn("/bin/true"), "failed", "exited")
        told = nursery.until(nursery.spawn("/bin/true", "x" * 20_000), "failed", "exited")
        assert room or "Too many open files" in told["error"]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, soft)
    assert nursery.code(nursery.spawn("/bin/true")) == 0
    os.kill(child, signal.SIGKILL)
    assert nursery.code(living) == -signal.SIGKILL
