"""What the kernel tells of the other end of a connection, with pyroute2 as the second opinion."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from pyroute2.netlink.diag import inet_diag_msg, inet_diag_req

from papad.protocol.sockdiag import OtherEnd, SockDiag
from tests.support.waiting import wait_until

ESTABLISHED, FIN_WAIT2, LISTEN = 1, 5, 10
families = pytest.mark.parametrize("host", ["127.0.0.1", "::1"])


@contextlib.contextmanager
def connected(host: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        client = socket.create_connection(listener.getsockname()[:2])
        ours, _ = listener.accept()
        with client, ours:
            yield ours, client


class Recorded:
    """A netlink socket, with what went through it."""

    def __init__(self, netlink: socket.socket) -> None:
        self._netlink = netlink
        self.sent, self.received = b"", b""

    def send(self, data: bytes) -> int:
        self.sent = data
        return self._netlink.send(data)

    def recv(self, size: int) -> bytes:
        self.received = self._netlink.recv(size)
        return self.received

    def close(self) -> None:
        self._netlink.close()


def by_pyroute2(ours: socket.socket, *, received: bool) -> bytes:
    """The same request."""
    here, there = ours.getsockname(), ours.getpeername()

    def words(host: str) -> tuple[int, ...]:
        return struct.unpack(">4I", socket.inet_pton(ours.family, host).ljust(16, b"\0"))

    request = inet_diag_req()
    request["header"]["type"] = 20
    request["header"]["flags"] = 1
    request["header"]["sequence_number"] = 1
    request["sdiag_family"] = ours.family
    request["sdiag_protocol"] = socket.IPPROTO_TCP
    request["idiag_ext"] = 2 if received else 0
    request["idiag_states"] = 0xFFFFFFFF
    request["idiag_sport"], request["idiag_dport"] = there[1], here[1]
    request["idiag_src"], request["idiag_dst"] = words(there[0]), words(here[0])
    request["idiag_cookie"] = 0xFFFFFFFFFFFFFFFF
    request.encode()
    return bytes(request.data)


def read_by_pyroute2(answer: bytes, *, received: bool) -> OtherEnd:
    message: Any = inet_diag_msg(answer)
    message.decode()
    info = message.get_attr("INET_DIAG_INFO") if received else None
    count = info and info["tcpi_bytes_received"]
    return OtherEnd(
        message["idiag_state"], message["idiag_rqueue"], message["idiag_uid"], message["idiag_inode"], count
    )


@families
@pytest.mark.parametrize("received", [False, True])
def test_request_and_answer_are_as_pyroute2_has_them(host: str, received: bool) -> None:
    with connected(host) as (ours, client), SockDiag() as diag:
        recorded = diag._netlink = Recorded(diag._netlink)  # type: ignore[assignment]
        ours.send(b"12345")
        wait_until(lambda: len(client.recv(10, socket.MSG_PEEK)) == 5, "it has arrived")
        client.recv(2)
        end = diag.other_end(ours, received=received)
        assert recorded.sent == by_pyroute2(ours, received=received)
        assert end == read_by_pyroute2(recorded.received, received=received)
        inode = os.fstat(client.fileno()).st_ino
        assert end == OtherEnd(ESTABLISHED, 3, os.getuid(), inode, 5 if received else None)


@families
def test_who_has_finished_sending_is_still_there(host: str) -> None:
    with connected(host) as (ours, client), SockDiag() as diag:
        client.shutdown(socket.SHUT_WR)
        wait_until(lambda: diag.other_end(ours).state == FIN_WAIT2, "that was acknowledged")  # type: ignore[union-attr]
        end = diag.other_end(ours)
        assert end is not None
        assert end.inode == os.fstat(client.fileno()).st_ino


@families
def test_of_one_who_is_gone_nothing_is_told_that_could_be_believed(host: str) -> None:
    """The connection may be known for a while, but nobody holds it."""
    with connected(host) as (ours, client), SockDiag() as diag:
        ours.send(b"not read")
        client.close()
        with contextlib.suppress(OSError):
            end = diag.other_end(ours)
            assert end is None or not end.inode


def test_an_answer_to_an_earlier_question_is_left_out() -> None:
    with connected("127.0.0.1") as (ours, client), SockDiag() as diag:
        assert diag.other_end(ours) is not None
        diag._netlink.send(by_pyroute2(ours, received=False))  # has the number 1, its answer is never read
        found = diag.other_end(ours)
        assert found is not None
        assert found.inode == os.fstat(client.fileno()).st_ino
