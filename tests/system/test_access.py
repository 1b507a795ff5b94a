"""Who may talk to papad: root, itself and the group. The refused are tested as well as the allowed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.waiting import wait_until
from tests.system.machine import Failed, Machine
from tests.system.papad import MEMBER, STRANGER, TOOLS, UNIX, Papad

OPEN = "/run/papad-open.sock"
OPEN_UNIT = """\
[Unit]
Description=A control socket of papad that everyone may connect to
[Socket]
ListenStream=/run/papad-open.sock
SocketMode=0666
Service=papad.service
"""
ways_in = pytest.mark.parametrize("where", ["tcp", OPEN])


@pytest.fixture
def papad(machine: Machine) -> Iterator[Papad]:
    """papad with one more control socket, which the file system guards from nobody: the peer check has to."""
    papad = Papad(machine)
    papad.reset()
    machine.write("/run/systemd/system/papad-open.socket", OPEN_UNIT)
    papad.systemctl("daemon-reload")
    papad.systemctl("start", "papad-open.socket")
    yield papad
    papad.systemctl("stop", "papad.service", "papad-open.socket", check=False)
    machine.root("/run/systemd/system/papad-open.socket").unlink()
    papad.systemctl("daemon-reload")


@pytest.mark.parametrize("where", ["tcp", UNIX, OPEN])
@pytest.mark.parametrize("user", [None, MEMBER])
def test_root_and_members_of_the_group_are_let_in(papad: Papad, user: str | None, where: str) -> None:
    assert papad.talk("set a b", "get a", where=where, user=user) == ["", "b"]


def test_the_socket_file_keeps_strangers_out(papad: Papad, machine: Machine) -> None:
    assert machine.out("stat", "-c", "%a %U %G", UNIX) == "660 root papad"
    with pytest.raises(Failed, match="PermissionError"):
        papad.talk(where=UNIX, user=STRANGER)


@ways_in
def test_a_stranger_gets_one_clear_error_and_is_dropped(papad: Papad, where: str) -> None:
    replies = papad.machine.out("/usr/bin/python3", "-c", REFUSED, where, user=STRANGER, env={"PYTHONPATH": TOOLS})
    assert replies.startswith("Error: "), replies
    assert len(replies.splitlines()) == 1
    assert STRANGER in replies or "papad" in replies
    assert papad.ask("get pwned") == ""


# Sends a command without waiting for a greeting, and reads until the connection is closed by the other side.
REFUSED = """
import contextlib, socket, sys, talk
family, address = (socket.AF_INET, talk.CONTROL) if sys.argv[1] == "tcp" else (socket.AF_UNIX, sys.argv[1])
connection = socket.socket(family)
connection.settimeout(20)
connection.connect(address)
received = b""
with contextlib.suppress(ConnectionResetError, BrokenPipeError):
    while data := connection.recv(4096):
        received += data
        connection.sendall(b"set pwned 1\\n")
print(received.decode().removesuffix("> "), end="")
"""


@ways_in
@pytest.mark.parametrize("running", [True, False], ids=["running", "started by it"])
def test_nothing_is_executed_for_a_stranger_who_closes_at_once(papad: Papad, where: str, running: bool) -> None:
    machine = papad.machine
    if running:
        papad.ask("list sockets")
    command = ("/usr/bin/python3", f"{TOOLS}/stranger.py", where, "1000", "set pwned 1", "make socket pwned")
    machine.run(*command, user=STRANGER, seconds=120)
    wait_until(lambda: not open_connections(machine), "papad is done with all of them")
    assert papad.talk("get pwned", "list values", "list sockets", "list processes") == ["", "", "", ""]
    assert papad.show("NRestarts") == "0"


def open_connections(machine: Machine) -> list[str]:
    """Connections to papad's control sockets, as `ss` lists them, that papad has not closed yet."""
    lines = machine.out("ss", "-Hntx", "state", "established", "state", "close-wait").splitlines()
    return [line for line in lines if "127.0.0.1:20202 " in line or OPEN in line]


@ways_in
def test_a_member_who_closes_at_once_is_obeyed_or_refused_but_never_taken_for_another(papad: Papad, where: str) -> None:
    """A connection that is gone before its peer is known is refused; papad lives on in either case."""
    command = ("/usr/bin/python3", f"{TOOLS}/stranger.py", where, "300", "set ok 1")
    papad.machine.run(*command, user=MEMBER)
    wait_until(lambda: not open_connections(papad.machine), "papad is done with all of them")
    assert papad.ask("get ok") in ("", "1")


@pytest.mark.parametrize("where", ["tcp", UNIX])
@pytest.mark.parametrize("first", ["POST /x HTTP/1.1", "a!b / HTTP/1.0", "list\\r\\nOrigin: http://x"])
def test_a_browser_executes_nothing(papad: Papad, where: str, first: str) -> None:
    script = REFUSED.replace('b"set pwned 1\\n"', f'b"{first}\\r\\n\\r\\nset pwned 1\\n"')
    papad.machine.run("/usr/bin/python3", "-c", script, where, env={"PYTHONPATH": TOOLS})
    assert papad.ask("get pwned") == ""


VIEW = "/run/papad/view.sock"


@pytest.fixture
def viewer(papad: Papad) -> str:
    """A user who may only look."""
    papad.machine.run("useradd", "--groups=papad-view", "vera", check=False)
    return "vera"


@pytest.mark.parametrize("where", ["tcp", VIEW, OPEN])
def test_a_viewer_sees_what_there_is_and_changes_nothing(papad: Papad, viewer: str, where: str) -> None:
    papad.talk("set a b", "make process w env.PASSWORD=secret /bin/sh -c echo\\ hello;\\ exec\\ sleep\\ 600")
    wait_until(lambda: '"captured":6' in papad.ask("describe processes w"), "its output is there")
    listed, described, got, *refused = papad.talk(
        "l p", "d p", "get a", "set a c", "r v a", "m s x", "m p x /bin/true", "r p w", "exit-if-idle",
        where=where, user=viewer,
    )  # fmt: skip
    assert "w pid=" in listed
    assert listed.endswith("args=(hidden)")
    assert '"env":{"PASSWORD":"(hidden)"}' in described
    assert "secret" not in listed + described
    assert got == "b"
    assert [each.partition(";")[0] for each in refused] == ["Error: You may only look"] * 6
    assert papad.talk("get a", "l s", "l p x") == ["b", "", ""]


def test_papactl_of_a_viewer_finds_the_socket_and_leaves_output_where_it_is(papad: Papad, viewer: str) -> None:
    machine = papad.machine
    papad.ask("make process w /bin/sh -c echo\\ hello;\\ exit\\ 3")
    wait_until(lambda: '"closed":true' in papad.ask("describe processes w"), "it has ended")
    assert machine.out("stat", "-c", "%a %U %G", VIEW) == "660 root papad-view"
    status = machine.out("papactl", "status", user=viewer)
    assert VIEW in status
    for _ in range(2):
        assert machine.out("papactl", "output", "-o", "cat", "w", user=viewer) == "hello"
        assert machine.out("papactl", "watch", "-o", "cat", "w", user=viewer) == "hello"
    assert "you may only look" in status
    for words in (("watch", "-f", "w"), ("archive", "--acknowledge", "/tmp/logs", "w")):
        done = machine.run("papactl", *words, user=viewer, check=False)
        assert (done.returncode, "you may only look, and acknowledge nothing" in done.stderr) == (1, True)
    done = machine.run("papactl", "remove", "processes", "w", user=viewer, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        'papactl: You may only look; "remove processes" is for root and members of the group papad\n',
    )
    assert machine.out("papactl", "watch", "-o", "cat", "w") == "hello"
    assert papad.ask("l p") == ""


def test_the_socket_of_viewers_comes_and_goes_with_the_other(papad: Papad, viewer: str) -> None:
    with pytest.raises(Failed, match="PermissionError"):
        papad.talk(where=UNIX, user=viewer)
    with pytest.raises(Failed, match="PermissionError"):
        papad.talk(where=VIEW, user=STRANGER)
    papad.ask("set a b")
    for _ in range(2):
        papad.systemctl("restart", "papad.socket")
        assert papad.ask("get a", where=VIEW, user=viewer) == "b"
    papad.wait_for_new(papad.sigkill())
    assert papad.ask("get a", where=VIEW, user=viewer) == "b"
    papad.systemctl("stop", "papad-view.socket")
    papad.systemctl("mask", "--runtime", "papad-view.socket")
    try:
        papad.systemctl("restart", "papad.socket")
        assert papad.talk("get a", where=UNIX) == ["b"]
        assert papad.ask("get a", where="tcp", user=viewer) == "b"
        assert not papad.machine.root(VIEW).exists()
    finally:
        papad.systemctl("unmask", "--runtime", "papad-view.socket")
    papad.systemctl("restart", "papad.socket")
    assert papad.ask("get a", where=VIEW, user=viewer) == "b"
    papad.systemctl("stop", "papad.service", "papad.socket")
    assert papad.show("ActiveState", "papad-view.socket") == "inactive"


# A directory that takes 3 s for each answer, after the files.
SLOW = """
#include <errno.h>
#include <grp.h>
#include <nss.h>
#include <pwd.h>
#include <unistd.h>
static enum nss_status slow(void) { sleep(3); return NSS_STATUS_NOTFOUND; }
enum nss_status _nss_slow_getpwnam_r(const char *n, struct passwd *p, char *b, size_t l, int *e) { return slow(); }
enum nss_status _nss_slow_getpwuid_r(uid_t u, struct passwd *p, char *b, size_t l, int *e) { return slow(); }
enum nss_status _nss_slow_getgrnam_r(const char *n, struct group *g, char *b, size_t l, int *e) { return slow(); }
enum nss_status _nss_slow_getgrgid_r(gid_t i, struct group *g, char *b, size_t l, int *e) { return slow(); }
enum nss_status _nss_slow_initgroups_dyn(const char *u, gid_t g, long *s, long *z, gid_t **gs, long m, int *e)
{ return slow(); }
"""
BUSY = """
import subprocess, sys, threading, time
from talk import Talk
with Talk(sys.argv[1]) as root:
    names = ["make process x uid=nobodyknows /bin/true", "make process y uid=mallory /bin/true",
             "make socket s host=no.such.host"]
    others = [Talk(sys.argv[1]) for _ in names]
    began = time.monotonic()
    strangers = [subprocess.Popen(["setpriv", "--reuid=mallory", "--clear-groups", "python3", "-c",
                 "from talk import *; Talk()"], stderr=subprocess.DEVNULL) for _ in range(5)]
    answers = [""] * len(names)
    def ask(number):
        answers[number] = others[number].ask(names[number])
    threads = [threading.Thread(target=ask, args=[number]) for number in range(len(names))]
    for thread in threads:
        thread.start()
    longest, count = 0, 0
    while any(thread.is_alive() for thread in threads):
        asked = time.monotonic()
        root.ask("get v")
        longest, count = max(longest, time.monotonic() - asked), count + 1
        time.sleep(0.01)
    for each in strangers:
        each.kill()
        each.wait()
    print(longest, count, time.monotonic() - began, *answers, sep="|")
"""


@pytest.fixture
def slow_directory(papad: Papad) -> Iterator[Papad]:
    machine = papad.machine
    machine.write("/run/slow.c", SLOW)
    library = f"/usr/lib/{machine.out('gcc', '-print-multiarch')}/libnss_slow.so.2"
    machine.run("gcc", "-shared", "-fPIC", "-w", "-o", library, "/run/slow.c")
    switch = machine.root("/etc/nsswitch.conf")
    before = switch.read_text()
    switch.write_text("passwd: files slow\ngroup: files slow\nhosts: files\n")
    papad.systemctl("restart", "papad.service")
    yield papad
    switch.write_text(before)
    machine.root(library).unlink()


def test_nobody_waits_for_a_slow_directory(slow_directory: Papad) -> None:
    """Neither strangers nor names of users and hosts hold up root's requests."""
    said = slow_directory.machine.out("/usr/bin/python3", "-c", BUSY, UNIX, env={"PYTHONPATH": TOOLS})
    longest, count, took, *answers = said.split("|")
    assert float(took) > 2.5, "the directory is slow"
    assert float(longest) < 1.5, said
    assert int(count) > 50
    assert "not a valid user name" in answers[0]
    assert "pid=" in answers[1]
    assert "Cannot resolve host" in answers[2]
