"""circus 0.19.0, which knows nothing of papa, with examples/circus: its workers outlive it, and it adopts them again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from papad import Papa
from tests.original.servers import REPOSITORY, Server
from tests.original.test_circus import Circus
from tests.original.venv import circus_venv
from tests.support.ports import free_port
from tests.support.waiting import wait_until

EXAMPLE = REPOSITORY / "examples" / "circus"
WORKER = """
import os, signal, socket, sys, threading
me = os.getpid()
def count():
    for number in range(1_000_000):
        print(f"{me} {number}", flush=True)
        threading.Event().wait(0.005)
threading.Thread(target=count, daemon=True).start()
print("begin", me, file=sys.stderr, flush=True)
def stop(*_):
    print("end", me, file=sys.stderr, flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[1:] == ["stubborn"] else stop)
listener = socket.socket(fileno=3)
while True:
    connection, _ = listener.accept()
    connection.sendall(b"%d" % me)
    connection.close()
"""

START_AND_STOP = """
import sys, time
from circus.client import CircusClient
client = CircusClient(endpoint=sys.argv[1], timeout=30)
for line in sys.stdin:
    client.call({"command": "start", "properties": {"name": "web", "waiting": True}})
    time.sleep(float(line))
    client.call({"command": "stop", "properties": {"name": "web", "waiting": True}})
    print("stopped", flush=True)
"""


class Today(Circus):
    """circusd and circusctl 0.19.0 with the example's configuration."""

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join((str(EXAMPLE), str(REPOSITORY)))
        return super().environment | {"PYTHONPATH": path, "PAPAD_SOCKET": str(self.papad.path)}

    def configure(self, *arguments: str) -> None:
        """Write the example's circus.ini, with this machine's places in it."""
        text = (EXAMPLE / "circus.ini").read_text()
        for old, new in {
            "/opt/circus/bin/python": self.python,
            "uid=www-data": f"uid={os.getuid()}",
            "/usr/bin/gunicorn --chdir /srv/shop shop:app": " ".join(
                (self.python, str(self.folder / "worker.py"), *arguments)
            ),
            "127.0.0.1:5555": f"127.0.0.1:{self.control}",
            "127.0.0.1:5556": f"127.0.0.1:{free_port()}",
            "port=8080": f"port={self.port}",
            "/var/log/circus/": f"{self.folder}/",
            "numprocesses = 2": f"numprocesses = {self.count}",
            "[circus]": "[circus]\ncheck_delay = 0.5",
            "hooks.before_start": "graceful_timeout = 5\nhooks.before_start",
        }.items():
            assert text.count(old) >= 1, old
            text = text.replace(old, new)
        extra = {key: self.environment[key] for key in ("PYTHONPATH", "PAPAD_SOCKET")}
        text += "".join(f"{key} = {value}\n" for key, value in extra.items())
        (self.folder / "circus.ini").write_text(text)
        (self.folder / "worker.py").write_text(WORKER)

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait(10)

    def order(self, *words: str) -> None:
        """Give circus a command, which it refuses while another one is at work."""
        wait_until(lambda: self.control_call(*words), f"circus takes {words}: {self.log()}", 30)

    def stop(self) -> None:
        """Stop the watcher, after which papad knows no worker, and nothing stands for one."""
        self.order("stop", "web")
        wait_until(lambda: not self.held() and not self.stand_ins(), f"nothing is left: {self.log()}", 30)

    def held(self) -> list[dict[str, Any]]:
        """What papad holds, running or ended."""
        with Papa(self.papad.path, autostart=False) as papa:
            return papa.describe("processes")

    def running_pids(self) -> set[int]:
        return {each["pid"] for each in self.held() if each["running"]}

    def caught_up(self) -> bool:
        return all(each["buffered"] < 100 for each in self.held())

    def stand_ins(self) -> set[int]:
        """The programs that stand for workers, whoever is their parent."""
        found = set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().split(b"\0")
                if b"papad_circus" in command and str(self.folder).encode() in b" ".join(command):
                    found.add(int(entry.name))
        return found

    def printed(self, name: str = "web.out") -> list[str]:
        return (self.folder / name).read_text().splitlines()

    def repeated(self, pid: int) -> int:
        """Check that every line of a worker is in the log, and return how many are more than once."""
        text = (self.folder / "web.out").read_text()
        last = int(text.splitlines()[-1].split()[1])
        assert last > 50
        times = [text.count(f"{pid} {number}\n") for number in range(last + 1)]
        assert all(times), [number for number, count in enumerate(times) if not count]
        return sum(count > 1 for count in times)

    def replaced(self, before: set[int], count: int) -> set[int]:
        """Wait for so many workers, none of which was there before."""

        def found() -> set[int]:
            now = self.running_pids()
            return now if len(now) == count and not now & before and self.managed() == count else set()

        pids: set[int] = wait_until(found, f"{count} new workers: {self.log()}", 30)
        return pids


@pytest.fixture
def circus(papad: Server, tmp_path: Path) -> Iterator[Today]:
    folder = tmp_path / "circus"
    folder.mkdir()
    circus = Today(folder, str(circus_venv() / "bin" / "python"), papad, free_port(), free_port())
    circus.configure()
    yield circus
    circus.end()


@pytest.fixture
def single(circus: Today) -> Today:
    """With one worker: circus mixes the output of several within lines."""
    circus.count = 1
    circus.configure()
    return circus


def test_circus_is_killed_and_the_next_one_adopts_its_workers(circus: Today) -> None:
    circus.start()
    first = circus.serving_pids(2)
    assert circus.running_pids() == first
    for _ in range(3):
        assert len(circus.stand_ins()) == 2
        circus.kill()
        wait_until(lambda: not circus.stand_ins(), "nothing of circus is left", 10)
        assert circus.serving_pids(2) == first
        circus.start()
        assert circus.running_pids() == first
        assert circus.serving_pids(2) == first
    circus.stop()
    for pid in first:
        assert 1 <= circus.printed("web.err").count(f"begin {pid}") <= 4, "once, and perhaps again after a kill"
        assert circus.printed("web.err").count(f"end {pid}") == 1


def test_each_line_is_logged_once_but_for_those_at_a_kill_of_circus(single: Today) -> None:
    single.start()
    (pid,) = single.serving_pids(1)
    for _ in range(5):
        wait_until(single.caught_up, "circus has read what there is")
        single.kill()
        single.start()
    wait_until(single.caught_up, "circus has read what there is")
    single.stop()
    assert single.running_pids() == set()
    assert single.repeated(pid) < 50
    *begun, ended = single.printed("web.err")
    assert begun == [f"begin {pid}"] * len(begun)
    assert 1 <= len(begun) <= 6, "once, and perhaps again after a kill"
    assert ended == f"end {pid}"


def test_what_a_hanging_circus_has_not_read_is_not_lost_with_it(single: Today) -> None:
    single.start()
    (pid,) = single.serving_pids(1)
    wait_until(single.caught_up, "circus has read what there is")
    assert single.daemon is not None
    single.daemon.send_signal(signal.SIGSTOP)
    before = single.held()[0]["captured"]
    wait_until(lambda: single.held()[0]["captured"] > before + 1000, "output")
    single.kill()
    single.start()
    wait_until(single.caught_up, "circus has read what there is")
    single.stop()
    single.repeated(pid)


def test_without_a_stream_of_circus_nothing_is_left_of_it_either(circus: Today) -> None:
    path = circus.folder / "circus.ini"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if "_stream." not in line))
    circus.start()
    first = circus.serving_pids(2)
    assert len(circus.stand_ins()) == 2
    circus.kill()
    wait_until(lambda: not circus.stand_ins(), "nothing of circus is left", 10)
    circus.start()
    assert circus.running_pids() == first


def test_quit_leaves_the_workers_to_the_next_circus(circus: Today) -> None:
    circus.start()
    first = circus.serving_pids(2)
    circus.quit()
    assert not circus.stand_ins()
    assert circus.serving_pids(2) == first
    circus.start()
    assert circus.running_pids() == first


def test_circusctl_restart_reload_incr_decr_and_stop_reach_the_workers(circus: Today) -> None:
    circus.start()
    first = circus.serving_pids(2)

    circus.order("restart", "web")
    second = circus.replaced(first, 2)
    assert circus.serving_pids(2) == second
    assert all(f"end {pid}" in circus.printed("web.err") for pid in first)

    circus.order("incr", "web")
    third = wait_until(lambda: len(now := circus.running_pids()) == 3 and now, f"a third: {circus.log()}", 20)
    assert second < third
    circus.order("decr", "web")
    wait_until(lambda: len(circus.running_pids()) == 2, f"two again: {circus.log()}", 20)

    before = circus.running_pids()
    circus.order("reload", "web")
    fourth = circus.replaced(before, 2)
    circus.kill()
    circus.start()
    assert circus.running_pids() == fourth, "adopted under the numbers that a reload has given them"
    assert circus.serving_pids(2) == fourth

    circus.stop()
    assert all(f"end {pid}" in circus.printed("web.err") for pid in fourth)


def test_a_stop_while_workers_are_being_made_leaves_none(circus: Today) -> None:
    circus.start()
    circus.serving_pids(2)
    circus.stop()
    command = [circus.python, "-W", "ignore", "-c", START_AND_STOP, f"tcp://127.0.0.1:{circus.control}"]
    environment, pipe = circus.environment, subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True, bufsize=1) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        for number in range(30):
            client.stdin.write(f"{number * 0.005}\n")
            assert client.stdout.readline() == "stopped\n"
            wait_until(lambda: not circus.held() and not circus.stand_ins(), f"nothing is left: {circus.log()}", 10)
        client.stdin.close()
        assert client.wait(10) == 0


def test_a_worker_that_is_killed_is_replaced_also_one_that_ended_while_circus_was_away(circus: Today) -> None:
    circus.start()
    first = circus.serving_pids(2)
    os.kill(min(first), signal.SIGKILL)
    wait_until(lambda: len(now := circus.running_pids()) == 2 and now != first, f"a new one: {circus.log()}", 20)
    second = circus.serving_pids(2)
    assert max(first) in second

    circus.kill()
    os.kill(min(second), signal.SIGTERM)
    wait_until(lambda: len(circus.running_pids()) == 1, "it has ended")
    circus.start()
    wait_until(lambda: len(circus.running_pids()) == 2, f"two again: {circus.log()}", 20)
    assert max(second) in circus.serving_pids(2)
    wait_until(lambda: f"end {min(second)}" in circus.printed("web.err"), "its last words")


def test_a_worker_that_ignores_sigterm_is_killed_and_papad_forgets_it(circus: Today) -> None:
    circus.configure("stubborn")
    circus.start()
    first = circus.serving_pids(2)
    circus.order("restart", "web")
    circus.replaced(first, 2)
    circus.stop()


def test_a_signal_of_circusctl_reaches_the_worker(circus: Today) -> None:
    circus.start()
    first, stand_ins = circus.serving_pids(2), circus.stand_ins()
    circus.order("signal", "web", "usr1")
    circus.replaced(first, 2)
    assert not circus.stand_ins() & stand_ins


def test_papad_dies_beside_circus_and_neither_worker_nor_line_is_lost(single: Today) -> None:
    single.start()
    first, stand_ins = single.serving_pids(1), single.stand_ins()
    with Papa(single.papad.path, autostart=False) as papa:
        for _ in range(3):
            before = papa.describe("server")[0]
            os.kill(before["pid"], signal.SIGKILL)
            wait_until(lambda starts=before["starts"]: papa.describe("server")[0]["starts"] > starts, "papad is back")
            wait_until(single.caught_up, "circus has read what there is")
    assert single.running_pids() == first
    assert single.stand_ins() == stand_ins
    wait_until(lambda: len(single.printed()) > 200, "more output")
    single.stop()
    assert single.repeated(first.pop()) == 0


def test_what_has_changed_in_the_configuration_applies_from_a_restart_on(circus: Today) -> None:
    circus.start()
    first = circus.serving_pids(2)
    circus.kill()
    path = circus.folder / "circus.ini"
    text = (
        path.read_text()
        .replace("listen=web", "listen=web bufsize=64k rlimit.nofile=200")
        .replace("[env:web]", "[env:web]\nNEW = 1")
    )
    path.write_text(text)
    circus.start()
    assert circus.running_pids() == first
    circus.order("restart", "web")
    circus.replaced(first, 2)
    for worker in circus.held():
        assert worker["bufsize"] == 65536
        assert worker["rlimits"] == {"nofile": 200}
        assert worker["env"].pop("__name__") == "env:web"  # is of circus' making
        given = {key: circus.environment[key] for key in ("PYTHONPATH", "PAPAD_SOCKET")}
        assert worker["env"] == {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "NEW": "1", **given}


def test_a_command_that_cannot_be_started_is_told_in_one_line(circus: Today) -> None:
    path = circus.folder / "circus.ini"
    path.write_text(path.read_text().replace(f"-- {circus.python}", "-- /nothing/there"))
    circus.launch()
    line = wait_until(lambda: (circus.folder / "web.err").exists() and circus.printed("web.err"), circus.log(), 20)[0]
    assert line.startswith(("web.1: ", "web.2: "))
    assert "/nothing/there" in line
    assert "Traceback" not in (circus.folder / "web.err").read_text()
