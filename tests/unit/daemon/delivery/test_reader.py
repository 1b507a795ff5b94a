"""Reading output without consuming it, from a real papad."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from tests.support.papad import Daemon, processor_time
from tests.support.talks import Frame, ended, frames, read
from tests.support.waiting import wait_until


@pytest.fixture
def papad(own_papad: Daemon) -> Daemon:
    return own_papad


def test_output_is_read_and_stays(papad: Daemon) -> None:
    papad.ask("make process a shell=1 echo\\ one;sleep\\ .02;echo\\ two\\ >&2;exit\\ 3")
    ended(papad, "a")
    expected = [("out", "a", b"one\n", 0), ("err", "a", b"two\n", 4), ("closed", "a", 3, 8)]
    assert read(papad, "output a") == expected
    assert read(papad, "output") == expected
    assert read(papad, "output stream=err") == expected[1:]
    assert read(papad, "output last=1") == expected[1:]
    with papad.connect() as talk:
        assert "Watching 1" in talk.ask("watch processes a\nq")
    assert read(papad, "output") == []
    assert papad.ask("output a") == "Error: a not found"


def test_several_processes_are_merged_by_time_and_cut_by_it(papad: Daemon) -> None:
    for name in ("a", "b:c"):
        papad.ask(f"make process {name} shell=1 for\\ i\\ in\\ 1\\ 2\\ 3;do\\ echo\\ $i;sleep\\ .02;done")
    for name in ("a", "b:c"):
        ended(papad, name)
    with papad.connect() as talk:
        talk.send("output\n")
        times = [float(line.split(b":")[-4]) for line in talk.until(b"\n> ").split(b"\n") if line.startswith(b"out:")]
    assert len(times) == 6
    assert times == sorted(times)
    assert len(read(papad, f"output since={times[2]} until={times[4]}")) == 3
    assert read(papad, f"output since={times[5] + 100}") == []


def test_what_is_lost_is_told_and_positions_go_on(papad: Daemon) -> None:
    papad.ask("make process a bufsize=10 /bin/sh -c printf\\ 0123456789abcdef")
    facts = ended(papad, "a")
    assert (facts["captured"], facts["buffered"], facts["lost"]) == (16, 6, 10)
    assert read(papad, "output")[0] == ("lost", "a", 10, 10)
    assert b"".join(each[2] for each in read(papad, "output") if each[0] == "out") == b"abcdef"
    after = read(papad, f"output after.{facts['id']}=12")
    assert (b"".join(each[2] for each in after[:-1]), after[-1]) == (b"cdef", ("closed", "a", 0, 16))
    assert read(papad, f"output after.{facts['id']}=16") == [("closed", "a", 0, 16)]
    assert read(papad, f"output after.{facts['id']}=11 before.{facts['id']}=13") == [("out", "a", b"bc", 11)]
    assert read(papad, f"output before.{facts['id']}=13") == [("lost", "a", 10, 10), ("out", "a", b"abc", 10)]
    assert read(papad, f"output before.{facts['id']}=9") == []
    assert papad.ask("output after.x=1").startswith("Error: after.ID=POSITION wants two numbers")
    assert papad.ask("output before.1=x").startswith("Error: before.ID=POSITION wants two numbers")


def test_the_newest_bytes_of_all(papad: Daemon) -> None:
    papad.ask("make process a shell=1 echo\\ one;sleep\\ .02;echo\\ two\\ >&2;sleep\\ .02;echo\\ three")
    ended(papad, "a")
    papad.ask("make process b /bin/echo four")
    ended(papad, "b")
    three, four = ("out", "a", b"three\n", 8), ("out", "b", b"four\n", 0)
    ends = [("closed", "a", 0, 14), ("closed", "b", 0, 5)]

    def newest(options: str) -> list[Frame]:
        return [each for each in read(papad, f"output {options}") if each not in ends]

    assert newest("bytes=0") == []
    assert newest("bytes=3") == [("out", "b", b"ur\n", 2)]
    assert newest("bytes=5") == [four]
    assert newest("bytes=7") == [("out", "a", b"e\n", 12), four]
    assert newest("bytes=14 stream=out") == [("out", "a", b"ne\n", 1), three, four]
    assert newest("bytes=1k") == [("out", "a", b"one\n", 0), ("err", "a", b"two\n", 4), three, four]
    assert newest("bytes=1k last=1") == [four]
    assert newest("bytes=2 last=2") == [("out", "b", b"r\n", 3)]
    assert papad.ask("output bytes=x").startswith("Error: bytes must be a number of bytes")


def test_following_hears_of_what_comes_and_of_processes_made_later(papad: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    papad.ask(f"make process a.1 shell=1 echo\\ before;read\\ x<{gate};echo\\ $x;exit\\ 4")
    with papad.connect() as talk:
        talk.send("output follow=1 a.*\n")
        assert frames(talk, 1) == [("out", "a.1", b"before\n", 0)]
        papad.ask("make process b /bin/echo not-asked-for")
        gate.write_text("after\n")
        assert frames(talk, 2) == [("out", "a.1", b"after\n", 7), ("closed", "a.1", 4, 13)]
        papad.ask("make process a.2 /bin/echo later")
        assert frames(talk, 2) == [("out", "a.2", b"later\n", 0), ("closed", "a.2", 0, 6)]
        talk.send("\n")
        assert talk.until(b"> ") == b"> "
        assert talk.ask("get v") == ""
    assert sorted(each[0] for each in read(papad, "output a.*")) == ["closed", "closed", "out", "out", "out"]


@pytest.mark.parametrize("bound", ["until=5", "before.{id}=2"])
def test_who_follows_up_to_a_bound_costs_nothing_behind_it(papad: Daemon, bound: str) -> None:
    """It used the processor without end."""
    papad.ask("make process a shell=1 echo\\ one;exec\\ sleep\\ 60")
    wait_until(lambda: '"captured":4' in papad.ask("describe processes a"), "its output is there")
    id = json.loads(papad.ask("describe processes a"))["id"]
    with papad.connect() as talk:
        talk.send(f"output follow=1 {bound.format(id=id)}\n")
        before = processor_time(papad.pid)
        for _ in range(20):
            papad.ask("get x")
            time.sleep(0.05)
        assert processor_time(papad.pid) - before < 0.5


def test_what_watchers_acknowledge_does_not_stop_a_follower(papad: Daemon) -> None:
    papad.ask("make process a shell=1 for\\ i\\ in\\ $(seq\\ 200);do\\ echo\\ $i;done;sleep\\ .3;echo\\ end")
    with papad.connect() as reader, papad.connect() as watcher:
        reader.send("output follow=1\n")
        got = b""
        assert watcher.ask_line("watch processes a") == "Watching 1"
        taking = threading.Thread(target=watcher.watch_to_end)
        taking.start()
        while not got.endswith(b"end\n"):
            ((kind, _, data, _),) = frames(reader, 1)
            assert kind == "out"
            got += data
        taking.join(20)
        assert got == b"".join(b"%d\n" % i for i in range(1, 201)) + b"end\n"


def test_a_reader_that_comes_too_late_for_what_a_watcher_took_is_told_so_and_of_the_end(papad: Daemon) -> None:
    """It does not wait for ever for what is not there any more."""
    gate = papad.path + ".gate"
    os.mkfifo(gate)
    papad.ask(f"make process a shell=1 echo\\ one;read\\ x\\ <{gate}")
    with papad.connect() as watcher:
        assert watcher.ask_line("watch processes a") == "Watching 1"
        assert watcher.records() == [("out", "a", b"one\n")]
        watcher.send("\n")
        Path(gate).write_text("go\n")
        while not (records := watcher.records()):
            watcher.send("\n")
        assert records == [("closed", "a", 0)]  # delivered, not yet acknowledged
        assert read(papad, "output after.1=0") == [("closed", "a", 0, 4)]
        id = json.loads(papad.ask("describe processes a"))["id"]
        assert read(papad, f"output after.{id}=0") == [("lost", "a", 4, 4), ("closed", "a", 0, 4)]
        watcher.send("q\n")


def test_an_end_is_told_at_once_where_a_child_holds_the_output_and_once_only(papad: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with papad.connect() as follower, papad.connect() as watcher:
        follower.send("output follow=1 a\n")
        papad.ask(f"make process a shell=1 echo\\ one;(read\\ x\\ <{gate};echo\\ two)&\\ exit\\ 3")
        assert frames(follower, 2) == [("out", "a", b"one\n", 0), ("exited", "a", 3, 4)]
        facts = json.loads(papad.ask("describe processes a"))
        assert (facts["running"], facts["closed"], facts["held"], len(facts["pipes"])) == (False, False, True, 2)
        assert read(papad, "output a") == [("out", "a", b"one\n", 0), ("exited", "a", 3, 4)]
        assert read(papad, "output stream=err a") == [("exited", "a", 3, 4)]
        assert read(papad, f"output until={facts['ended'] - 1} a") == []
        assert watcher.ask_line("watch processes a") == "Watching 1"
        assert watcher.records() == [("out", "a", b"one\n")]
        watcher.send("q\n")
        gate.write_text("go\n")
        assert frames(follower, 2) == [("out", "a", b"two\n", 4), ("closed", "a", 3, 8)]
    facts = ended(papad, "a")
    assert (facts["held"], facts["pipes"]) == (False, [])
    assert [frame[0] for frame in read(papad, "output a")] == ["out", "closed"]


def test_the_end_comes_after_all_that_was_written_by_then(papad: Daemon, tmp_path: Path) -> None:
    gate, written = tmp_path / "gate", tmp_path / "written"
    os.mkfifo(gate)
    papad.ask(
        f"make process a shell=1 (read\\ x\\ <{gate};echo\\ late;touch\\ {written};exec\\ /bin/sleep\\ 60)&\\ exit\\ 3"
    )
    wait_until(lambda: json.loads(papad.ask("describe processes a"))["code"] == 3, "it has ended")
    gate.write_text("go\n")
    wait_until(lambda: json.loads(papad.ask("describe processes a"))["captured"] == 5, "its child has written")
    assert read(papad, "output a") == [("out", "a", b"late\n", 0), ("exited", "a", 3, 5)]
    os.killpg(json.loads(papad.ask("describe processes a"))["pid"], 9)


def test_of_processes_without_children_no_end_comes_twice(papad: Daemon) -> None:
    with papad.connect() as follower:
        follower.send("output follow=1 x*\n")
        for number in range(50):
            papad.ask(f"make process x{number} shell=1 echo\\ {'x' * 1000};exit\\ {number}")
        found = frames(follower, 100)
    assert sorted(frame[0] for frame in found) == ["closed"] * 50 + ["out"] * 50
