"""Sockets with reuseport: each process gets its own, and the reservation of the port takes nothing of what arrives."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from papad.daemon.tables import sockets as module
from papad.daemon.tables.sockets import clone
from tests.support.homes import SocketsHome as Home

REUSEPORT = ["x reuseport=1", "x reuseport=1 family=inet6", "x reuseport=1 interface=lo", "x reuseport=1 host=0.0.0.0"]


@pytest.mark.parametrize("line", REUSEPORT)
def test_clones_share_all_connections_and_the_reservation_takes_none(home: Home, line: str) -> None:
    made = home.make(line)
    assert "fileno" not in str(made)
    target = ("::1" if "inet6" in line else "127.0.0.1", made.spec.port)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(target, 5)
    with clone(made) as first, clone(made) as second, contextlib.ExitStack() as stack:
        for each in (first, second):
            each.listen(200)
            each.setblocking(False)
        for _ in range(100):
            stack.enter_context(socket.create_connection(target, 5))
        counts = [accepted(each) for each in (first, second)]
        assert sum(counts) == 100
        assert min(counts) > 10


def accepted(listener: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


@pytest.mark.parametrize("line", REUSEPORT)
@pytest.mark.parametrize("restarted", [False, True])
def test_clones_share_all_datagrams_and_the_reservation_takes_none(home: Home, line: str, restarted: bool) -> None:
    home.make(f"{line} type=dgram")
    if restarted:
        home.restart()
    (made,) = home.sockets
    target = ("::1" if "inet6" in line else "127.0.0.1", made.spec.port)
    with clone(made) as first, clone(made) as second:
        for number in range(200):
            with socket.socket(made.sock.family, socket.SOCK_DGRAM) as client:
                client.sendto(b"%d" % number, target)
        found = [received(each) for each in (first, second)]
        assert sorted(found[0] + found[1]) == sorted(b"%d" % number for number in range(200))
        assert min(map(len, found)) > 20


def received(sock: socket.socket) -> list[bytes]:
    sock.setblocking(False)
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(100))
    return found


def test_a_reserved_port_is_taken_by_nobody_else(home: Home) -> None:
    for kind in ("stream", "dgram"):
        made = home.make(f"{kind} reuseport=1 type={kind}")
        with socket.socket(socket.AF_INET, module.TYPE[kind]) as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", made.spec.port))


def interface_in_use() -> str:
    """One that is up and not the loopback, if this machine has any."""
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    return next((name for name in names if Path(f"/sys/class/net/{name}/operstate").read_text() == "up\n"), "")


@pytest.mark.skipif(not interface_in_use(), reason="this machine has the loopback only")
@pytest.mark.parametrize("kind", ["stream", "dgram"])
def test_reuseport_works_on_an_interface_that_is_not_the_loopback(home: Home, kind: str) -> None:
    made = home.make(f"x type={kind} interface={interface_in_use()} reuseport=1")
    clone(made).close()
