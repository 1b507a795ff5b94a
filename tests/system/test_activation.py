"""papad as a service: started by the first connection, gone when idle, its processes in a scope of their own."""

from __future__ import annotations

import pytest

from tests.support.waiting import wait_until
from tests.system.machine import Machine
from tests.system.papad import SCOPE, TOOLS, UNIX, Papad, fileno, output_of, pid_of, serve

GREETING = 'Papa is home. Type "help" for commands.'


@pytest.mark.parametrize("where", ["tcp", UNIX])
def test_the_first_connection_starts_the_service(papad: Papad, where: str) -> None:
    assert papad.show("ActiveState", "papad.socket") == "active"
    assert papad.show("ActiveState") == "inactive"
    assert papad.talk(where=where) == [GREETING]
    assert papad.show("ActiveState") == "active"
    assert "/usr/bin/papad" in papad.machine.out("cat", f"/proc/{papad.main_pid()}/cmdline")


def test_tcp_and_unix_share_one_state(papad: Papad) -> None:
    assert papad.ask("set color blue", where="tcp") == ""
    assert papad.ask("get color", where=UNIX) == "blue"


def test_the_status_says_what_papad_holds(papad: Papad) -> None:
    papad.talk("make socket one", "make socket two", "make process p /bin/sleep 600")
    wait_until(lambda: "2 sockets" in papad.show("StatusText"), "the status names 2 sockets")
    assert "1 process" in papad.show("StatusText")


def test_processes_live_in_a_scope_of_their_own(papad: Papad) -> None:
    papad.ask("make process p /bin/sleep 600")
    child = pid_of(papad, "p")
    nursery = papad.nursery_pid()
    assert papad.scope_pids() == {child, nursery}
    assert papad.main_pid() not in papad.scope_pids()
    parent = papad.machine.out("ps", "-o", "ppid=", "-p", str(child))
    assert int(parent) == nursery


def test_a_child_has_its_three_and_the_managed_sockets_only(papad: Papad) -> None:
    lines = papad.talk("make socket a", "make socket b path=/run/b.sock", "make socket c type=dgram")
    expected = {0, 1, 2} | {fileno(line) for line in lines}
    for name, options in (("captured", ""), ("silent", "stdout=0 stderr=0"), ("merged", "stderr=stdout")):
        papad.ask(f"make process {name} {options} /bin/sleep 600")
        assert papad.descriptors(pid_of(papad, name)).keys() == expected


def test_a_child_inherits_nothing_of_the_service(papad: Papad) -> None:
    """Neither NOTIFY_SOCKET and its like, nor the many descriptors that papad may open."""
    assert output_of(papad, "env.A=1 /usr/bin/env") == "A=1"
    assert output_of(papad, "shell=1 ulimit\\ -Sn;umask").split() == ["1024", "0022"]


def test_each_managed_socket_is_one_entry_of_the_fd_store(papad: Papad) -> None:
    def stored() -> int:
        return int(papad.show("NFileDescriptorStore"))

    papad.ask("make socket first")
    before = stored()
    papad.talk("make socket a", "make socket b")
    wait_until(lambda: stored() == before + 2, "both sockets are stored")
    papad.ask("remove sockets a")
    wait_until(lambda: stored() == before + 1, "the removed one is not")


def test_a_killed_nursery_has_a_successor(papad: Papad) -> None:
    assert output_of(papad, "/bin/echo one") == "one"
    papad.machine.run("kill", "-KILL", str(papad.nursery_pid()))
    assert output_of(papad, "/bin/echo two") == "two"


def test_exit_if_idle_ends_the_service_until_the_next_connection(papad: Papad) -> None:
    papad.ask("list sockets")
    first = papad.main_pid()
    assert papad.ask("exit-if-idle") == "Exiting papa!"
    wait_until(lambda: papad.show("ActiveState") == "inactive", "the service has ended")
    assert (papad.main_pid(), papad.show("Result")) == (0, "success")
    assert papad.show("ActiveState", "papad.socket") == "active"
    assert papad.talk() == [GREETING]
    assert papad.main_pid() not in (0, first)


def test_exit_if_idle_is_refused_while_something_is_held(papad: Papad) -> None:
    assert papad.talk("set a b", "exit-if-idle")[1] == "not idle"
    assert papad.show("ActiveState") == "active"


def test_a_stop_is_clean(papad: Papad) -> None:
    papad.ask("make socket a")
    papad.systemctl("stop", "papad.service")
    assert papad.show("Result") == "success"


def test_systemd_socket_activate_starts_papad(papad: Papad) -> None:
    args = "--listen=127.0.0.1:20299 --listen=/run/by-hand.sock /usr/bin/papad"
    script = f"systemd-socket-activate {args} & cat; kill $!; wait $!"
    with papad.machine.running("sh", "-c", script):
        wait_until(papad.machine.root("/run/by-hand.sock").exists, "it listens")
        assert papad.talk("set a b", "get a", where="/run/by-hand.sock") == ["", "b"]


@pytest.mark.parametrize("listen", ["0.0.0.0:20299", "[::]:20299"])
def test_papad_refuses_to_be_reachable_from_elsewhere(papad: Papad, listen: str) -> None:
    connect = "until (exec 3<>/dev/tcp/127.0.0.1/20299); do :; done"
    script = f"systemd-socket-activate --listen={listen} /usr/bin/papad & {connect} 2>&-; wait $!"
    done = papad.machine.run("bash", "-c", script, check=False)
    assert done.returncode == 78, done.stderr
    assert f"refusing to be reachable at {listen.translate(str.maketrans('', '', '[]'))}" in done.stderr


def test_a_worker_is_told_its_sockets_number(papad: Papad) -> None:
    port = serve(papad, "web")
    answer = papad.machine.out("/usr/bin/python3", "-c", ONE_REQUEST, port)
    assert int(answer) == pid_of(papad, "web")


ONE_REQUEST = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10) as connection:
    connection.sendall(b"who\\n")
    print(connection.makefile().read())
"""


def test_the_machine_is_not_hurt(machine: Machine, papad: Papad) -> None:
    """What is left of papad once its units are stopped and its scope has ended: nothing."""
    papad.ask("make process p /bin/sleep 600")
    papad.reset()
    assert not machine.run("pgrep", "-f", "bin/[p]apad|[s]leep 600", check=False).stdout
    assert papad.show("ActiveState", SCOPE) == "inactive"


def test_without_control_sockets_papad_opens_none_of_its_own_and_holds_on(machine: Machine, papad: Papad) -> None:
    """A new ListenStream= makes systemd drop the old one at its next reload; the unit is of use again when it has been restarted."""
    before = papad.talk("make socket web", "set a b", "make process p /bin/sleep 600")
    drop_in = "/etc/systemd/system/papad.socket.d/test.conf"
    machine.write(drop_in, "[Socket]\nListenStream=\nListenStream=/run/papad/other.sock\n")
    try:
        papad.systemctl("daemon-reload")
        since = machine.cursor()
        papad.restart()
        assert papad.show("ActiveState") == "active"
        assert ":20202" not in machine.out("ss", "-Hltn")
        told = machine.journal(since, "--unit=papad.service")
        assert (
            "nobody can talk to papad but at the socket of those who look until systemd passes it its sockets" in told
        )
        assert papad.ask("get a", where="/run/papad/view.sock") == "b"
        papad.systemctl("stop", "papad-view.socket")
        since = machine.cursor()
        papad.restart()
        assert "nobody can talk to papad until systemd passes it its sockets: systemctl restart papad.socket" in (
            machine.journal(since, "--unit=papad.service")
        )
        papad.systemctl("restart", "papad.socket")
        papad.where = "/run/papad/other.sock"
        assert papad.talk("list sockets", "get a", "list processes") == [before[0], "b", before[2]]
    finally:
        machine.run("rm", drop_in)
        papad.systemctl("daemon-reload")
        papad.systemctl("restart", "papad.socket")
        papad.where = UNIX
    assert papad.talk("list sockets", "get a", "list processes") == [before[0], "b", before[2]]


def test_who_comes_as_papad_leaves_idle_is_answered_by_the_next(machine: Machine, papad: Papad) -> None:
    """And not by the one that is leaving, which would forget it."""
    assert machine.run("/usr/bin/python3", f"{TOOLS}/leaving.py", "100", seconds=120).stdout == "0\n"


def test_the_control_sockets_stay_however_often_papad_leaves_at_once(machine: Machine, papad: Papad) -> None:
    """Whoever has connected waits, and is answered once papad can stay."""
    drop_in = "/etc/systemd/system/papad.service.d/test.conf"
    machine.write(drop_in, '[Service]\nExecStart=\nExecStart=/bin/sh -c "echo >> /run/leaves; exit 75"\n')
    papad.systemctl("daemon-reload")
    with machine.running("/usr/bin/python3", f"{TOOLS}/talk.py", UNIX, "set late 1", "get late") as client:
        try:
            wait_until(
                lambda: int(machine.out("sh", "-c", "cat /run/leaves | wc -l")) > 40 or client.poll() is not None,
                "papad has left 40 times, or the client was dropped",
            )
        finally:
            machine.run("rm", drop_in, "/run/leaves")
            papad.systemctl("daemon-reload")
        assert client.stdout is not None
        assert client.stdout.read().strip() == '["", "1"]'
    assert papad.show("ActiveState", "papad.socket") == "active"
