"""papactl -H over a real ssh: to this machine itself, as root and as others, under several names."""

from __future__ import annotations

import os
import pty
import signal
from collections.abc import Iterator

import pytest

from tests.ctl.support import Terminal
from tests.support.waiting import wait_until
from tests.system.machine import Machine
from tests.system.papad import MEMBER, STRANGER, USER, Papad
from tests.system.test_papactl import FOLLOW, WRITER

KILLS = 12
KEY = "/root/.ssh/id_ed25519"
CONFIG = f"""\
Host one
    User root
Host two
    User {USER}
Host member
    User {MEMBER}
Host stranger
    User {STRANGER}
Host closed
    Port 9
Host password
    User {USER}
    PubkeyAuthentication no
Host unknown
    UserKnownHostsFile /root/.ssh/nobody
Host fancy
    RemoteCommand tmux attach
    LocalForward 22 127.0.0.1:22
    ExitOnForwardFailure yes
    RequestTTY force
Host *
    HostName 127.0.0.1
"""


@pytest.fixture(scope="module")
def ssh(machine: Machine) -> None:
    """Names of hosts that root may use."""
    machine.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", KEY)
    machine.write("/root/.ssh/config", CONFIG)
    host_key = machine.out("cat", "/etc/ssh/ssh_host_ed25519_key.pub")
    machine.write("/root/.ssh/known_hosts", f"127.0.0.1 {host_key}\n")
    for user in ("root", MEMBER, STRANGER, USER):
        home = machine.out("sh", "-c", f"echo ~{user}")
        machine.run("install", "-d", "-m", "700", "-o", user, "-g", user, f"{home}/.ssh")
        machine.run("install", "-m", "600", "-o", user, "-g", user, f"{KEY}.pub", f"{home}/.ssh/authorized_keys")
    machine.run("sh", "-c", f"echo {USER}:secret | chpasswd")
    # A user's manager is to end with the last connection, not ten seconds later.
    machine.write("/etc/systemd/logind.conf.d/ssh.conf", "[Login]\nUserStopDelaySec=0\n")
    machine.run("systemctl", "restart", "systemd-logind.service")


@pytest.fixture
def one(ssh: None, papad: Papad) -> Iterator[Papad]:
    """The host `one`, whose papad is the system's. Nothing of any connection is there after a test."""
    yield papad
    wait_until(lambda: not connections(papad.machine), "no ssh and no bridge is left")


@pytest.fixture
def two(own: Papad) -> Papad:
    """The host `two`, where a user has a papad of his own."""
    return own


def connections(machine: Machine) -> list[str]:
    """The command lines of ssh, papactl and what it runs over there."""
    lines = machine.out("ps", "-eo", "args").splitlines()
    return [
        line for line in lines if "papactl" in line and not line.startswith(("timeout", "setsid", "sh -c", "bash -c"))
    ]


def near_ssh(machine: Machine) -> list[str]:
    """The pids of ssh."""
    return machine.out("pgrep", "-x", "ssh").split()


class MachineTerminal(Terminal):
    """papactl in the machine, at a terminal of its own."""

    def __init__(self, machine: Machine, *args: str) -> None:
        self.text = ""
        # A session in the machine, so that Ctrl-C is for papactl and not for what brings it there.
        command = machine.command(["setsid", "--ctty", "--wait", "papactl", *args], env={"TERM": "xterm"})
        self._fd, slave = pty.openpty()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                for fd in range(3):
                    os.dup2(slave, fd)
                os.execvp(command[0], command)
            finally:
                os._exit(127)
        os.close(slave)


def test_every_command_does_over_there_what_it_does_here(one: Papad) -> None:
    out = one.machine.out
    out("papactl", "-H", "one", "make", "socket", "web", "--path", "/run/a b.sock")
    line = out(
        "papactl", "-Hone", "make", "process", "job", "-E", "A=b  c", "--", "/bin/sh", "-c", 'echo "$A"; echo no >&2'
    )
    assert line.startswith("job pid=")
    out("papactl", "--host=one", "set", "v", "a\nb  'c'")
    wait_until(lambda: '"closed": true' in out("papactl", "describe", "processes", "job", "--json"), "job has ended")
    for command in (
        ("list", "sockets"),
        ("list", "processes"),
        ("list", "values", "--json"),
        ("get", "v"),
        ("describe", "sockets"),
        ("describe", "processes", "--json"),
        ("output",),
        ("output", "-o", "cat", "--stream", "err"),
        ("output", "-r", "-n1", "-o", "export"),
        ("remove", "sockets", "nothing"),
        ("get",),
        ("help", "make"),
    ):
        here = one.machine.run("papactl", *command, check=False)
        there = one.machine.run("papactl", "-H", "one", *command, check=False)
        expected = (
            here.stdout.replace("PAPAD_NAME=", "_HOSTNAME=one\nPAPAD_NAME=") if "export" in command else here.stdout
        )
        assert (there.returncode, there.stdout, there.stderr) == (here.returncode, expected, here.stderr), command
    assert "at the papad on one\n" in out("papactl", "-H", "one", "status")
    assert out("papactl", "-H", "one", "watch", "job", "-o", "cat") == "b  c\nno"
    assert out("papactl", "-H", "one", "list", "processes") == ""
    watched = out("papactl", "-H", "one", "make", "process", "w", "-w", "--", "/bin/echo", "hi").splitlines()
    assert [line.partition("w")[2][:3] for line in watched] == [" pi", ": h", ": -"]
    out("papactl", "-H", "one", "remove", "sockets", "web")
    script = "set x 1\nget x\nlist sockets\nremove values x\nremove values v\n"
    assert out("sh", "-c", f"printf '{script}' | papactl -H one shell") == "1"
    assert out("papactl", "-H", "one", "exit-if-idle").startswith("Exiting")


def test_every_byte_comes_over_and_standard_error_may_be_the_same_pipe(one: Papad) -> None:
    """ssh makes its standard error non-blocking; papactl must not feel it."""
    machine = one.machine
    machine.run("sh", "-c", "head -c 1000000 /dev/urandom >/run/random; echo >>/run/random")
    machine.out("papactl", "make", "process", "p", "--bufsize", "2m", "--", "/bin/cat", "/run/random")
    wait_until(
        lambda: '"closed": true' in machine.out("papactl", "describe", "processes", "p", "--json"), "p has ended"
    )
    slow = "papactl -H one output p -o cat 2>&1 | (sleep 0.5; cmp - /run/random && echo the same)"
    assert machine.out("bash", "-o", "pipefail", "-c", slow) == "the same"


def test_a_follow_over_kills_of_the_far_papad_and_of_ssh_prints_every_line_once(one: Papad) -> None:
    machine = one.machine
    machine.run("rm", "-f", "/run/enough", "/run/followed")
    machine.write("/run/writer.py", WRITER)
    followed = machine.root("/run/followed")
    with machine.running("sh", "-c", FOLLOW.replace("papactl", "papactl -H one", 1)):
        one.ask("make process w bufsize=64m /usr/bin/python3 /run/writer.py")
        wait_until(lambda: followed.exists() and followed.stat().st_size, "the first lines are printed")
        for number in range(KILLS):
            size = followed.stat().st_size
            if number % 4 == 3:
                one.restart()
            elif number % 4 == 2:
                machine.run("kill", *near_ssh(machine))
            else:
                one.wait_for_new(one.sigkill())
            if number % 2:
                wait_until(lambda size=size: followed.stat().st_size > size, "it goes on")  # type: ignore[misc]
        machine.write("/run/enough", "")
        wait_until(lambda: "the end" in followed.read_text(), "the last line is printed")
        *lines, end = followed.read_text().splitlines()
    assert end == f"the end after {len(lines)}"
    assert lines == [f"line {number:07d}" for number in range(len(lines))]
    assert len(lines) > 1000
    assert machine.root("/run/followed.errors").read_text() == ""


def test_members_are_let_in_and_others_are_told_what_to_do(one: Papad) -> None:
    assert one.machine.out("papactl", "-H", "member", "set", "a", "b") == ""
    assert one.machine.out("papactl", "-H", f"{MEMBER}@one:22", "get", "a") == "b"
    done = one.machine.run("papactl", "-H", "stranger", "get", "a", check=False)
    first, *_, last = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (3, "")
    assert first == "papactl: no permission to talk to papad at /run/papad/papad.sock (the system's)"
    assert "sudo adduser $USER papad" in done.stderr
    assert last == "papactl: cannot talk to the papad on stranger: papactl on that host has reported why"
    done = one.machine.run("papactl", "-H", "stranger", "--port", "20202", "get", "a", check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("papactl: no permission to talk to papad at 127.0.0.1:20202\n")


def test_several_hosts_at_once(one: Papad, two: Papad) -> None:
    machine = one.machine
    both = ("papactl", "-H", "one", "-H", "two")
    machine.out(*both, "set", "user", "everybody")
    assert two.ask("get user") == "everybody"
    machine.out("papactl", "-H", "two", "set", "user", USER)
    assert machine.out(*both, "get", "user") == f"one: everybody\ntwo: {USER}"
    for number in range(3):
        for host in ("two", "one"):
            machine.out("papactl", "-H", host, "make", "process", f"p.{number}", "-w", "--", "/bin/true")
            machine.out("papactl", "-H", host, "make", "process", f"q.{number}", "--", "/bin/echo", str(number))
    assert machine.out(*both, "output", "-o", "cat").splitlines() == [
        f"{h}: {n}" for n in range(3) for h in ("two", "one")
    ]
    assert machine.out(*both, "output", "-o", "cat", "-n3", "-r").splitlines() == ["one: 2", "two: 2", "one: 1"]
    done = machine.run(*both, "-H", "closed", "-H", "stranger", "output", "-o", "cat", "-n1", check=False)
    assert (done.returncode, done.stdout) == (3, "one: 2\n")
    assert {line.partition(": ")[0] for line in done.stderr.splitlines()} == {"closed", "stranger"}
    assert "stranger: papactl: no permission to talk to papad at /run/papad/papad.sock" in done.stderr
    head = 'papactl -H one -H two output -f -o cat | head -n 3; echo "${PIPESTATUS[0]}"'
    assert machine.out("bash", "-c", head).splitlines()[3:] == ["0"]
    machine.write("/run/here/papad/__init__.py", "print('not this one')")
    machine.write("/run/here/json.py", "print('nor this one')")
    assert machine.out("env", "-C", "/run/here", *both, "get", "user") == f"one: everybody\ntwo: {USER}"


@pytest.mark.parametrize("hosts", [("one",), ("one", "two")])
@pytest.mark.parametrize("words", [("output", "-f", "quiet"), ("watch", "quiet")])
def test_ctrl_c_leaves_nothing_behind(one: Papad, two: Papad, hosts: tuple[str, ...], words: tuple[str, ...]) -> None:
    for papad in (one, two):
        papad.ask("make process quiet /bin/sh -c echo\\ hi;exec\\ sleep\\ 600")
    terminal = MachineTerminal(one.machine, *(word for host in hosts for word in ("-H", host)), *words)
    for _ in hosts:
        terminal.until("quiet: hi")
    assert sum("python3" in line and "stdio-bridge" in line for line in connections(one.machine)) == len(hosts)
    terminal.type("\x03")
    assert terminal.rest() == (130, "\n^C")
    wait_until(lambda: not connections(one.machine), "no ssh and no bridge is left")


def test_the_shell_outlives_ctrl_c(one: Papad) -> None:
    one.ask("set v 1")
    terminal = MachineTerminal(one.machine, "-H", "one", "shell")
    terminal.until("papad> ")
    before = connections(one.machine)
    terminal.interrupt_until("papad> ")
    terminal.type("get v\n")
    terminal.until("\n1\r\n")
    assert connections(one.machine) == before
    terminal.type("quit\n")
    assert terminal.rest()[0] == 0


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_nor_does_a_papactl_that_is_killed(one: Papad, two: Papad, sign: signal.Signals) -> None:
    script = "papactl -H one -H two output -f & read _; kill -$0 $!; wait $!; read _"
    with one.machine.running("bash", "-c", script, sign.name.removeprefix("SIG")) as process:
        wait_until(
            lambda: sum("python3 /usr/bin/papactl stdio" in each for each in connections(one.machine)) == 2,
            "it follows",
        )
        assert process.stdin is not None
        process.stdin.write("\n")
        wait_until(lambda: not connections(one.machine), "no ssh and no bridge is left")


def test_what_ssh_cannot_do_is_said_at_once(one: Papad) -> None:
    """There is no terminal here: nothing may wait for an answer."""
    machine = one.machine
    for host, said, tried in (
        ("closed", "ssh: connect to host 127.0.0.1 port 9: Connection refused", "ssh closed"),
        ("unknown", "Host key verification failed.", "ssh unknown"),
        ("password:22", f"{USER}@127.0.0.1: Permission denied (publickey,password).", "ssh -p 22 password"),
    ):
        done = machine.run("setsid", "--wait", "papactl", "-H", host, "status", check=False, seconds=20)
        assert (done.returncode, done.stdout) == (3, "")
        assert f"{said}\npapactl: cannot talk to the papad on {host}: ssh failed\n" in done.stderr
        assert done.stderr.endswith(f"\nCheck whether this works: {tried} papactl status\n")


def test_a_host_without_papactl(one: Papad) -> None:
    machine = one.machine
    machine.run("mv", "/usr/bin/papactl", "/run/papactl")
    try:
        done = machine.run("python3", "/run/papactl", "-H", "one", "status", check=False)
    finally:
        machine.run("mv", "/run/papactl", "/usr/bin/papactl")
    assert (done.returncode, done.stdout) == (3, "")
    said = (
        "papactl: cannot talk to the papad on one: papactl was not found on that host\n"
        "Check whether this works: ssh one papactl status\n"
    )
    assert done.stderr.endswith(f"papactl: command not found\n{said}")


def test_a_password_is_asked_for_at_a_terminal(one: Papad, two: Papad) -> None:
    prompt = f"{USER}@127.0.0.1's password: "
    terminal = MachineTerminal(one.machine, "-H", "password", "status")
    terminal.until(prompt)
    terminal.type("secret\n")
    terminal.until("at the papad on password")
    assert terminal.rest()[0] == 0
    terminal = MachineTerminal(one.machine, "-H", "password", "status")
    terminal.until(prompt)
    terminal.type("\x03")
    assert terminal.rest()[0] == 130
    status, said = MachineTerminal(one.machine, "-H", "one", "-H", "password", "get", "v").rest()
    assert status == 3
    assert f"password: {USER}@127.0.0.1: Permission denied (publickey,password).\n" in said
    assert "With several -H, ssh does not prompt" in said


def test_settings_of_somebodys_ssh_for_sessions_do_no_harm(one: Papad) -> None:
    one.ask("set v 1")
    done = one.machine.run("papactl", "-H", "fancy", "get", "v", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
