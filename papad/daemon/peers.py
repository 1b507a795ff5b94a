"""Authenticate a peer before acting on its input.

Unix sockets carry the peer's credentials. For TCP on the loopback, the kernel is asked
(sock_diag(7)) who owns the socket at the other end of exactly this connection. Its answer counts
only while a process still holds that socket: a closed one shows uid 0, so "send and close" would
look like root.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import grp
import ipaddress
import logging
import os
import pwd
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

from papad.daemon.commands.roles import MANAGERS, VIEWERS, Role
from papad.daemon.tables.lookups import aside, groups_of
from papad.errors import Error

log = logging.getLogger("papad")

_BELIEVED, _DISBELIEVED = 10.0, 1.0  # seconds until a member of a group, or somebody else, is looked up again
_REMEMBERED = 1000  # peers

_SO_PEERGROUPS = 59  # Linux 4.13
_SIOCOUTQ = 0x5411
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_INET_DIAG_INFO = 1 << 1  # the bit of attribute 2
_HELD_STATES = (1, 4, 5)  # ESTABLISHED; FIN_WAIT1 and 2: the peer has merely finished sending


@dataclass(frozen=True)
class Peer:
    """The user at the other end; `groups` are those of the process, or None if unknown."""

    uid: int
    groups: frozenset[int] | None

    @property
    def trusted(self) -> bool:
        """Whether it is root or our own user, of whom nothing need be asked."""
        return self.uid in (0, os.geteuid())

    def __str__(self) -> str:
        return f"uid {self.uid}"  # a name would have to be asked for, of a directory that may be slow


class Peers:
    """Identifies peers, and tells their roles: by user, and for root's papad by group."""

    def __init__(self) -> None:
        self._diag: _TcpDiag | None = None  # created for the first TCP peer
        self._roles: dict[Peer, tuple[Role, float]] = {}  # by group, and until when that is believed
        self._asking: dict[Peer, asyncio.Task[Role]] = {}

    def identify(self, sock: socket.socket) -> Peer:
        """Return the peer of an accepted connection. Raises Error if unknown."""
        return _unix_peer(sock) if sock.family == socket.AF_UNIX else self._tcp_peer(sock)

    def role(self, peer: Peer) -> Role | None:
        """Return the role of a peer; None if it must be asked."""
        if peer.trusted:
            return Role.MANAGE
        if os.geteuid() != 0:
            return Role.NONE
        role, until = self._roles.get(peer, (Role.NONE, 0.0))
        return role if time.monotonic() < until else None

    async def ask(self, peer: Peer) -> Role:
        """Return the role of a peer by its groups and the database of groups. Raises Error.

        However often one connects meanwhile, one look-up is under way for each.
        """
        if peer not in self._asking:
            self._asking[peer] = asyncio.ensure_future(self._ask_database(peer))
        return await asyncio.shield(self._asking[peer])

    async def _ask_database(self, peer: Peer) -> Role:
        try:
            role = await aside(_role_by_group, peer)
            if len(self._roles) >= _REMEMBERED:
                self._roles.clear()
            self._roles[peer] = role, time.monotonic() + (_BELIEVED if role else _DISBELIEVED)
            return role
        finally:
            del self._asking[peer]

    def refusal(self, peer: Peer) -> str:
        """Return what a peer is told that may not talk to papad."""
        if os.geteuid() == 0:
            return f"{peer} may not talk to papad; be root, in the group {VIEWERS} to look, or a member of the group {MANAGERS}"
        return f"{peer} may not talk to the papad of another user"

    def has_read_all(self, sock: socket.socket, sent: int) -> bool:
        """Return whether the peer itself, not just the kernel, has read all `sent` bytes.

        True if that cannot be determined. On TCP, our own queue (SIOCOUTQ) would be empty only
        after the peer's delayed acknowledgement, 40 ms later.
        """
        try:
            if sock.family == socket.AF_UNIX:
                return _outq(sock) == 0
            answer = self._diagnose(sock, info=True)
        except OSError:
            return True
        if answer is None:
            return True
        info = answer.get_attr("INET_DIAG_INFO")
        return answer["idiag_rqueue"] == 0 and (info is None or info["tcpi_bytes_received"] >= sent)

    def _tcp_peer(self, sock: socket.socket) -> Peer:
        try:
            answer = self._diagnose(sock)
        except OSError:
            answer = None
        if answer is None or answer["idiag_state"] not in _HELD_STATES or not answer["idiag_inode"]:
            raise Error(
                "cannot tell who you are; keep the connection open until you are answered, or use the Unix socket"
            )
        return Peer(answer["idiag_uid"], None)

    def _diagnose(self, sock: socket.socket, *, info: bool = False) -> Any:
        if self._diag is None:
            self._diag = _TcpDiag()
        return self._diag.other_end(sock, info=info)


def is_loopback(host: str) -> bool:
    """Return whether a numeric address is reachable from this machine only."""
    return ipaddress.ip_address(host).is_loopback


def _unix_peer(sock: socket.socket) -> Peer:
    _, uid, gid = struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        # Python allows no larger buffer: 256 groups.
        groups = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    except OSError:  # more groups than that; _role_by_group asks the database
        groups = b""
    return Peer(uid, frozenset((gid, *struct.unpack(f"={len(groups) // 4}I", groups))))


def _role_by_group(peer: Peer) -> Role:
    roles: dict[int, Role] = {}
    for group, role in ((MANAGERS, Role.MANAGE), (VIEWERS, Role.VIEW)):
        with contextlib.suppress(KeyError):
            roles[grp.getgrnam(group).gr_gid] = role
    groups = set(peer.groups or ())
    if not any(roles.get(gid) is Role.MANAGE for gid in groups):
        with contextlib.suppress(KeyError):
            user = pwd.getpwuid(peer.uid)
            groups.update(groups_of(user.pw_name, user.pw_gid))
    return max((roles[gid] for gid in groups & roles.keys()), default=Role.NONE)


def _outq(sock: socket.socket) -> int:
    """Return the number of bytes sent over a Unix socket that the peer has not read."""
    return int(struct.unpack("=i", fcntl.ioctl(sock, _SIOCOUTQ, bytes(4)))[0])


class _TcpDiag:
    """Asks the kernel about one TCP socket, by its exact addresses and ports.

    pyroute2 takes over 100 ms to import, so it is imported for the first TCP peer, not at the
    start. Only its messages are used: unlike its sockets, they are the same in all versions.
    """

    def __init__(self) -> None:
        from pyroute2.netlink.diag import inet_diag_msg, inet_diag_req

        self._request, self._answer = inet_diag_req, inet_diag_msg
        # 4 is NETLINK_SOCK_DIAG.
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 4)
        self._netlink.settimeout(1.0)
        self._sequence = 0

    def other_end(self, sock: socket.socket, *, info: bool) -> Any:
        """Return what the kernel reports of the socket at the other end of `sock`.

        With `info`, that includes its tcp_info. None if the socket is gone. Raises OSError.
        """
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
            return None  # for a connection that is gone, the kernel may report the listener
        return answer


def _words(family: int, host: str) -> tuple[int, ...]:
    """Return an address as the four big-endian words of sock_diag."""
    packed = socket.inet_pton(family, host)
    return struct.unpack(">4I", packed.ljust(16, b"\0"))
