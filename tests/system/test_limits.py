"""Limits on a booted systemd: much of something, a mistake of the administrator, everything stopped at once."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from tests.support.waiting import wait_until
from tests.system.papad import ASK, SCOPE, TOOLS, Papad, drop_in, field, pid_of, serve, systemd_version

PYTHON = "/usr/bin/python3"
HERE = """
import json, sys
from talk import Talk

def say(talk, lines):
    answers = []
    for start in range(0, len(lines), 100):
        some = lines[start:start + 100]
        talk.socket.sendall("".join(line + chr(10) for line in some).encode())
        for _ in some:
            while b"\\n> " not in talk._buffer:
                talk._more()
            answer, _, talk._buffer = talk._buffer.partition(b"\\n> ")
            answers.append(answer.decode())
    return answers

with Talk(sys.argv[1]) as talk:
"""


def inside(papad: Papad, body: str, *args: str) -> Any:
    """What a body of Python, which has a connection `talk`, prints as JSON."""
    script = HERE + "".join(f"    {line}\n" for line in body.strip().splitlines())
    env = {"PYTHONPATH": TOOLS}
    done = papad.machine.run(PYTHON, "-c", script, papad.where, *args, user=papad.user, env=env, seconds=120)
    return json.loads(done.stdout)


FILL = """
values = {f"v{number}": f"{number:05d}" * (size // 5) for number in range(count)}
print(json.dumps(sorted(set(say(talk, [f"set {name} {value}" for name, value in values.items()])))))
"""
CHECK = """
print(json.dumps([number for number in range(count) if talk.ask(f"get v{number}") != f"{number:05d}" * (size // 5)]))
"""
SIZE, COUNT = 12_000, 4_000
VALUES = f"size, count = {SIZE}, {COUNT}"


def test_4_000_values_of_12_kb_survive_and_at_the_bound_removing_works(own: Papad) -> None:
    assert inside(own, VALUES + FILL) == [""]
    own.wait_for_new(own.sigkill())
    assert inside(own, VALUES + CHECK) == []
    more = """
more = [f"set w{number} " + "w" * size for number in range(2000)]
answers = say(talk, more)
print(json.dumps([answers.count(""), sorted(set(answers) - {""})]))
"""
    taken, refused = inside(own, VALUES + more)
    assert refused == ["Error: papad remembers 64 MiB already, which is its limit; remove something"]
    assert 1000 < taken < 2000
    assert own.ask("set another " + "x" * SIZE) in refused
    assert own.ask("set another 1") == "", "there is room for a small one"
    assert own.talk("remove values w*", "set last " + "x" * SIZE) == ["", ""]
    own.wait_for_new(own.sigkill())
    assert inside(own, VALUES + CHECK) == []
    assert own.talk("get another", "list values w*") == ["1", ""]


def make_many(papad: Papad, count: int, command: str = "/bin/sleep 1000") -> None:
    body = """
lines = [f"make process p{number} {sys.argv[3]}" for number in range(int(sys.argv[2]))]
print(json.dumps([answer for answer in say(talk, lines) if "pid=" not in answer]))
"""
    assert inside(papad, body, str(count), command) == []


PASS = """
import os, resource, socket
assert os.geteuid() != 0
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
left, right = socket.socketpair()
for _ in range(10):
    reader, writer = os.pipe()
    socket.send_fds(left, [b"x"], [reader, writer] * 20)
    _, fds, _, _ = socket.recv_fds(right, 1, 40)
    for fd in (*fds, reader, writer):
        os.close(fd)
    print(len(fds))
"""


def test_another_program_of_the_user_may_still_pass_descriptors(own: Papad) -> None:
    """Those in flight count for the whole user, and may be as many as the sender may have (unix(7), ETOOMANYREFS)."""
    make_many(own, 400)
    assert own.machine.out(PYTHON, "-c", PASS, user=own.user).split() == ["40"] * 10
    own.wait_for_new(own.sigkill())
    assert own.ask("list processes").count("running=True") == 400
    assert own.machine.out(PYTHON, "-c", PASS, user=own.user).split() == ["40"] * 10
    own.systemctl("stop", "papad.service")
    assert own.machine.out(PYTHON, "-c", PASS, user=own.user).split() == ["40"] * 10


def gone(papad: Papad, pid: int) -> bool:
    return not papad.machine.root(f"/proc/{pid}").exists()


class Held:
    """One of everything that papad may hold, and whether it is all there afterwards."""

    def __init__(self, papad: Papad) -> None:
        self.papad = papad
        papad.machine.run("rm", "-f", "/run/hold.go", "/run/hold.started", "/run/numbered.stop")
        self.port = serve(papad, "web")
        papad.talk(
            "set v kept",
            "make socket local path=/run/local.sock",
            f"make process numbered {PYTHON} {TOOLS}/numbered.py",
            f"make process hold {PYTHON} {TOOLS}/hold.py 9",
            "make process over /bin/sh -c echo\\ over;exit\\ 4",
        )
        wait_until(lambda: papad.machine.root("/run/hold.started").exists(), "it has begun")
        wait_until(lambda: "running=False" in papad.ask("list processes over"), "it has ended")
        self.pids = {name: pid_of(papad, name) for name in ("web", "numbered", "hold", "over")}
        self.sockets = papad.ask("list sockets")

    def end(self, *names: str) -> None:
        """Let processes end; returns once they have, whether or not there is a papad."""
        machine = self.papad.machine
        for name in names:
            machine.write("/run/hold.go" if name == "hold" else "/run/numbered.stop", "")
            wait_until(partial(gone, self.papad, self.pids[name]), f"{name} has ended")

    def check(self) -> None:
        """All is there; all processes end, with all that they have written and the code that they end with."""
        papad = self.papad
        assert papad.ask("get v") == "kept"
        assert papad.ask("list sockets") == self.sockets
        assert {name: pid_of(papad, name) for name in self.pids} == self.pids
        assert papad.machine.out(PYTHON, "-c", ASK, self.port) == str(self.pids["web"])
        self.end("hold", "numbered")
        papad.machine.run("kill", str(self.pids["web"]))
        records = json.loads(papad.machine.out(PYTHON, f"{TOOLS}/watch.py", "*"))
        output: dict[str, str] = {}
        for kind, name, data in records:
            if kind == "out":
                output[name] = output.get(name, "") + data
        assert {name: int(data) for kind, name, data in records if kind == "closed"} == {
            "web": -15,
            "numbered": 7,
            "hold": 9,
            "over": 4,
        }
        assert (output["hold"], output["over"]) == ("before\nafter\n", "over\n")
        numbers = output["numbered"].split()
        assert numbers == [f"{number:08d}" for number in range(len(numbers))]


@pytest.mark.parametrize("wrong", ["ListenStream=0.0.0.0:20203", "ListenFIFO=/run/limits.fifo"])
def test_a_wrong_control_socket_costs_nothing_but_itself(papad: Papad, wrong: str) -> None:
    held = Held(papad)
    cursor = papad.machine.cursor()
    with drop_in(papad, "papad.socket", "[Socket]", wrong):
        papad.systemctl("restart", "papad.socket", "papad.service")
        pid = papad.main_pid()
        assert papad.ask("get v", where="tcp") == "kept"
        journal = papad.machine.journal(cursor, "-u", "papad.service")
        assert "is not served" in journal
        if "0.0.0.0" in wrong:
            assert "refusing to be reachable at 0.0.0.0:20203" in journal
        assert papad.main_pid() == pid
        papad.wait_for_new(papad.sigkill())
        assert papad.ask("get v") == "kept"
    papad.systemctl("restart", "papad.socket", "papad.service")
    held.check()


@pytest.mark.parametrize("enabled", [True, False], ids=["enabled", "only started"])
def test_isolate_costs_nothing(papad: Papad, enabled: bool) -> None:
    held = Held(papad)
    pid = papad.main_pid()
    papad.systemctl("enable" if enabled else "disable", "papad.socket")
    try:
        papad.systemctl("isolate", "multi-user.target")
        assert papad.main_pid() == pid
        held.check()
    finally:
        papad.systemctl("disable", "papad.socket")


def test_ten_stops_and_starts_of_the_socket_at_once_cost_nothing(papad: Papad) -> None:
    held = Held(papad)
    for _ in range(10):
        papad.systemctl("stop", "papad.socket", "papad.service")
        papad.systemctl("start", "papad.socket", "papad.service")
    held.check()


@pytest.mark.parametrize("ends", ["before the start", "after the start"])
def test_a_stop_and_a_start_cost_nothing(papad: Papad, ends: str) -> None:
    held = Held(papad)
    cursor = papad.machine.cursor()
    papad.systemctl("stop", "papad.service")
    assert papad.main_pid() == 0
    if ends == "before the start":
        held.end("hold", "numbered")
    papad.systemctl("start", "papad.service")
    held.check()
    assert "lost" not in papad.machine.journal(cursor, "-u", "papad.service")


MANY, FEWER = 1000, 300


def codes_of_many(papad: Papad) -> list[int]:
    """The exit codes that are known, once all are."""
    body = """
print(json.dumps([each["code"] for each in map(json.loads, talk.ask("describe processes p*").splitlines())]))
"""
    codes: list[int] = []

    def known() -> bool:
        codes[:] = inside(papad, body)
        return None not in codes

    wait_until(known, "all have ended")
    return codes


def test_all_processes_stopped_at_once_and_every_code_is_known(papad: Papad) -> None:
    make_many(papad, MANY)
    papad.systemctl("stop", "papad-processes*")
    assert codes_of_many(papad) == [-15] * MANY
    assert "running=True" in papad.ask("make process again /bin/sleep 1000"), "there is a new nursery"


def test_all_processes_stopped_at_once_while_papad_is_stopped_and_every_code_is_known(papad: Papad) -> None:
    make_many(papad, FEWER)
    pids = papad.scope_pids() - {papad.nursery_pid()}
    assert len(pids) == FEWER
    papad.systemctl("stop", "papad.service")
    papad.systemctl("stop", "--no-block", SCOPE)
    wait_until(lambda: all(gone(papad, pid) for pid in pids), "all have ended")
    cursor = papad.machine.cursor()
    papad.systemctl("start", "papad.service")
    if systemd_version(papad.machine) >= 254:
        assert codes_of_many(papad) == [-15] * FEWER
    else:  # it has dropped the one home, and ended the other
        assert papad.ask("list processes") == ""
        assert papad.machine.journal(cursor, "-u", "papad.service").count("lost over the stop of papad: ") == FEWER


def test_a_daemon_that_hangs_is_replaced_and_nothing_is_lost(papad: Papad) -> None:
    with drop_in(papad, "papad.service", "[Service]", "WatchdogSec=2"):
        held = Held(papad)
        old = papad.main_pid()
        papad.machine.run("kill", "-STOP", str(old))
        papad.wait_for_new(old)
        assert field(papad.ask("list processes web"), "running") == "True"
        held.check()


def test_a_socket_made_anew_is_the_one_that_comes_back_where_the_fd_store_did_not_let_go(papad: Papad) -> None:
    """systemd could not be told to drop the first; it then has two of one name."""
    first = papad.ask("make socket s")
    environ = papad.machine.root(f"/proc/{papad.main_pid()}/environ").read_bytes().decode().split("\0")
    (path,) = (each.partition("=")[2] for each in environ if each.startswith("NOTIFY_SOCKET="))
    papad.machine.run("mv", path, f"{path}.away")
    try:
        assert papad.ask("remove sockets s") == ""
    finally:
        papad.machine.run("mv", f"{path}.away", path)
    second = papad.ask("make socket s backlog=9")
    assert field(second, "port") != field(first, "port")
    assert field(second, "fileno") == field(first, "fileno")
    papad.wait_for_new(papad.sigkill())
    assert papad.ask("list sockets") == second
    listening = papad.machine.out("ss", "-Hlnt")
    assert f":{field(second, 'port')} " in listening
    assert f":{field(first, 'port')} " not in listening
