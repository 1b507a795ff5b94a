"""Accepts and limits connections, and decides when an idle papad exits."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from papad.daemon.commands.roles import Role
from papad.daemon.commands.table import Tables
from papad.daemon.connection import Connection
from papad.daemon.peers import Peer, Peers
from papad.errors import Error
from papad.protocol import wire

log = logging.getLogger("papad")

MAX_CONNECTIONS = 1000
_OF_ONE_USER = 500  # other than root and our own user
_RESERVE = 100  # for these, beyond MAX_CONNECTIONS
_REFUSED_LINGER = 1.0  # seconds for a refused client to read why
_LINGERING = 100  # refused clients that get this time, and clients that wait to be looked up
_ACCEPTING = 0.002  # seconds of a turn of the event loop
_PAUSE = 4  # times as long as it took, after a turn with clients that were refused
_DRAIN = 0.5  # seconds for connections to become quiet when papad stops


class Server:
    """All connections, whatever control socket they came through."""

    def __init__(self, tables: Tables, peers: Peers, stopped: asyncio.Future[bool]) -> None:
        self.tables = tables
        self.connections: set[Connection] = set()
        self.peers = peers
        self._listeners: list[socket.socket] = []  # the control sockets
        self._tasks: set[asyncio.Task[Any]] = set()  # keeps tasks from being garbage-collected
        self.exit_when_idle = False
        """Set by exit-if-idle: stop once there are no connections, unless a new one comes."""
        self._stopped = stopped  # done when the daemon is to stop: True by exit-if-idle, False by a signal
        self._by_user: Counter[int] = Counter()  # connections
        self._refused = 0  # clients since the log has last told of one
        self._lingering: set[socket.socket] = set()  # of refused clients
        self._asking = 0  # connections whose peers are being looked up
        self._drained: asyncio.Future[None] | None = None  # set by drain; done at no connections
        self.on_change: list[Callable[[], None]] = []
        """Called after each command and acknowledgement, which may have changed what is held."""

    def listen(self, listener: socket.socket) -> None:
        """Accept connections from a listening socket, which becomes the server's."""
        listener.setblocking(False)
        if listener.family != socket.AF_UNIX:  # connections inherit it (tcp(7))
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._listeners.append(listener)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    async def drain(self) -> None:
        """Stop accepting, answer pending commands, and close each connection once it is quiet.

        Returns after _DRAIN seconds at the latest. If a service manager holds the listening
        sockets, new connections wait for the next daemon.
        """
        self._accept_nobody()
        for connection in self.connections:
            connection.end_when_quiet()
        self._drained = asyncio.get_running_loop().create_future()
        if self.connections:
            await asyncio.wait([self._drained], timeout=_DRAIN)

    def close(self) -> None:
        """Stop listening and drop all connections."""
        self._accept_nobody()
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.abort()

    def _accept_nobody(self) -> None:
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)

    def changed(self) -> None:
        """Call those who want to know that what is held may have changed."""
        for function in self.on_change:
            function()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def left(self, connection: Connection) -> None:
        """Remove a connection that is closed."""
        if connection in self.connections:
            self.connections.remove(connection)
            self._by_user[connection.peer.uid] -= 1
        if self._drained is not None and not self.connections and not self._drained.done():
            self._drained.set_result(None)
        if self.exit_when_idle and not self.connections and self.tables.idle and not self._stopped.done():
            # At once, or a client could still connect, be answered, and lose what it made.
            self._accept_nobody()
            self._stopped.set_result(True)

    def _accept(self, listener: socket.socket) -> None:
        """Accept those who wait, but not for long, and less of the time when strangers are among them."""
        began, refused = time.monotonic(), self._refused
        while (took := time.monotonic() - began) < _ACCEPTING:
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                break
            except OSError as error:
                log.warning("cannot accept connections, retrying in a second: %s", error.strerror)
                self._pause(listener, 1.0)
                return
            self.exit_when_idle = False
            try:
                peer = self.peers.identify(sock)
                role = self.peers.role(peer)
            except Error as error:
                self._refuse(sock, str(error))
                continue
            if role is None:
                self.run(self._ask(sock, peer))
            else:
                self._begin(sock, peer, role)
        if self._refused > refused:
            self._pause(listener, _PAUSE * took)

    def _pause(self, listener: socket.socket, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        loop.call_later(seconds, self._accept_again, listener)

    async def _ask(self, sock: socket.socket, peer: Peer) -> None:
        """Admit the peer or refuse it once its groups are known."""
        self._asking += 1
        try:
            if self._asking > _LINGERING:
                raise Error("too many wait to be looked up in the directory of users already; try again")
            role = await self.peers.ask(peer)
        except Error as error:
            self._refuse(sock, str(error))
        else:
            self._begin(sock, peer, role)
        finally:
            self._asking -= 1

    def _begin(self, sock: socket.socket, peer: Peer, role: Role) -> None:
        try:
            if role is Role.NONE:
                raise Error(self.peers.refusal(peer))
            self._check_limits(peer)
            # The original client, where it is hung up on before the welcome, takes nobody to be
            # there: it unlinks our path and starts the original server. So nothing comes between.
            sock.send(wire.WELCOME, socket.MSG_DONTWAIT)
        except (Error, OSError) as error:
            self._refuse(sock, str(error))
        else:
            sock.setblocking(False)
            connection = Connection(self, sock, peer, role)
            self.connections.add(connection)
            self._by_user[peer.uid] += 1

    def _check_limits(self, peer: Peer) -> None:
        """Raise Error if the peer may have no further connection."""
        most = MAX_CONNECTIONS + (_RESERVE if peer.trusted else 0)
        if len(self.connections) >= most:
            raise Error(f"papad has {most} connections already; close some")
        if not peer.trusted and self._by_user[peer.uid] >= _OF_ONE_USER:
            raise Error(f"{peer} has {_OF_ONE_USER} connections to papad already; close some")

    def _refuse(self, sock: socket.socket, why: str) -> None:
        """Tell a client why it is refused, and close. The log has one line a second."""
        self._refused += 1
        if self._refused == 1:
            log.info("refused a connection: %s", why)
            asyncio.get_running_loop().call_later(1.0, self._tell_refused)
        sock.setblocking(False)
        with suppress(OSError):
            sock.send(wire.error(why))
            sock.shutdown(socket.SHUT_WR)
        if len(self._lingering) < _LINGERING:
            self._lingering.add(sock)
            self.run(self._linger(sock))
        else:
            sock.close()

    def _tell_refused(self) -> None:
        more, self._refused = self._refused - 1, 0
        if more:
            self._refused = 1
            log.info("refused %d more connections within a second", more)
            asyncio.get_running_loop().call_later(1.0, self._tell_refused)

    async def _linger(self, sock: socket.socket) -> None:
        """Close without a reset, so that the client can read why it is refused; ignore its input."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_REFUSED_LINGER):
                while await asyncio.get_running_loop().sock_recv(sock, 65536):
                    pass
        self._lingering.remove(sock)
        sock.close()

    def _accept_again(self, listener: socket.socket) -> None:
        ending = self._drained is not None or self._stopped.done()
        if listener in self._listeners and listener.fileno() >= 0 and not ending:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)
