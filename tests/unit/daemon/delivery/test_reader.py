"""Reading output without consuming it; describing; exact lines; sockets passed as systemd does. All on a real papad."""

from __future__ import annotations

import itertools
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from papad.protocol import wire
from tests.support.papad import Daemon, Talk
from tests.support.waiting import wait_until

Frame = tuple[str, str, Any, int]  # kind, name, data or number, position


@pytest.fixture
def papad(own_papad: Daemon) -> Daemon:
    return own_papad


def frames(talk: Talk, wanted: int | None = None) -> list[Frame]:
    """Frames up to the prompt, or as many as are wanted."""
    found: list[Frame] = []
    while wanted is None or len(found) < wanted:
        start = talk.exactly(2)
        if start in (b"> ", b"\n>"):
            assert wanted is None
            break
        kind, rest = (start + talk.until(b"\n")).decode().rstrip("\n").split(":", 1)
        name, _, number, _, position = rest.rsplit(":", 4)
        data: Any = int(number)
        if kind in ("out", "err"):
            data = talk.exactly(int(number) + 1)[:-1]
        found.append((kind, name, data, int(position)))
    return found


def ended(papad: Daemon, name: str) -> dict[str, Any]:
    """What is known of a process, once it has ended and all is read."""
    facts: dict[str, Any] = {}

    def closed() -> bool:
        facts.update(json.loads(papad.ask(f"describe processes {name}")))
        return bool(facts["closed"])

    wait_until(closed, f"{name} has ended")
    return facts


def read(papad: Daemon, line: str) -> list[Frame]:
    with papad.connect() as talk:
        talk.send(line + "\n")
        return frames(talk)


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
    assert (facts["captured"], facts["buffered"], facts["lost"]) == (16, 10, 6)
    assert read(papad, "output")[0] == ("lost", "a", 6, 6)
    assert b"".join(each[2] for each in read(papad, "output") if each[0] == "out") == b"6789abcdef"
    assert read(papad, f"output after.{facts['id']}=12") == [("out", "a", b"cdef", 12), ("closed", "a", 0, 16)]
    assert read(papad, f"output after.{facts['id']}=16") == [("closed", "a", 0, 16)]
    assert read(papad, f"output after.{facts['id']}=7 before.{facts['id']}=9") == [("out", "a", b"78", 7)]
    assert read(papad, f"output before.{facts['id']}=9") == [("lost", "a", 6, 6), ("out", "a", b"678", 6)]
    assert read(papad, f"output before.{facts['id']}=5") == []
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


def test_a_reader_that_is_slow_misses_nothing_that_is_still_there(papad: Daemon) -> None:
    """More than all buffers on the way hold is waiting when it begins to read."""
    size = 30_000_000
    papad.ask(f"make process a bufsize=40m /usr/bin/head -c {size} /dev/zero")
    with papad.connect() as talk:
        talk.send("output follow=1\n")
        assert ended(papad, "a")["captured"] == size
        got = 0
        while True:
            ((kind, _, data, position),) = frames(talk, 1)
            if kind == "closed":
                break
            assert position == got
            got += len(data)
        assert got == size


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


def test_describe_tells_all_about_sockets(papad: Daemon) -> None:
    papad.ask("make socket a backlog=7")
    papad.ask(f"make socket u path={papad.path}.u")
    papad.ask("make socket r reuseport=1")
    a, r, u = [json.loads(line) for line in papad.ask("d s").split("\n")]
    assert (a["name"], a["backlog"], a["fileno"], a["waiting"]) == ("a", 7, 64, 0)
    with socket.create_connection(("127.0.0.1", a["port"])):
        wait_until(lambda: json.loads(papad.ask("describe sockets a"))["waiting"] == 1, "the connection waits")
    assert (r["reuseport"], r["fileno"], u["path"], u["waiting"]) == ("1", None, f"{papad.path}.u", None)
    assert a["inode"] != u["inode"]


def test_describe_tells_all_about_processes_and_the_server(papad: Daemon) -> None:
    papad.ask("make process p env.A=1 rlimit.nofile=100 stderr=0 bufsize=5k /bin/sleep 100")
    facts = json.loads(papad.ask("describe processes"))
    expected = {"name": "p", "running": True, "code": None, "args": ["/bin/sleep", "100"], "env": {"A": "1"}}
    expected |= {"rlimits": {"nofile": 100}, "stdout": 1, "stderr": 0, "bufsize": 5120, "captured": 0, "watchers": 0}
    assert facts | expected == facts
    assert facts["memory"] > 0
    assert facts["cpu"] >= 0
    server = json.loads(papad.ask("describe server"))
    assert (server["pid"], server["starts"], server["processes"]) == (papad.popen.pid, 1, 1)
    assert server["nursery"] == papad.nursery()
    assert papad.ask("d server") != ""
    assert papad.ask("describe").startswith('Error: "describe" must be followed by one of: processes, server, sockets')
    os.kill(facts["pid"], 15)
    facts = ended(papad, "p")
    assert (facts["code"], facts["memory"], facts["running"]) == (-15, None, False)


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20) | st.binary(
    max_size=8
).map(os.fsdecode)
words = texts.filter(lambda text: "\0" not in text)


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(words, max_size=5), words, st.sets(st.integers(1, 200), max_size=5))
def test_exact_lines_arrive_exactly(daemon: Daemon, arguments: list[str], value: str, cuts: set[int]) -> None:
    line = wire.exact_line(["make", "process", "p", ("env.A", value), ("shell", "0"), "/bin/true", *arguments])
    edges = [0, *sorted(cut for cut in cuts if cut < len(line)), len(line)]
    with daemon.connect() as talk:
        for start, stop in itertools.pairwise(edges):
            talk.send(line[start:stop])
        assert talk.until(b"\n> ").startswith(b"p pid=")
        facts = json.loads(talk.ask("describe processes p"))
        assert facts["args"] == ["/bin/true", *arguments]
        assert facts["env"] == {"A": value}
        talk.send(wire.exact_line(["set", "v", value]))
        assert talk.until(b"> ").endswith(b"\n> ")
        described = talk.ask("describe values v")
        assert json.loads(described)["value"] == value if value else described == ""
        talk.ask("remove processes p")
        wait_until(lambda: talk.ask("describe processes") == "", "it is forgotten")


def test_a_child_gets_the_very_bytes(papad: Daemon) -> None:
    code = (
        "import os,sys; sys.stdout.buffer.write(os.environb[b'A'] + b'|' + b'|'.join(map(os.fsencode, sys.argv[1:])))"
    )
    value, arguments = os.fsdecode(b"\xff a\n"), ["", " x ", os.fsdecode(b"\\\xfe"), "a=b", '"q"', "%"]
    line = wire.exact_line(["make", "process", "p", ("env.A", value), "/usr/bin/python3", "-c", code, *arguments])
    with papad.connect() as talk:
        talk.send(line)
        talk.until(b"\n> ")
    ended(papad, "p")
    got = b"".join(each[2] for each in read(papad, "output p") if each[0] == "out")
    assert got == os.fsencode("|".join([value, *arguments]))


@pytest.mark.parametrize(
    "line", ["%", "%%", "%%zz", "%list%2", "% ", "%set a%0Ab c", "%set %FF c", "%make process p%00 x"]
)
def test_a_bad_exact_line_is_one_error(daemon: Daemon, line: str) -> None:
    answer = daemon.ask(line)
    assert answer.startswith("Error: ")
    assert "\n" not in answer
    assert daemon.ask("get a") == ""


def test_sockets_are_passed_as_systemd_does(papad: Daemon) -> None:
    for name in ("a", "b:c"):
        papad.ask(f"make socket {name}")
    code = "import os,socket;e=os.environ;print(e['LISTEN_PID']==str(os.getpid()),e['LISTEN_FDS'],e['LISTEN_FDNAMES'],"
    code += "*(socket.socket(fileno=f).getsockname()[1] for f in (3,4)))"
    with papad.connect() as talk:
        talk.send(wire.exact_line(["make", "process", "p", ("listen", "b:c,a"), "/usr/bin/python3", "-c", code]))
        talk.until(b"\n> ")
    ended(papad, "p")
    ports = [json.loads(papad.ask(f"describe sockets {name}"))["port"] for name in ("b:c", "a")]
    got = b"".join(each[2] for each in read(papad, "output p") if each[0] == "out").decode().split()
    assert got == ["True", "2", "b_c:a", *map(str, ports)]
    assert papad.ask("make process q listen=nothing /bin/true") == "Error: Socket nothing not found"
    assert papad.ask("make process q listen= /bin/true").startswith("Error: listen must be names of sockets")


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
