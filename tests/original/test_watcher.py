"""The watchers of papa 1.0.6's unmodified client, and ours, over TCP and over Unix."""

from __future__ import annotations

import os
import select
import signal
from types import ModuleType
from typing import Any

import pytest

from tests.original.client import CLIENT_LEAKS, read_all, wait_ended

pytestmark = CLIENT_LEAKS


def test_reading(papa: ModuleType, p: Any) -> None:
    p.make_process("a", "/bin/sh", ["-c", "echo out; echo err >&2; exit 3"])
    wait_ended(p, "a")
    watcher = p.watch_processes("a")
    assert bool(watcher)
    assert len(watcher) == 1
    assert select.select([watcher], [], [], 10)[0]
    assert watcher.ready
    assert watcher.fileno() > 2
    out, err, closed = watcher.read()
    assert [(item.name, item.data) for item in out + err] == [("a", b"out\n"), ("a", b"err\n")]
    assert [(item.name, item.data) for item in closed] == [("a", 3)]
    assert all(abs(item.timestamp - closed[0].timestamp) < 60 for item in out + err)
    assert watcher.exit_code == {"a": 3}
    assert watcher.read() is None
    assert not watcher
    assert p.list_processes() == {}


def test_the_connection_returns_to_its_owner(p: Any) -> None:
    p.make_process("a", "/bin/echo", ["hi"])
    before = p.fileno()
    watcher = p.watch_processes("a")
    assert p.connection is None
    read_all(watcher)
    assert p.fileno() == before
    assert p.list_processes() == {}


def test_a_command_meanwhile_takes_a_new_connection(p: Any) -> None:
    p.make_process("a", "/bin/echo", ["hi"])
    watcher = p.watch_processes("a")
    p.set("b", "1")
    assert p.get("b") == "1"
    assert read_all(watcher)[0] == b"hi\n"
    assert p.get("b") == "1"


def test_with_and_close_before_the_end(p: Any) -> None:
    made = p.make_process("a", "/bin/sh", ["-c", "echo hi; exec sleep 60"])
    before = p.fileno()
    with p.watch_processes("a") as watcher:
        out = watcher.read()[0]
        assert [item.data for item in out] == [b"hi\n"]
    assert not watcher
    assert p.fileno() == before
    assert p.list_processes("a")["a"]["running"] is True
    os.kill(made["pid"], signal.SIGKILL)
    assert read_all(p.watch_processes("a")) == (b"", b"", {"a": -9})


def test_closed_without_reading_loses_nothing(p: Any) -> None:
    p.make_process("a", "/bin/echo", ["hi"])
    p.watch_processes("a").close()
    assert read_all(p.watch_processes("a")) == (b"hi\n", b"", {"a": 0})


def test_acknowledge(p: Any) -> None:
    p.make_process("a", "/bin/sh", ["-c", "echo one; exec sleep 60"])
    watcher = p.watch_processes("a")
    assert watcher.read()[0][0].data == b"one\n"
    watcher.acknowledge()
    watcher.acknowledge()
    watcher.close()
    os.kill(p.list_processes("a")["a"]["pid"], signal.SIGTERM)
    assert read_all(p.watch_processes("a")) == (b"", b"", {"a": -15})


def test_several_processes(p: Any) -> None:
    for number in range(20):
        p.make_process(f"w.{number}", "/bin/sh", ["-c", f"echo {number}; exit {number}"])
    out, _, codes = read_all(p.watch_processes("w.*"))
    assert sorted(out.split()) == sorted(str(number).encode() for number in range(20))
    assert codes == {f"w.{number}": number for number in range(20)}
    assert p.list_processes() == {}


def test_watch_immediately(p: Any) -> None:
    watcher = p.make_process("a", "/bin/sh", ["-c", "echo one; echo two >&2; exit 4"], watch_immediately=True)
    assert read_all(watcher) == (b"one\n", b"two\n", {"a": 4})
    assert p.list_processes() == {}


def test_large_output(p: Any) -> None:
    watcher = p.make_process("a", "/usr/bin/seq", ["300000"], bufsize="8m", watch_immediately=True)
    assert read_all(watcher)[0] == b"".join(b"%d\n" % n for n in range(1, 300_001))


def test_output_while_watching(p: Any) -> None:
    watcher = p.make_process("a", "/bin/sh", ["-c", "for i in 1 2 3 4 5; do echo $i; sleep .05; done"])
    assert watcher["running"] is True
    assert read_all(p.watch_processes("a"))[0] == b"1\n2\n3\n4\n5\n"


def test_select_over_several_watchers(papa: ModuleType, p: Any, address: int | str) -> None:
    others = [papa.Papa(address) for _ in range(5)]
    watchers = []
    for number, other in enumerate(others):
        script = f"sleep .{number}; echo {number}"
        watchers.append(other.make_process(f"w{number}", "/bin/sh", ["-c", script], watch_immediately=True))
    seen = {}
    while watchers:
        ready = select.select(watchers, [], [], 10)[0]
        assert ready, "nothing came within ten seconds"
        for watcher in ready:
            if watcher.read() is None:
                watchers.remove(watcher)
            else:
                seen.update(watcher.exit_code)
                watcher.acknowledge()
    assert seen == {f"w{number}": 0 for number in range(5)}
    for other in others:
        other.close()


def test_silence_does_not_block_reading_for_ever(p: Any) -> None:
    """circus reads a silent process's watcher at its end; an empty batch lets it go on."""
    p.make_process("a", "/bin/sleep", ["60"])
    watcher = p.watch_processes("a")
    assert watcher.read() == ([], [], [])
    watcher.close()


def test_nothing_to_watch(papa: ModuleType, p: Any) -> None:
    with pytest.raises(papa.Error, match="nothing not found"):
        p.watch_processes("nothing")
    with pytest.raises(papa.Error, match="Nothing to watch"):
        p.watch_processes("nothing*")
    assert p.list_processes() == {}
