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

from papad.daemon.commands.roles import MANAGERS, VIEWERS, Role
from papad.daemon.tables.lookups import aside, groups_of
from papad.errors import Error
from papad.protocol.sockdiag import OtherEnd, SockDiag

log = logging.getLogger("papad")

_BELIEVED, _DISBELIEVED = 10.0, 1.0  # seconds until a member of a group, or somebody else, is looked up again
_REMEMBERED = 1000  # peers

_SO_PEERGROUPS = 59  # Linux 4.13
_SIOCOUTQ = 0x5411
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
        self._diag: SockDiag | None = None  # opened for the first TCP peer
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
            end = self._other_end(sock, received=True)
        except OSError:
            return True
        return end is None or (end.unread == 0 and (end.received is None or end.received >= sent))

    def _tcp_peer(self, sock: socket.socket) -> Peer:
        try:
            end = self._other_end(sock)
        except OSError:
            end = None
        if end is None or end.state not in _HELD_STATES or not end.inode:
            raise Error(
                "cannot tell who you are; keep the connection open until you are answered, or use the Unix socket"
            )
        return Peer(end.uid, None)

    def _other_end(self, sock: socket.socket, *, received: bool = False) -> OtherEnd | None:
        if self._diag is None:
            self._diag = SockDiag()
        return self._diag.other_end(sock, received=received)


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
