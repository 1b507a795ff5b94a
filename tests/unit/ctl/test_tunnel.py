"""Connections through an ssh, which is a script here. With a papad at the far end: tests/ctl/test_remote.py."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from papad.ctl.parser import Usage
from papad.ctl.tunnel import Tunnel
from papad.errors import Unreachable
from tests.support.papad import no_new_fds

ALWAYS = "-xT -oClearAllForwardings=yes -oRemoteCommand=none"


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes this script the only ssh that there is; nothing is left open in the end."""
    shell = shutil.which("sh")
    cat = shutil.which("cat")
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(script: str) -> None:
        (tmp_path / "ssh").write_text(f"#!{shell}\n{script.replace('exec cat', f'exec {cat}')}\n")
        (tmp_path / "ssh").chmod(0o755)

    with no_new_fds():
        yield make


def read(sock: socket.socket) -> bytes:
    """All that comes, up to the end."""
    sock.settimeout(10)
    with sock:
        found = b""
        while data := sock.recv(1000):
            found += data
    return found


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("one", "-- one"),
        ("root@one", "-- root@one"),
        ("a@b@one:22", "-p 22 -- a@b@one"),
        ("[::1]", "-- ::1"),
        ("root@[::1]:2222", "-p 2222 -- root@::1"),
        ("::1", "-- ::1"),
        ("ssh://one:22", "-- ssh://one:22"),
        ("one:", "-- one:"),
    ],
)
def test_a_host_may_come_with_user_and_port(ssh: Callable[[str], None], host: str, words: str) -> None:
    ssh('echo "$*"')
    tunnel = Tunnel(host, 20202)
    said = read(tunnel.connect()).decode()
    tunnel.close()
    assert said == f"{ALWAYS} {words} papactl --port 20202 stdio-bridge\n"


@pytest.mark.parametrize(
    ("address", "label", "words"),
    [
        (None, None, "-- one papactl stdio-bridge"),
        ("/a path/s", None, "-- one papactl --socket '/a path/s' stdio-bridge"),
        (None, "one: ", "-oBatchMode=yes -- one papactl stdio-bridge"),
    ],
)
def test_what_is_run_at_the_far_end(
    ssh: Callable[[str], None], address: str | None, label: str | None, words: str
) -> None:
    ssh('echo "$*"')
    tunnel = Tunnel("one", address, label)
    said = read(tunnel.connect()).decode()
    tunnel.close()
    assert said == f"{ALWAYS} {words}\n"


@pytest.mark.parametrize("host", ["", "-oProxyCommand=false"])
def test_a_host_that_ssh_would_misunderstand_is_refused(host: str) -> None:
    with pytest.raises(Usage, match="invalid host: "):
        Tunnel(host, None)


def test_bytes_go_both_ways_on_several_connections(ssh: Callable[[str], None]) -> None:
    ssh("exec cat")
    tunnel = Tunnel("one", None)
    tunnel.begin()
    first, second = tunnel.connect(), tunnel.connect()
    for sock, data in ((first, bytes(range(256))), (second, b"other")):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert read(sock) == data
    tunnel.close()


def test_a_connection_that_nobody_took_is_closed_too(ssh: Callable[[str], None]) -> None:
    ssh("exec cat")
    tunnel = Tunnel("one", None)
    tunnel.begin()
    tunnel.close()


@pytest.mark.parametrize(
    ("status", "label", "reason", "hint"),
    [
        (3, None, "papactl on that host has reported why", ""),
        (127, None, "papactl was not found on that host", "Check whether this works: ssh -p 2 a@one papactl status"),
        (255, None, "ssh failed", "Check whether this works: ssh -p 2 a@one papactl status"),
        (
            255,
            "one: ",
            "ssh failed",
            "Check whether this works: ssh -p 2 -oBatchMode=yes a@one papactl status\n"
            "With several -H, ssh does not prompt for a password or about a host key",
        ),
        (
            9,
            None,
            "papactl on that host exited with status 9",
            "Check whether this works: ssh -p 2 a@one papactl status",
        ),
    ],
)
def test_the_reason_is_told_by_the_status_of_ssh(
    ssh: Callable[[str], None], status: int, label: str | None, reason: str, hint: str
) -> None:
    ssh(f"exit {status}")
    tunnel = Tunnel("a@one:2", None, label)
    assert read(tunnel.connect()) == b""
    assert tunnel.why() == (reason, hint)
    tunnel.close()


@pytest.mark.parametrize(("label", "before"), [(None, b""), ("one: ", b"one: ")])
def test_what_ssh_says_is_passed_on_once(
    ssh: Callable[[str], None], capsysbinary: pytest.CaptureFixture[bytes], label: str | None, before: bytes
) -> None:
    ssh("printf 'no route\\r\\nbad \\377' >&2; exit 255")
    tunnel = Tunnel("one", None, label)
    for _ in range(2):
        assert read(tunnel.connect()) == b""
        tunnel.why()  # waits for all that it says
    tunnel.close()
    assert capsysbinary.readouterr() == (b"", before + b"no route\n" + before + b"bad \xff\n")


def test_an_ssh_that_does_not_end_is_ended(ssh: Callable[[str], None]) -> None:
    ssh("trap '' HUP; while :; do read x || exec cat /dev/zero >/dev/null; done")
    tunnel = Tunnel("one", None)
    tunnel.connect().close()
    tunnel.close(at_once=True)


def test_without_ssh_there_is_an_error_and_nothing_is_left_open(ssh: Callable[[str], None]) -> None:
    with pytest.raises(Unreachable, match="cannot run ssh: No such file or directory"):
        Tunnel("one", None).connect()
