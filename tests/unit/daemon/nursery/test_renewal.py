"""The nursery becomes another program and stays who it is: pid, children, descriptors, reports."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import papad
from papad.client.connection import Client
from papad.daemon.durable import parcel
from papad.daemon.nursery import renewal
from tests.support.nurseries import Nursery
from tests.support.papad import Daemon, open_fds, running_papad
from tests.support.waiting import wait_until

COUNT = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo $i; done; exit 7"


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.end()
    assert made.popen.returncode == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Another installation of papad, with another program of the nursery."""
    return installed(tmp_path / "other", "# newer\n")


def installed(folder: Path, more: str = "") -> Path:
    shutil.copytree(Path(papad.__file__).parent, folder / "papad", ignore=shutil.ignore_patterns("__pycache__"))
    with open(folder / "papad/daemon/nursery/main.py", "a") as file:
        file.write(more)
    return folder


def renewed(nursery: Nursery, folder: Path) -> list[dict[str, Any]]:
    """Have it renewed; what it says until it says hello again."""
    nursery.say(do="renew", executable=sys.executable, folder=str(folder))
    heard = []
    while (report := nursery.hear())["what"] != "hello":
        heard.append(report)
    assert (report["pid"], report["program"] == renewal.program()) == (nursery.popen.pid, False)
    assert str(folder) in Path(f"/proc/{nursery.popen.pid}/environ").read_text()
    return heard


def test_children_exit_codes_and_all_that_is_held_outlive_it(nursery: Nursery, folder: Path) -> None:
    memfd = os.memfd_create("test")
    inode = os.fstat(memfd).st_ino
    parcel.send(nursery.channel, {"do": "hold", "name": "x"}, [memfd])
    os.close(memfd)
    for code in (3, 4):
        nursery.until(nursery.spawn("/bin/sh", "-c", f"read x; exit {code}"), "spawned")
    ended = nursery.spawn("/bin/sh", "-c", "exit 5")
    nursery.until(ended, "spawned")
    waiting = nursery.spawn("/bin/sh", "-c", "exit 6")
    renewed(nursery, folder)
    wait_until(lambda: "papad-nursery" in Path(f"/proc/{nursery.popen.pid}/comm").read_text(), "it has its name again")
    held, reports = nursery.hello()
    assert held == {"x": inode}
    assert ("exited", ended, 5) in [(each["what"], each["id"], each.get("code")) for each in reports]
    assert ("forked", waiting) in [(each["what"], each["id"]) for each in reports]
    for report in reports:
        nursery.acknowledge(report)
    assert nursery.code(waiting) == 6
    later = nursery.spawn("/bin/sh", "-c", "exit 8")
    assert nursery.code(later) == 8
    for _ in range(3):  # and again, from any program to any
        renewed(nursery, folder)
    assert "x" in nursery.hello()[0]


def test_those_who_end_while_it_becomes_another_are_told(nursery: Nursery, folder: Path) -> None:
    ids = [nursery.spawn("/bin/sh", "-c", f"sleep 0.0{number % 10}; exit {number}") for number in range(60)]
    codes: dict[int, int] = {}

    def take(report: dict[str, Any]) -> None:
        if "id" in report:
            nursery.acknowledge(report)
        if report["what"] == "exited":
            codes[report["id"]] = report["code"]

    for _ in range(3):
        for report in renewed(nursery, folder):
            take(report)
    while len(codes) < len(ids):
        take(nursery.hear())
    assert codes == {id: number for number, id in enumerate(ids)}


def test_a_program_that_is_not_there_changes_nothing(nursery: Nursery) -> None:
    id = nursery.spawn("/bin/sh", "-c", "exit 9")
    nursery.until(id, "spawned")
    before = open_fds(nursery.popen.pid).keys()
    for executable in ("/no/such/python", "/etc/passwd"):
        nursery.say(do="renew", executable=executable, folder="/")
        while (report := nursery.hear())["what"] != "not renewed":
            pass
        assert executable in report["error"] or "Errno" in report["error"]
    assert open_fds(nursery.popen.pid).keys() == before
    wait_until(
        lambda: ("exited", id, 9) in [(each["what"], each["id"], each.get("code")) for each in nursery.hello()[1]],
        "its exit is told",
    )


def test_sigterm_in_the_middle_of_it_is_not_forgotten(folder: Path) -> None:
    for _ in range(5):
        nursery = Nursery()
        nursery.say(do="renew", executable=sys.executable, folder=str(folder))
        nursery.popen.send_signal(signal.SIGTERM)
        assert nursery.popen.wait(20) == 0
        nursery.close()


def test_it_leaks_no_descriptor(nursery: Nursery, folder: Path) -> None:
    found = []
    for _ in range(4):
        renewed(nursery, folder)
        nursery.hello()
        found.append(sorted(what.partition(":")[0] for what in open_fds(nursery.popen.pid).values()))
    assert found[1:] == [found[0]] * 3


@pytest.fixture
def upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Daemon, Path]]:
    """A papad, started by hand from an installation of its own, and the nursery's program there."""
    folder = installed(tmp_path / "own")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    (tmp_path / "run").mkdir()
    with running_papad(tmp_path / "run", cwd=folder) as daemon:
        yield daemon, folder / "papad/daemon/nursery/main.py"


def test_a_newer_daemon_renews_it_and_nothing_is_lost(upgraded: tuple[Daemon, Path]) -> None:
    daemon, program = upgraded
    nursery = daemon.nursery
    with daemon.connect() as talk:
        talk.ask("set kept 1")
        line = talk.ask("make process x /bin/sh -c " + COUNT.replace(" ", "\\ "))
        talk.ask("make process y /bin/sleep 600")
    program.write_text(program.read_text() + "# newer\n")
    os.kill(daemon.pid, signal.SIGKILL)
    wait_until(lambda: "the nursery was renewed" in daemon.log, "the nursery was renewed")
    assert (daemon.nursery, daemon.popen.poll()) == (nursery, None)
    with Client(daemon.path) as client:
        wait_until(lambda: client.describe("processes", "x")[0]["closed"], "x has ended")
        assert [each["code"] for each in client.describe("processes")] == [7, None]
        assert client.command("get", "kept") == "1"
    with daemon.connect() as talk:
        assert f"pid={line.split('pid=')[1].split()[0]} " in talk.ask("list processes x")
        talk.send("watch processes x\n")
        talk.until(b"\n")
        records = talk.watch_to_end()
    data = b"".join(data for kind, _, data in records if kind == "out" and isinstance(data, bytes))
    assert data.split() == [b"%d" % number for number in range(1, 2001)]
    os.kill(daemon.pid, signal.SIGKILL)  # the same program: nothing to renew
    wait_until(lambda: daemon.log.count("is home") == 3, "the third papad is home")
    assert daemon.log.count("the nursery was renewed") == 1


def test_a_nursery_that_would_not_start_is_not_taken(upgraded: tuple[Daemon, Path]) -> None:
    daemon, program = upgraded
    with daemon.connect() as talk:
        talk.ask("make process y /bin/sleep 600")
    text = program.read_text()
    program.write_text(text.replace("import contextlib\n", "import no_such_module\n"))
    os.kill(daemon.pid, signal.SIGKILL)
    wait_until(
        lambda: "the nursery goes on as it was: the new one does not start: ModuleNotFoundError" in daemon.log,
        "papad says so",
    )
    with daemon.connect() as talk:
        assert "running=True" in talk.ask("list processes y")
        assert "running=" in talk.ask("make process z /bin/true")
    program.write_text(text)


def test_the_program_is_told_by_its_files_and_its_interpreter(folder: Path) -> None:
    command = [sys.executable, "-c", "from papad.daemon.nursery.renewal import program; print(program())"]
    other = subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True).stdout
    assert len(other.strip()) == len(renewal.program()) == 8
    assert other.strip() != renewal.program()
