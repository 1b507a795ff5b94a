"""Something papad needs is not to be had: the command that met it says so, leaves nothing behind, and all else goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.waiting import wait_until
from tests.system.papad import ASK, SCOPE, TOOLS, Papad, drop_in, field, serve, systemd_version

SLEEP = "/bin/sleep 1000"


def state(papad: Papad) -> tuple[list[str], int]:
    """What papad lists, and how many descriptors it has open."""
    return papad.talk("list sockets", "list processes", "list values"), len(papad.descriptors(papad.main_pid()))


@contextmanager
def nothing_changes(papad: Papad) -> Iterator[None]:
    before = state(papad)
    yield
    assert state(papad) == before


@contextmanager
def limited(papad: Papad, pid: int, limit: str, value: str) -> Iterator[None]:
    """A process under a resource limit."""
    prlimit = ("prlimit", f"--pid={pid}")
    old = papad.machine.out(*prlimit, f"--{limit}", "--output=SOFT,HARD", "--noheadings", "--raw").replace(" ", ":")
    papad.machine.run(*prlimit, f"--{limit}={value}:")
    try:
        yield
    finally:
        papad.machine.run(*prlimit, f"--{limit}={old}")


def test_descriptors_run_out(papad: Papad) -> None:
    papad.talk("make socket s", f"make process p {SLEEP}")
    with nothing_changes(papad), limited(papad, papad.main_pid(), "nofile", "80"):
        assert (
            papad.ask(f"make process q {SLEEP}")
            == "Error: papad lacks a resource: Too many open files; nothing was changed"
        )
        assert papad.ask("get v") == ""
    assert "pid=" in papad.ask(f"make process q {SLEEP}")


def test_no_memory_for_a_ring(papad: Papad) -> None:
    """The kernel refuses a memfd of that size, as it does where memory is short."""
    papad.ask(f"make process p {SLEEP}")
    with nothing_changes(papad), limited(papad, papad.main_pid(), "fsize", "1000000"):
        assert papad.ask(f"make process q bufsize=2m {SLEEP}").startswith("Error: papad lacks a resource: ")
    assert "pid=" in papad.ask(f"make process q bufsize=2m {SLEEP}")


def test_the_nursery_lacks_descriptors(papad: Papad) -> None:
    papad.talk("make socket s", f"make process p {SLEEP}")
    with nothing_changes(papad), limited(papad, papad.nursery_pid(), "nofile", "8"):
        assert papad.ask(f"make process q {SLEEP}").startswith("Error: Cannot start a process: Too many open files")
    assert "pid=" in papad.ask(f"make process q {SLEEP}")


def test_no_more_tasks(papad: Papad) -> None:
    papad.ask(f"make process p {SLEEP}")
    if not papad.show("TasksCurrent", SCOPE).isdecimal():
        pytest.skip("this machine has no pids controller in its cgroup v2 hierarchy")
    papad.systemctl("set-property", "--runtime", SCOPE, "TasksMax=2")
    with nothing_changes(papad):
        assert papad.ask(f"make process q {SLEEP}").startswith(
            "Error: Cannot start a process: Resource temporarily unavail"
        )
    papad.systemctl("set-property", "--runtime", SCOPE, "TasksMax=100")
    assert "pid=" in papad.ask(f"make process q {SLEEP}")


def notify_socket(papad: Papad) -> str:
    environ = papad.machine.root(f"/proc/{papad.main_pid()}/environ").read_bytes().decode().split("\0")
    return dict(variable.split("=", 1) for variable in environ if variable)["NOTIFY_SOCKET"]


def test_systemd_cannot_be_told(papad: Papad) -> None:
    papad.ask("make socket before")
    path = notify_socket(papad)
    papad.machine.run("mv", path, f"{path}.away")
    try:
        with nothing_changes(papad):
            assert papad.ask("make socket s path=/run/s.sock").startswith(
                "Error: systemd cannot be asked to keep this: "
            )
            assert not papad.machine.root("/run/s.sock").exists()
            assert papad.ask("make socket before").startswith("before ")
    finally:
        papad.machine.run("mv", f"{path}.away", path)
    assert papad.ask("make socket s path=/run/s.sock").startswith("s ")


def test_more_sockets_than_the_fd_store_holds(papad: Papad) -> None:
    """From systemd 254 on papad is told how much that is; before, its own limit is the one of the unit as it is shipped."""
    with drop_in(papad, "papad.service", "[Service]", "FileDescriptorStoreMax=103"):
        limit = 3 if systemd_version(papad.machine) >= 254 else 400
        answers = papad.talk(*(f"make socket s{number}" for number in range(5)))
        assert [answer.startswith("Error") for answer in answers] == [number >= limit for number in range(5)]
        if limit == 3:
            assert answers[-1] == "Error: The limit of 3 sockets is reached; remove some that are not needed"
        before = papad.ask("list sockets")
        papad.wait_for_new(papad.sigkill())
        assert papad.ask("list sockets") == before


def test_the_limit_of_sockets_survives(papad: Papad) -> None:
    answers = papad.talk(*(f"make socket a-name-that-is-longer-than-one-would-think-{number}" for number in range(401)))
    assert answers[-1] == "Error: The limit of 400 sockets is reached; remove some that are not needed"
    before = papad.ask("list sockets")
    papad.wait_for_new(papad.sigkill())
    assert papad.ask("list sockets") == before
    assert before.count("\n") == 399
    ports = output_of_all(papad)
    assert len(ports) == 400


def output_of_all(papad: Papad) -> set[int]:
    """The file numbers that a process inherits beyond 0, 1 and 2."""
    papad.ask(f"make process many {SLEEP}")
    pid = int(field(papad.ask("list processes many"), "pid"))
    return {fd for fd in papad.descriptors(pid) if fd > 2}


def test_the_nursery_dies(papad: Papad) -> None:
    port = serve(papad, "web")
    papad.machine.run("rm", "-f", "/run/hold.go")
    papad.talk(f"make process a {TOOLS_HOLD} 9", f"make process b {TOOLS_HOLD} 7")
    worker = int(field(papad.ask("list processes web"), "pid"))
    papad.machine.run("kill", "-KILL", str(papad.nursery_pid()))
    wait_until(
        lambda: "the nursery is gone" in papad.machine.out("journalctl", "-u", "papad.service"), "papad has noticed"
    )
    assert papad.talk("list processes")[0].count("running=True") == 3
    assert papad.machine.out("/usr/bin/python3", "-c", ASK, port) == str(worker)
    made = papad.ask(f"make process c {SLEEP}")
    assert "running=True" in made
    papad.wait_for_new(papad.sigkill())
    papad.machine.write("/run/hold.go", "")
    for name, code in (("a", "9"), ("b", "7")):
        records = papad.machine.out("/usr/bin/python3", f"{TOOLS}/watch.py", name)
        assert f'["closed", "{name}", "{code}"]' in records
        assert '"after\\n"' in records


TOOLS_HOLD = f"/usr/bin/python3 {TOOLS}/hold.py"


def test_the_code_of_an_orphan_is_unknown_where_the_kernel_cannot_tell(papad: Papad) -> None:
    """A kernel before 6.15, and the nursery gone: 256, never a code that might be wrong."""
    run = "import papad.daemon.nursery.pidfd as p; p.exit_code = lambda fd: None; from papad.daemon.main import main; main()"
    with drop_in(papad, "papad.service", "[Service]", f"ExecStart=\nExecStart=/usr/bin/python3 -c '{run}'"):
        papad.machine.run("rm", "-f", "/run/hold.go")
        papad.ask(f"make process a {TOOLS_HOLD} 9")
        papad.machine.run("kill", "-KILL", str(papad.nursery_pid()))
        papad.machine.write("/run/hold.go", "")
        assert '["closed", "a", "256"]' in papad.machine.out("/usr/bin/python3", f"{TOOLS}/watch.py", "a")
        # With the nursery alive no pidfd is needed, over a restart of papad either.
        papad.machine.run("rm", "-f", "/run/hold.go")
        papad.ask(f"make process b {TOOLS_HOLD} 9")
        papad.wait_for_new(papad.sigkill())
        papad.machine.write("/run/hold.go", "")
        assert '["closed", "b", "9"]' in papad.machine.out("/usr/bin/python3", f"{TOOLS}/watch.py", "b")


def test_without_systemd_run_processes_run_in_the_group_of_the_service(papad: Papad) -> None:
    papad.machine.run("mv", "/usr/bin/systemd-run", "/usr/bin/systemd-run.away")
    try:
        cursor = papad.machine.cursor()
        pid = field(papad.ask(f"make process p {SLEEP}"), "pid")
        papad.ask(f"make process q {SLEEP}")
        group = papad.machine.out("cat", f"/proc/{pid}/cgroup")
        assert group.rpartition("/")[2] == "papad.service"
        journal = papad.machine.journal(cursor, "-u", "papad.service")
        assert journal.count("processes run in papad's own control group") == 1
        papad.wait_for_new(papad.sigkill())
        assert field(papad.ask("list processes p"), "pid") == pid
    finally:
        papad.machine.run("mv", "/usr/bin/systemd-run.away", "/usr/bin/systemd-run")
        papad.machine.run("pkill", "-KILL", "-x", "sleep")


SILENT = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('127.0.0.9', 53)); print('bound', flush=True); input()"


def test_a_silent_name_server_is_waited_for_by_who_asks_and_for_five_seconds(papad: Papad) -> None:
    papad.machine.run("mv", "/etc/resolv.conf", "/etc/resolv.conf.away", check=False)
    papad.machine.write("/etc/resolv.conf", "nameserver 127.0.0.9\n")
    try:
        with papad.machine.running("/usr/bin/python3", "-c", SILENT) as silent:
            assert silent.stdout is not None
            assert silent.stdout.readline() == "bound\n"
            papad.ask("get v")
            begun = time.monotonic()
            told = papad.ask("make socket s host=slow.example")
            assert told.startswith("Error: the directory of users, groups or hosts has not answered within 5 s")
            assert 4.9 < time.monotonic() - begun < 9.5  # resolv.conf(5) has it wait for ten
    finally:
        papad.machine.root("/etc/resolv.conf").unlink()
        papad.machine.run("mv", "/etc/resolv.conf.away", "/etc/resolv.conf", check=False)


def test_without_journald_the_log_goes_to_standard_error(papad: Papad) -> None:
    """From 254 on systemd keeps that stream for a journald that comes back."""
    papad.ask("get v")
    cursor = papad.machine.cursor()
    papad.systemctl("stop", "systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-journald.service")
    try:
        assert "running=True" in papad.ask("make process p journal=1 /bin/echo hi")
    finally:
        papad.systemctl("start", "systemd-journald.service")
    journal = papad.machine.journal(cursor, "-u", "papad.service")
    if systemd_version(papad.machine) >= 254:
        assert "papad: INFO: started process p with pid" in journal
    assert "Traceback" not in journal
    assert '"unforwarded":1' in papad.ask("describe processes p")
