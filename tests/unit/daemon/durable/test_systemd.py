"""What is said to the service manager, byte for byte, over a notify socket of the test's own."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from papad.daemon.durable import systemd as service
from papad.daemon.durable.systemd import MAX_SOCKETS, Service, socket_entry
from papad.errors import Error
from tests.support.papad import in_child, no_new_fds

VARIABLES = ("NOTIFY_SOCKET", "MANAGERPID", "FDSTORE", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


@pytest.fixture(autouse=True)
def no_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The receiving end of NOTIFY_SOCKET."""
    with no_new_fds(), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def heard(manager: socket.socket) -> tuple[list[str], list[int]]:
    data, fds, _, _ = socket.recv_fds(manager, 4096, 10)
    return data.decode().splitlines(), fds


def test_a_descriptor_is_stored_under_its_name_and_without_polling(manager: socket.socket) -> None:
    memfd = os.memfd_create("test")
    Service().hold("store", memfd)
    lines, fds = heard(manager)
    assert sorted(lines) == ["FDNAME=store", "FDPOLL=0", "FDSTORE=1"]
    assert [os.fstat(fd).st_ino for fd in fds] == [os.fstat(memfd).st_ino]
    for fd in (memfd, *fds):
        os.close(fd)


def test_a_removal_comes_alone_with_its_name(manager: socket.socket) -> None:
    Service().drop("socket-64-web")
    lines, fds = heard(manager)
    assert (sorted(lines), fds) == (["FDNAME=socket-64-web", "FDSTOREREMOVE=1"], [])


def test_states_go_in_one_message(manager: socket.socket) -> None:
    Service().notify("READY=1", "STATUS=2 sockets")
    assert heard(manager) == (["READY=1", "STATUS=2 sockets"], [])


def test_a_barrier_goes_alone_with_one_descriptor_and_waits_until_it_is_closed(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_BARRIER_SECONDS", 60)

    async def papad() -> None:
        passed = asyncio.ensure_future(Service().barrier())
        await asyncio.sleep(0)
        lines, fds = heard(manager)
        assert (lines, len(fds)) == (["BARRIER=1"], 1)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not passed.done()
        os.close(fds[0])
        await asyncio.wait_for(passed, 20)

    asyncio.run(papad())


def test_a_barrier_that_the_manager_does_not_reach_is_given_up(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_BARRIER_SECONDS", 0.05)
    asyncio.run(Service().barrier())
    (fd,) = heard(manager)[1]
    os.close(fd)


def test_a_manager_that_has_gone_is_one_clear_error_when_it_matters_and_none_otherwise(
    manager: socket.socket, tmp_path: Path
) -> None:
    made = Service()
    os.unlink(tmp_path / "notify")
    memfd = os.memfd_create("test")
    with pytest.raises(Error, match="systemd cannot be asked to keep this"):
        made.hold("store", memfd)
    made.drop("store")
    asyncio.run(made.barrier())
    os.close(memfd)


def test_without_a_manager_everything_is_harmless() -> None:
    with no_new_fds():
        made = Service()
        made.notify("READY=1")
        made.hold("store", 0)
        made.drop("store")
        asyncio.run(made.barrier())
        assert (made.managed, made.user, made.control, made.stored) == (False, False, {}, {})


def test_passed_descriptors_are_told_apart_by_their_names() -> None:
    names = ["papad.socket", "socket-64-web", "store", "staging-r", "staging-w", "connection", "storefront", "store"]

    def papad() -> None:
        for number in range(3, 3 + len(names)):
            os.dup2(os.memfd_create("test"), number, inheritable=True)
        os.environ |= {
            "LISTEN_PID": str(os.getpid()),
            "LISTEN_FDS": str(len(names)),
            "LISTEN_FDNAMES": ":".join(names),
            "NOTIFY_SOCKET": "/nowhere",
        }
        made = Service()
        assert list(made.control) == [3, 8, 9]
        stored = {"socket-64-web": 4, "store": 5, "staging-r": 6, "staging-w": 7}
        assert made.stored == stored
        assert not any(os.get_inheritable(fd) for fd in (*made.control, *stored.values()))
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(10)  # the second of the same name

    assert in_child(papad) == 0


@pytest.mark.parametrize(
    ("store", "limit"), [("", MAX_SOCKETS), ("136", 36), ("10", 0), ("1000000", MAX_SOCKETS), ("x", MAX_SOCKETS)]
)
def test_the_limit_of_sockets_follows_the_size_of_the_store(
    store: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FDSTORE", store)
    assert Service().max_sockets == limit


@pytest.mark.parametrize("name", ["web", "a:b", "caf\u00e9 \n\0", "x" * 300, ""])
def test_the_entry_of_a_socket_is_a_short_plain_name_that_is_known_again(name: str) -> None:
    entry = socket_entry(64, name)
    assert len(entry) <= 50
    assert entry.isascii()
    assert entry.isprintable()
    assert ":" not in entry
    assert service._STORED.match(entry)
    assert socket_entry(65, name) != entry
