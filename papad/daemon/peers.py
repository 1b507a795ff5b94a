"""Authenticate a peer before acting on its input.

Unix sockets carry the peer's credentials. For TCP on the loopback the kernel is asked (sock_diag(7)) who owns the socket at the
other end of exactly this connection. Its answer counts only where that socket is still held by somebody: one that has been
closed shows uid 0, so that "send and close" would look like root.
"""

from __future__ import annotations

import fcntl
import grp
import ipaddress
import logging
import os
import pwd
import socket
import struct
from dataclasses import dataclass
from typing import Any

from papad.errors import Error

log = logging.getLogger("papad")

GROUP = "papad"

_SO_PEERGROUPS = 59  # Linux 4.13
_SIOCOUTQ = 0x5411
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_INET_DIAG_INFO = 1 << 1  # the bit of attribute 2
_HELD_STATES = (1, 4, 5)  # ESTABLISHED; FIN_WAIT1 and 2: the peer has only finished sending


@dataclass(frozen=True)
class Peer:
    """A user at the other end; `groups` are those of the very process where the kernel tells, else None."""

    uid: int
    groups: frozenset[int] | None

    def __str__(self) -> str:
        try:
            return f"{pwd.getpwuid(self.uid).pw_name} (uid {self.uid})"
        except KeyError:
            return f"uid {self.uid}"


class Peers:
    """Tells who a peer is, and whether it may talk to this papad: root, our own user, and for root's papad the group `papad`."""

    def __init__(self) -> None:
        self._diag: _TcpDiag | None = None

    def admit(self, sock: socket.socket) -> Peer:
        """The peer of an accepted connection. Raises Error when it may not talk to us, or cannot be known."""
        peer = _unix_peer(sock) if sock.family == socket.AF_UNIX else self._tcp_peer(sock)
        if peer.uid in (0, os.geteuid()) or (os.geteuid() == 0 and _in_group(peer)):
            return peer
        if os.geteuid() == 0:
            raise Error(f"{peer} may not talk to papad; be root, or a member of the group {GROUP}")
        raise Error(f"{peer} may not talk to the papad of another user")

    def has_read_all(self, sock: socket.socket, sent: int) -> bool:
        """Whether the peer, not merely its kernel, has taken the `sent` bytes that we have ever sent. True where nobody can tell.

        On TCP our own queue (SIOCOUTQ) would be empty only after the peer's delayed acknowledgement, 40 ms later.
        """
        try:
            if sock.family == socket.AF_UNIX:
                return _outq(sock) == 0
            answer = self._ask(sock, info=True)
        except OSError:
            return True
        if answer is None:
            return True
        info = answer.get_attr("INET_DIAG_INFO")
        return answer["idiag_rqueue"] == 0 and (info is None or info["tcpi_bytes_received"] >= sent)

    def _tcp_peer(self, sock: socket.socket) -> Peer:
        try:
            answer = self._ask(sock)
        except OSError:
            answer = None
        if answer is None or answer["idiag_state"] not in _HELD_STATES or not answer["idiag_inode"]:
            raise Error(
                "cannot tell who you are; keep the connection open until you are answered, or use the Unix socket"
            )
        return Peer(answer["idiag_uid"], None)

    def _ask(self, sock: socket.socket, *, info: bool = False) -> Any:
        if self._diag is None:
            self._diag = _TcpDiag()
        return self._diag.other_end(sock, info=info)


def is_loopback(host: str) -> bool:
    """Whether a numeric address can be reached from this machine only."""
    return ipaddress.ip_address(host).is_loopback


def _unix_peer(sock: socket.socket) -> Peer:
    _, uid, gid = struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        groups = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)  # as much as Python allows: 256 groups
    except OSError:  # a member of more; the group database knows them too
        groups = b""
    return Peer(uid, frozenset((gid, *struct.unpack(f"={len(groups) // 4}I", groups))))


def _in_group(peer: Peer) -> bool:
    try:
        gid = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return False
    if peer.groups is not None and gid in peer.groups:
        return True
    try:
        user = pwd.getpwuid(peer.uid)
    except KeyError:
        return False
    return gid in os.getgrouplist(user.pw_name, user.pw_gid)


def _outq(sock: socket.socket) -> int:
    """Bytes sent over a Unix socket that the peer has not read."""
    return int(struct.unpack("=i", fcntl.ioctl(sock, _SIOCOUTQ, bytes(4)))[0])


class _TcpDiag:
    """Asks the kernel about one TCP socket, by its exact addresses and ports.

    pyroute2 takes over 100 ms to import, so the first TCP peer pays for that and not the start. Only its messages are used: they
    are the same in all its versions, its sockets are not.
    """

    def __init__(self) -> None:
        from pyroute2.netlink.diag import inet_diag_msg, inet_diag_req

        self._request, self._answer = inet_diag_req, inet_diag_msg
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 4)  # NETLINK_SOCK_DIAG
        self._netlink.settimeout(1.0)
        self._sequence = 0

    def other_end(self, sock: socket.socket, *, info: bool) -> Any:
        """What the kernel says of the socket at the other end of `sock`, with its tcp_info; None if it is gone. Raises OSError."""
        ours, theirs = sock.getsockname()[:2], sock.getpeername()[:2]
        self._sequence += 1
        request = self._request()
        request["header"]["type"] = _SOCK_DIAG_BY_FAMILY
        request["header"]["flags"] = _NLM_F_REQUEST
        request["header"]["sequence_number"] = self._sequence
        request["sdiag_family"] = sock.family
        request["sdiag_protocol"] = socket.IPPROTO_TCP
        request["idiag_ext"] = _INET_DIAG_INFO if info else 0
        request["idiag_states"] = 0xFFFFFFFF
        request["idiag_sport"], request["idiag_dport"] = theirs[1], ours[1]
        request["idiag_src"] = _words(sock.family, theirs[0])
        request["idiag_dst"] = _words(sock.family, ours[0])
        request["idiag_cookie"] = 0xFFFFFFFFFFFFFFFF  # INET_DIAG_NOCOOKIE
        request.encode()
        self._netlink.send(request.data)
        while True:
            data = self._netlink.recv(8192)
            _, kind, _, sequence = struct.unpack_from("=IHHI", data)
            if sequence == self._sequence:
                break
        if kind != _SOCK_DIAG_BY_FAMILY:
            return None
        answer = self._answer(data)
        answer.decode()
        if (answer["idiag_sport"], answer["idiag_dport"]) != (theirs[1], ours[1]):
            return None  # a connection that is no more may answer with its listener
        return answer


def _words(family: int, host: str) -> tuple[int, ...]:
    """An address as the four big-endian words of sock_diag."""
    packed = socket.inet_pton(family, host)
    return struct.unpack(">4I", packed.ljust(16, b"\0"))
