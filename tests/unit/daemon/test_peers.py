"""Who is at the other end: on Unix, on TCP of both families, and never somebody who has gone."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from papad.daemon import peers as module
from papad.daemon.commands.roles import Role
from papad.daemon.peers import Peer, Peers, is_loopback
from papad.errors import Error
from papad.protocol.sockdiag import SockDiag
from tests.support.papad import in_child, no_new_fds
from tests.support.waiting import wait_until

STRANGER = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a stranger")
families = pytest.mark.parametrize(
    "family", [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6], ids=lambda family: family.name
)


@pytest.fixture(scope="module")
def peers() -> Iterator[Peers]:
    """Its netlink socket is opened once."""
    made = Peers()
    made._diag = SockDiag()
    yield made
    made._diag.close()


@pytest.fixture
def listen() -> Iterator[Callable[[socket.AddressFamily], socket.socket]]:
    """Listen where strangers can connect: pytest's folders are closed to them."""
    opened: list[socket.socket] = []
    folder = tempfile.TemporaryDirectory(prefix="papad-")
    Path(folder.name).chmod(0o755)

    def listen(family: socket.AddressFamily) -> socket.socket:
        listener = socket.socket(family)
        opened.append(listener)
        path = Path(folder.name, f"s{len(opened)}")
        listener.bind(
            str(path) if family == socket.AF_UNIX else ("::1" if family == socket.AF_INET6 else "127.0.0.1", 0)
        )
        if family == socket.AF_UNIX:
            path.chmod(0o777)
        listener.listen(300)
        listener.settimeout(5)
        return listener

    with folder, no_new_fds():
        yield listen
        for each in opened:
            each.close()


def connected(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = socket.socket(listener.family)
    client.settimeout(5)
    client.connect(listener.getsockname())
    return client, listener.accept()[0]


def admit(peers: Peers, end: socket.socket) -> Peer:
    """What the server does with a connection. Raises Error for a stranger."""
    peer = peers.identify(end)
    if role_of(peers, peer) is Role.NONE:
        raise Error(peers.refusal(peer))
    return peer


def role_of(peers: Peers, peer: Peer) -> Role:
    role = peers.role(peer)
    if role is None:
        role = asyncio.run(peers.ask(peer))
        assert peers.role(peer) is role, "it is remembered"
        peers._roles.clear()
    return role


@families
def test_we_ourselves_are_admitted_by_our_uid(peers: Peers, listen: Callable, family: socket.AddressFamily) -> None:
    client, end = connected(listen(family))
    with client, end:
        peer = admit(peers, end)
        assert peer.uid == os.getuid()
        assert (peer.groups is not None) == (family == socket.AF_UNIX)
        assert str(peer) == f"uid {os.getuid()}"


def as_stranger(listener: socket.socket, act: Callable[[socket.socket], None], groups: list[int]) -> socket.socket:
    """The accepted end of a connection that a child of another uid made, and on which it did `act` before it ended."""
    reader, writer = os.pipe()

    def stranger() -> None:
        os.setgroups(groups)
        os.setgid(STRANGER)
        os.setuid(STRANGER)
        client = socket.socket(listener.family)
        client.connect(listener.getsockname())
        act(client)
        os.write(writer, b"!")
        os.close(writer)
        hold(client)

    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os._exit(in_child(stranger) and 1)
    os.close(writer)
    assert os.read(reader, 1) == b"!"
    os.close(reader)
    STRANGERS.append(pid)
    return listener.accept()[0]


STRANGERS: list[int] = []


def hold(client: socket.socket) -> None:
    """Keep the connection open until the other end closes it."""
    client.settimeout(10)
    with contextlib.suppress(ConnectionResetError):
        while client.recv(1000):
            pass


def end_stranger(end: socket.socket) -> None:
    end.close()
    assert os.waitpid(STRANGERS.pop(), 0)[1] == 0


@root_only
@families
def test_a_stranger_is_refused_by_name(peers: Peers, listen: Callable, family: socket.AddressFamily) -> None:
    end = as_stranger(listen(family), lambda client: None, [])
    with pytest.raises(Error, match=r"uid 65534 may not talk to papad"):
        admit(peers, end)
    end_stranger(end)


@root_only
@families
@pytest.mark.parametrize("act", ["send", "half-close"])
def test_a_stranger_that_sends_first_or_closes_half_is_refused_too(
    peers: Peers, listen: Callable, family: socket.AddressFamily, act: str
) -> None:
    def acting(client: socket.socket) -> None:
        client.sendall(b"set a b\n")
        if act == "half-close":
            client.shutdown(socket.SHUT_WR)

    end = as_stranger(listen(family), acting, [])
    with pytest.raises(Error, match="uid 65534"):
        admit(peers, end)
    end_stranger(end)


@root_only
def test_a_process_that_has_the_group_is_admitted_on_unix(
    peers: Peers, listen: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No group papad is needed on this machine: another one plays its part."""
    monkeypatch.setattr(module, "MANAGERS", "games")
    gid = grp.getgrnam("games").gr_gid
    listener = listen(socket.AF_UNIX)
    end = as_stranger(listener, lambda client: None, [7, gid])
    assert admit(peers, end).groups == {STRANGER, 7, gid}
    end_stranger(end)
    end = as_stranger(listener, lambda client: None, [7])
    with pytest.raises(Error, match=r"be root, .* or a member of the group games"):
        admit(peers, end)
    end_stranger(end)


@root_only
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=lambda family: family.name)
def test_on_tcp_the_group_database_decides(
    peers: Peers, listen: Callable, family: socket.AddressFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MANAGERS", "nogroup")
    end = as_stranger(listen(family), lambda client: None, [])
    assert admit(peers, end).uid == STRANGER
    end_stranger(end)


@root_only
@pytest.mark.parametrize(
    ("held", "role"),
    [(["games"], Role.VIEW), (["news"], Role.MANAGE), (["games", "news"], Role.MANAGE), (["mail"], Role.NONE)],
    ids=lambda value: "+".join(value) if isinstance(value, list) else value.name,
)
def test_a_group_gives_a_role_and_the_higher_one_counts(
    peers: Peers, monkeypatch: pytest.MonkeyPatch, held: list[str], role: Role
) -> None:
    monkeypatch.setattr(module, "MANAGERS", "news")
    monkeypatch.setattr(module, "VIEWERS", "games")
    peer = Peer(STRANGER, frozenset(grp.getgrnam(each).gr_gid for each in held))
    assert role_of(peers, peer) is role


@root_only
def test_without_the_groups_only_root_has_a_role(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANAGERS", "no-such-group")
    monkeypatch.setattr(module, "VIEWERS", "nor-this")
    assert role_of(peers, Peer(STRANGER, frozenset([STRANGER]))) is Role.NONE
    assert role_of(peers, Peer(0, frozenset([0]))) is Role.MANAGE


@root_only
def test_in_a_users_papad_other_users_are_refused_and_root_is_not(listen: Callable) -> None:
    listener = listen(socket.AF_UNIX)
    end = as_stranger(listener, lambda client: None, [])
    client, of_root = connected(listener)

    def papad_of_a_user() -> None:
        os.setuid(12)
        own = Peers()
        assert admit(own, of_root).uid == 0
        with pytest.raises(Error, match="may not talk to the papad of another user"):
            admit(own, end)

    assert in_child(papad_of_a_user) == 0
    client.close()
    of_root.close()
    end_stranger(end)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=lambda family: family.name)
@pytest.mark.parametrize("sends", [b"", b"set a b\n"], ids=["silent", "after a command"])
def test_a_peer_that_has_closed_is_refused_every_time(
    peers: Peers, listen: Callable, family: socket.AddressFamily, sends: bytes
) -> None:
    """Even though the kernel calls it root by then, which we are."""
    listener = listen(family)
    refused = 0
    for _ in range(200):
        client, end = connected(listener)
        client.sendall(sends)
        client.close()
        with end, pytest.raises(Error, match="cannot tell who you are"):
            admit(peers, end)
        refused += 1
    assert refused == 200


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=lambda family: family.name)
def test_a_peer_that_was_reset_is_refused(peers: Peers, listen: Callable, family: socket.AddressFamily) -> None:
    client, end = connected(listen(family))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    with end, pytest.raises((Error, OSError)):
        admit(peers, end)


@families
def test_a_peer_that_has_finished_sending_is_admitted(
    peers: Peers, listen: Callable, family: socket.AddressFamily
) -> None:
    client, end = connected(listen(family))
    with client, end:
        client.sendall(b"get x\n")
        client.shutdown(socket.SHUT_WR)
        assert admit(peers, end).uid == os.getuid()


@families
def test_it_is_known_when_the_peer_itself_has_read_all(
    peers: Peers, listen: Callable, family: socket.AddressFamily
) -> None:
    client, end = connected(listen(family))
    with client, end:
        for round_ in range(1, 30):
            end.sendall(b"Watching 1\n")
            sent = 11 * round_
            assert not peers.has_read_all(end, sent)
            assert client.recv(100) == b"Watching 1\n"
            wait_until(lambda sent=sent: peers.has_read_all(end, sent), "it is seen that the line was taken", 2)


@families
def test_a_peer_that_is_gone_is_not_waited_for(peers: Peers, listen: Callable, family: socket.AddressFamily) -> None:
    client, end = connected(listen(family))
    client.close()
    with end:
        wait_until(lambda: peers.has_read_all(end, 0), "nobody is waited for", 2)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("192.0.2.1", False)],
)
def test_loopback_addresses_are_known(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
