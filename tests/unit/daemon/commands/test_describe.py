"""What `describe` tells of each kind of thing."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from papad.daemon.commands.describe import describe_process, describe_socket, line
from papad.daemon.commands.table import GRAMMAR
from papad.daemon.delivery.watch import Watch
from papad.daemon.nursery.proc import start_ticks
from papad.daemon.tables.sockets import Socket, specify
from tests.support.papad import Daemon
from tests.support.tables import TablesHome as Home
from tests.support.talks import ended
from tests.support.waiting import wait_until


def facts_of(home: Home, words: str) -> list[dict[str, Any]]:
    """The objects that a command answers, one a line."""
    command, rest = GRAMMAR.find(words.split())
    return [json.loads(text) for text in command.handler(home.tables, command.arguments(rest)).splitlines()]


@pytest.mark.parametrize("what", ["sockets", "processes", "values"])
def test_of_nothing_it_tells_nothing(home: Home, what: str) -> None:
    assert facts_of(home, f"describe {what}") == []
    assert facts_of(home, f"describe {what} nothing") == []


@pytest.mark.parametrize("value", ["x", "two  words\nand a line", "caf\u00e9 \udce9", '"\\'])
def test_a_value_is_told_exactly_in_one_line_of_ascii(home: Home, value: str) -> None:
    home.tables.values.set("a", value)
    text = line({"name": "a", "value": value})
    assert text.isascii()
    assert "\n" not in text
    assert facts_of(home, "describe values") == [{"name": "a", "value": value}]


def made(home: Home, **options: Any) -> Socket:
    return home.tables.sockets.make("s", specify(options))


def test_a_socket_with_its_options_inode_and_connections_that_wait(home: Home) -> None:
    each = made(home, backlog=7)
    facts = describe_socket(each)
    inode = os.stat(f"/proc/self/fd/{each.sock.fileno()}").st_ino
    expected = {"name": "s", "family": "inet", "type": "stream", "backlog": 7, "fileno": 64, "waiting": 0}
    assert facts | expected | {"host": "127.0.0.1", "port": each.spec.port, "path": None, "inode": inode} == facts
    clients = [socket.create_connection(("127.0.0.1", each.spec.port or 0), 5) for _ in range(2)]
    wait_until(lambda: describe_socket(each)["waiting"] == 2, "both wait")
    each.sock.accept()[0].close()
    assert describe_socket(each)["waiting"] == 1
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    ("options", "fileno"),
    [({"type": "dgram"}, 64), ({"path": "s"}, 64), ({"reuseport": True}, None), ({"path": "s", "type": "dgram"}, 64)],
)
def test_where_nothing_can_tell_how_many_wait_it_says_null(
    home: Home, tmp_path: Path, options: dict[str, Any], fileno: int | None
) -> None:
    if "path" in options:
        options = options | {"path": str(tmp_path / "s")}
    facts = describe_socket(made(home, **options))
    assert (facts["waiting"], facts["fileno"]) == (None, fileno)
    assert facts["inode"] > 0


def test_a_process_that_runs_with_memory_and_processor_time(home: Home) -> None:
    process = home.add("p")
    process.pid = os.getpid()
    facts = describe_process(process)
    expected = {"id": 1, "name": "p", "pid": os.getpid(), "running": True, "started": 1.5, "ended": None, "code": None}
    expected |= {"closed": False, "removed": False, "args": ["/bin/cat"], "stdout": 1, "stderr": 1, "watchers": 0}
    assert facts | expected == facts
    assert {"out", "err"} & facts.keys() == set()
    assert facts["memory"] > 1 << 20
    assert facts["cpu"] > 0
    process.pid = 1 << 30
    assert (describe_process(process)["memory"], describe_process(process)["cpu"]) == (None, None)


def test_what_another_process_with_its_pid_uses_is_not_taken_for_its_own(home: Home) -> None:
    """It has ended, which is not known yet, and its pid is in use again."""
    process = home.add("p")
    process.pid, process.ticks = os.getpid(), start_ticks(os.getpid())
    assert describe_process(process)["memory"] > 1 << 20
    process.ticks -= 1
    facts = describe_process(process)
    assert (facts["memory"], facts["cpu"], facts["running"]) == (None, None, True)


def test_a_process_that_has_ended_with_what_became_of_its_output(home: Home) -> None:
    process = home.add("p", capacity=4)
    home.write(process, b"1234")
    watch = Watch(home.processes, [process])
    watch.batch()
    watch.acknowledge()
    for piece in (b"5678", b"90"):
        home.write(process, piece)
    home.end(process, -9, 1000.5)
    facts = describe_process(process)
    expected = {"running": False, "ended": 1000.5, "code": -9, "closed": True, "memory": None, "cpu": None}
    expected |= {"captured": 10, "acknowledged": 4, "buffered": 2, "lost": 4, "unforwarded": 0, "watchers": 1}
    assert facts | expected == facts


def test_a_process_whose_output_is_not_captured_has_none(home: Home) -> None:
    facts = describe_process(home.add("p", capacity=0))
    counts = ("bufsize", "captured", "acknowledged", "buffered", "lost", "unforwarded")
    assert [facts[name] for name in counts] == [0] * 6


def test_a_removed_process_is_told_of_as_such(home: Home) -> None:
    process = home.add("p")
    home.processes.remove(["p"])
    (facts,) = facts_of(home, "describe processes")
    assert (facts["removed"], facts["running"], facts["pid"]) == (True, True, process.pid)


def test_a_real_papad_tells_all_about_processes_and_itself(papad: Daemon) -> None:
    papad.ask("make process p env.A=1 rlimit.nofile=100 stderr=0 bufsize=5k /bin/sleep 100")
    facts = json.loads(papad.ask("describe processes"))
    expected = {"name": "p", "running": True, "code": None, "args": ["/bin/sleep", "100"], "env": {"A": "1"}}
    expected |= {"rlimits": {"nofile": 100}, "stdout": 1, "stderr": 0, "bufsize": 5120, "captured": 0, "watchers": 0}
    assert facts | expected == facts
    wait_until(lambda: json.loads(papad.ask("describe processes"))["memory"] > 0, "Linux has counted its memory")
    assert facts["cpu"] >= 0
    server = json.loads(papad.ask("describe server"))
    assert (server["pid"], server["starts"], server["processes"]) == (papad.pid, 1, 1)
    assert server["nursery"] == papad.nursery
    assert papad.ask("d server") != ""
    assert papad.ask("describe").startswith('Error: "describe" must be followed by one of: processes, server, sockets')
    os.kill(facts["pid"], 15)
    facts = ended(papad, "p")
    assert (facts["code"], facts["memory"], facts["running"]) == (-15, None, False)
