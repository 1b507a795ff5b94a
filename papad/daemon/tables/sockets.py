"""Managed sockets: made here, held in two homes, inherited under a fileno that never changes."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from papad.daemon.durable.homes import Homes
from papad.daemon.durable.store import Store, rebuilt, recorded
from papad.daemon.durable.systemd import socket_entry
from papad.daemon.tables import lookups
from papad.daemon.tables.nodes import InUse, Node, Owner, bind_path, unlink
from papad.daemon.tables.patterns import select
from papad.errors import Error
from papad.protocol.options import AUTO, AUTO_BACKLOG, FAMILIES, SOCKET_OPTIONS, TYPES

log = logging.getLogger("papad")

FIRST_FILENO = 64
"""The lowest fileno; the numbers below are for 0, 1, 2 and LISTEN_FDS."""

FAMILY = {name: socket.AddressFamily[f"AF_{name.upper()}"] for name in FAMILIES}
TYPE = {name: socket.SocketKind[f"SOCK_{name.upper()}"] for name in TYPES}

_KEY = "socket:"
_LET_GO = 0.05  # seconds that a removal waits for an address, which processes may have as well
_FREE_WITHIN = 1.0  # seconds in which an address must be free that was just removed


@dataclass(frozen=True)
class Spec:
    """What was asked for, with defaults filled in, in the order of the keys in a socket's line."""

    family: str
    type: str
    backlog: int
    path: str | None = None
    umask: int | None = None
    mode: str | None = None
    """In octal."""
    owner: str | None = None
    """USER[:GROUP] or :GROUP, by numbers once `look_up` has found them."""
    host: str | None = None
    port: int | None = None
    interface: str | None = None
    reuseport: str | None = None
    sockopts: dict[str, Any] = field(default_factory=dict)
    """The options that are only set by setsockopt(2)."""

    @property
    def pairs(self) -> dict[str, Any]:
        """All options by name."""
        pairs = asdict(self)
        sockopts = pairs.pop("sockopts")
        return {**pairs, **sockopts}

    def satisfied_by(self, other: Spec) -> bool:
        """Return whether a socket with the spec `other` is what this spec asks for.

        Port 0 matches any port, and AUTO any backlog; reuseport is ignored.
        """
        backlog = other.backlog if self.backlog == AUTO else self.backlog
        return replace(self, backlog=backlog, port=self.port or other.port, reuseport=other.reuseport) == other


@dataclass(frozen=True)
class Socket:
    """A managed socket. With reuseport, `sock` only reserves the port; processes get their own."""

    name: str
    spec: Spec
    fileno: int
    sock: socket.socket
    node: Node | None = None  # of the path

    def __str__(self) -> str:
        pairs = [f"{key}={value}" for key, value in self.spec.pairs.items() if value is not None]
        if not self.spec.reuseport:
            pairs.append(f"fileno={self.fileno}")
        return " ".join((self.name, *pairs))

    @property
    def held_as(self) -> str:
        """Its name in the homes."""
        return socket_entry(self.fileno, self.name)


class Sockets:
    """All managed sockets by name."""

    def __init__(self, homes: Homes, store: Store, limit: int) -> None:
        """Take back what an earlier daemon left; at most `limit` sockets are made."""
        self._homes, self._store, self._limit = homes, store, limit
        self._sockets: dict[str, Socket] = {}
        for name, entry in store.of(_KEY):
            try:
                self._take_back(name, entry)
            except (KeyError, TypeError, ValueError, OSError) as error:
                log.error("cannot use socket %s now, which is kept: %r", name, error)

    def _take_back(self, name: str, entry: dict[str, Any]) -> None:
        spec, fileno = rebuilt(Spec, entry["spec"]), int(entry["fileno"])
        held_as = socket_entry(fileno, name)
        if held_as not in self._homes and held_as not in self._homes.withheld:
            log.error("socket %s is lost: neither systemd nor the nursery has it", name)
            self._store.erase(_KEY + name)
            return
        node = entry.get("node") and tuple(entry["node"])
        try:
            sock = self._homes.take_socket(held_as)
        except OSError as error:
            log.error("socket %s is lost: what was held for it is no socket: %s", name, error)
            self._store.erase(_KEY + name)
            return
        self._sockets[name] = Socket(name, spec, fileno, sock, node)

    def __len__(self) -> int:
        return len(self._sockets)

    def __iter__(self) -> Iterator[Socket]:
        return iter(self._sockets.values())

    def get(self, name: str) -> Socket | None:
        """Return the socket of that name, or None."""
        return self._sockets.get(name)

    def make(self, name: str, spec: Spec, address: Any = None) -> Socket:
        """Return the socket `name`; make it unless it exists with the same options.

        `address` is that of the host, where it has a name. Raises Error; then nothing is left behind.
        """
        existing = self._sockets.get(name)
        if existing is not None:
            if spec.satisfied_by(existing.spec):
                return existing
            raise Error(f"Socket for {name} has already been created - {existing}")
        self._store.refuse_kept(_KEY + name)
        if spec.path and any(spec.path == other.spec.path for other in self):
            raise Error(f"Socket for {spec.path} has already been created")
        if len(self) >= self._limit:
            raise Error(f"The limit of {self._limit} sockets is reached; remove some that are not needed")
        # By the names in the homes, for they tell it of what this version cannot use, too.
        used = {held_as.split("-")[1] for held_as in self._store.names if held_as.startswith("socket-")}
        fileno = FIRST_FILENO
        while str(fileno) in used:
            fileno += 1
        if spec.backlog == AUTO:
            spec = replace(spec, backlog=AUTO_BACKLOG)
        with contextlib.ExitStack() as cleanup_on_fail:
            sock, node = _open(spec, address, cleanup_on_fail)
            if spec.port is not None and not spec.port:
                spec = replace(spec, port=sock.getsockname()[1])
            made = Socket(name, spec, fileno, sock, node)
            self._homes.hold(made.held_as, sock.fileno())
            cleanup_on_fail.callback(self._homes.drop, made.held_as)
            fields = {"spec": recorded(spec), "fileno": fileno, "node": made.node, "fds": [made.held_as]}
            self._store.begin(_KEY + name, fields)
            cleanup_on_fail.pop_all()
        self._sockets[name] = made
        log.info("made socket %s", made, extra={"PAPAD_NAME": name})
        return made

    @property
    def closing(self) -> bool:
        """Whether the address of one that was removed may not be free yet, but will be soon."""
        return self._homes.closing

    async def make_once_free(self, name: str, spec: Spec, address: Any = None) -> Socket:
        """Do the same, but wait for an address that was in use by what has been removed, and is about to be closed."""
        end, pause = time.monotonic() + _FREE_WITHIN, 0.002
        while True:
            try:
                return self.make(name, spec, address)
            except InUse:
                if not self.closing or time.monotonic() > end:
                    raise
            await self._homes.pause(pause)
            pause *= 2  # at a path, each try connects to whoever is there

    def lines(self, patterns: list[str]) -> list[str]:
        """Return the lines of the sockets that match, sorted."""
        return sorted(str(each) for each in self.select(patterns))

    async def remove(self, patterns: list[str]) -> None:
        """Close the sockets that match and unlink their paths. Raises Error, OSError.

        Processes keep what they inherited. When this returns, the address is free otherwise.
        """
        addresses: list[tuple[Spec, Any]] = []
        for removed in self.select(patterns, required=True):
            name = removed.name
            if not removed.spec.path:
                addresses.append((removed.spec, removed.sock.getsockname()))
            self._store.erase(_KEY + name)
            del self._sockets[name]
            self._homes.drop(removed.held_as)
            unlink(removed.spec.path, removed.node)
            removed.sock.close()
            log.info("removed socket %s", name, extra={"PAPAD_NAME": name})
        await self._homes.barrier()
        end, pause = time.monotonic() + _LET_GO, 0.001
        while self.closing and time.monotonic() < end:
            addresses = [each for each in addresses if _in_use(*each)]
            if not addresses:
                break
            await self._homes.pause(pause)
            pause *= 2

    def unlink(self) -> None:
        """Unlink all paths: papad ends, and nothing holds its sockets."""
        for each in self:
            unlink(each.spec.path, each.node)

    def select(self, patterns: list[str], *, required: bool = False) -> list[Socket]:
        """Return the sockets that match, sorted by name.

        Raises Error for a name that does not exist if `required`.
        """
        found = select(
            self._sockets, patterns, numbers=lambda: {each.fileno: each.name for each in self}, required=required
        )
        return [self._sockets[name] for name in found]


def specify(options: dict[str, Any]) -> Spec:
    """Return the spec for parsed options, with defaults. Raises Error if they contradict."""
    # A flag is 1, or as if it had not been given.
    options = {name: 1 if value is True else value for name, value in options.items() if value is not False}
    path = options.get("path")
    family = options.get("family", "unix" if path else "inet6" if _is_ipv6(options.get("host", "")) else "inet")
    sockopts = {each.name: options[each.name] for each in SOCKET_OPTIONS if each.sockopt and each.name in options}
    spec = Spec(family, options.get("type", "stream"), options.get("backlog", 5), sockopts=sockopts)
    if family == "unix":
        if not path or not os.path.isabs(path) or path.endswith("/"):
            raise Error("Absolute path required for Unix sockets")
        wrong = [each.name for each in SOCKET_OPTIONS if each.only == "inet" and options.get(each.name)]
        if wrong:
            raise Error(f"A Unix socket has no {wrong[0]}; leave {wrong[0]}= out")
        mode, umask = options.get("mode"), options.get("umask")
        if mode is not None and umask is not None:
            raise Error("mode= and umask= both say who may connect; leave one of them out")
        return replace(spec, path=path, umask=umask, mode=mode, owner=options.get("owner"))
    if path:
        raise Error("path is for Unix sockets; leave out family= or path=")
    wrong = [each.name for each in SOCKET_OPTIONS if each.only == "unix" and options.get(each.name) not in (None, "")]
    if wrong:
        raise Error(f"{wrong[0]} is for Unix sockets; leave it out or give a path=")
    interface = options.get("interface") or None
    everywhere, here = ("::", "::1") if family == "inet6" else ("0.0.0.0", "127.0.0.1")
    host = options.get("host") or (everywhere if interface else here)
    return replace(
        spec,
        host=host,
        port=options.get("port", 0),
        interface=interface,
        reuseport="1" if options.get("reuseport") else None,
    )


def clone(of: Socket) -> socket.socket:
    """Return another socket bound like a reuseport socket, for one process. Raises Error.

    The caller closes it.
    """
    with contextlib.ExitStack() as cleanup_on_fail:
        # A name is not looked up again. An address is: for a reserved datagram socket, that of the socket is another.
        address = of.sock.getsockname() if of.spec.host and not _is_numeric(of.spec.host) else None
        sock = _bound(of.spec, address, cleanup_on_fail)
        _listen(sock, of.spec)
        cleanup_on_fail.pop_all()
        return sock


def _open(spec: Spec, address: Any, cleanup_on_fail: contextlib.ExitStack) -> tuple[socket.socket, Node | None]:
    """Open a socket as `spec` says; `cleanup_on_fail` undoes all of it. Raises Error."""
    node = None
    if spec.path:
        sock = _unbound(spec, cleanup_on_fail)
        mode = None if spec.mode is None else int(spec.mode, 8)
        node = bind_path(sock, spec.path, spec.umask, mode=mode, owner=_ids(spec.owner))
        cleanup_on_fail.callback(unlink, spec.path, node)
    else:
        sock = _bound(spec, address, cleanup_on_fail)
    if spec.reuseport:
        _reserve(sock, spec)
    else:
        _listen(sock, spec)
    return sock, node


def _in_use(spec: Spec, address: Any) -> bool:
    """Return whether another socket has an address of this kind."""
    listens = spec.type == "stream" and not spec.reuseport
    with contextlib.ExitStack() as always_cleanup, contextlib.suppress(Error):
        try:
            _bound(replace(spec, reuseport=None), address, always_cleanup, reuseaddr=listens)
        except InUse:
            return True
    return False


def _ids(owner: str | None) -> Owner:
    uid, _, gid = (owner or "").partition(":")
    return int(uid or -1), int(gid or -1)


def _unbound(spec: Spec, cleanup_on_fail: contextlib.ExitStack) -> socket.socket:
    try:
        sock = socket.socket(FAMILY[spec.family], TYPE[spec.type])
    except OSError as error:
        raise Error(f"Cannot make a {spec.family} socket of type {spec.type}: {error.strerror}") from None
    cleanup_on_fail.callback(sock.close)
    _set(sock, spec.sockopts)
    return sock


def _bound(spec: Spec, address: Any, cleanup_on_fail: contextlib.ExitStack, *, reuseaddr: bool = True) -> socket.socket:
    """Return a bound socket. With `reuseaddr`, an address counts as in use where somebody listens, and only there."""
    sock = _unbound(spec, cleanup_on_fail)
    address = address or _resolve(spec)
    if reuseaddr:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if spec.reuseport:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if spec.interface:
        _bind_to_interface(sock, spec.interface)
    try:
        sock.bind(address)
    except OSError as error:
        kind = InUse if error.errno == errno.EADDRINUSE else Error
        raise kind(f"Bind failed on {spec.host}:{spec.port}: {error}") from None
    return sock


def _set(sock: socket.socket, values: dict[str, Any]) -> None:
    """Set the options that are only set by setsockopt(2)."""
    for option in SOCKET_OPTIONS:
        if option.sockopt and option.name in values:
            value = values[option.name]
            try:
                sock.setsockopt(*option.sockopt, value.encode() if isinstance(value, str) else value)
            except OSError as error:
                raise Error(f"Cannot set {option.name}={value}: {error.strerror}") from None


def _listen(sock: socket.socket, spec: Spec) -> None:
    if spec.type in ("stream", "seqpacket"):
        try:
            sock.listen(spec.backlog)
        except OSError as error:
            kind = InUse if error.errno == errno.EADDRINUSE else Error
            raise kind(f"Cannot listen: {error.strerror}") from None


def _reserve(sock: socket.socket, spec: Spec) -> None:
    """Reserve the port without receiving anything that arrives at it.

    A TCP socket that does not listen receives nothing. A datagram socket would receive its share
    unless it is connected; then it receives only from its peer, the discard port, and reuseport
    skips it.
    """
    if spec.type == "dgram":
        host = sock.getsockname()[0]
        if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
            host = "::1" if spec.family == "inet6" else "127.0.0.1"
        try:
            sock.connect((host, 9))
        except OSError as error:
            raise Error(f"Cannot reserve {spec.host}:{spec.port}: {error.strerror}; is the interface up?") from None


def has_names(spec: Spec) -> bool:
    """Return whether it has a host or an owner by name, which `look_up` has to find first."""
    return bool(
        (spec.host and not _is_numeric(spec.host)) or (spec.owner and not re.fullmatch(r"\d*(:\d+)?", spec.owner))
    )


def look_up(spec: Spec) -> tuple[Spec, Any]:
    """Return the spec with its owner by numbers, and the address of its host. Raises Error. It may take long."""
    if spec.path:
        return (replace(spec, owner=lookups.owner(spec.owner)) if spec.owner else spec), None
    return spec, _resolve(spec)


def _is_ipv6(host: str) -> bool:
    """Return whether a host is an IPv6 address, which only a socket of that family can have."""
    return ":" in host and _is_numeric(host)


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _resolve(spec: Spec) -> Any:
    try:
        found = socket.getaddrinfo(spec.host, spec.port, FAMILY[spec.family], TYPE[spec.type], flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise Error(f"Cannot resolve host {spec.host} as an address of this family") from None
    return found[0][4]


def _bind_to_interface(sock: socket.socket, interface: str) -> None:
    names = [name for _, name in socket.if_nameindex()]
    if interface not in names:
        raise Error(f"There is no interface {interface}; there are: {', '.join(sorted(names))}")
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
    except OSError as error:
        raise Error(f"Cannot bind to interface {interface}: {error.strerror}") from None
