"""Accepts and limits connections, and decides when an idle papad exits."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from papad.daemon.commands.table import Tables
from papad.daemon.connection import Connection
from papad.daemon.peers import Peer, Peers
from papad.errors import Error
from papad.protocol import wire

log = logging.getLogger("papad")

MAX_CONNECTIONS = 1000
_REFUSED_LINGER = 1.0  # seconds for a refused client to read why
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
        self._drained: asyncio.Future[None] | None = None  # set by drain; done at no connections
        self.on_change: list[Callable[[], None]] = []
        """Called after each command and acknowledgement, which may have changed what is held."""

    def listen(self, listener: socket.socket) -> None:
        """Accept connections from a listening socket, which becomes the server's."""
        listener.setblocking(False)
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
        self.connections.discard(connection)
        if self._drained is not None and not self.connections and not self._drained.done():
            self._drained.set_result(None)
        if self.exit_when_idle and not self.connections and self.tables.idle and not self._stopped.done():
            # At once, or a client could still connect, be answered, and lose what it made.
            self._accept_nobody()
            self._stopped.set_result(True)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(100):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                loop = asyncio.get_running_loop()
                log.warning("cannot accept connections, retrying in a second: %s", error.strerror)
                loop.remove_reader(listener)
                loop.call_later(1.0, self._accept_again, listener)
                return
            self.exit_when_idle = False
            try:
                peer = self.peers.identify(sock)
                admitted = self.peers.admits(peer)
            except Error as error:
                self._refuse(sock, str(error))
                continue
            if admitted is None:
                self.run(self._ask(sock, peer))
            else:
                self._begin(sock, peer, admitted=admitted)

    async def _ask(self, sock: socket.socket, peer: Peer) -> None:
        """Admit the peer or refuse it once it is known whether it is a member of the group."""
        try:
            admitted = await self.peers.ask(peer)
        except Error as error:
            self._refuse(sock, str(error))
        else:
            self._begin(sock, peer, admitted=admitted)

    def _begin(self, sock: socket.socket, peer: Peer, *, admitted: bool) -> None:
        try:
            if not admitted:
                raise Error(self.peers.refusal(peer))
            if len(self.connections) >= MAX_CONNECTIONS:
                raise Error(f"papad has {MAX_CONNECTIONS} connections already; close some")
            # The original client, where it is hung up on before the welcome, takes nobody to be
            # there: it unlinks our path and starts the original server. So nothing comes between.
            sock.send(wire.WELCOME, socket.MSG_DONTWAIT)
        except (Error, OSError) as error:
            self._refuse(sock, str(error))
        else:
            sock.setblocking(False)
            connection = Connection(self, sock, peer)
            self.connections.add(connection)
            self.run(self._serve(connection, sock))

    def _refuse(self, sock: socket.socket, why: str) -> None:
        log.info("refused a connection: %s", why)
        self.run(_refuse(sock, why))

    def _accept_again(self, listener: socket.socket) -> None:
        if listener in self._listeners and listener.fileno() >= 0 and self._drained is None:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    async def _serve(self, connection: Connection, sock: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
        except OSError:  # the client is already gone
            self.left(connection)
            sock.close()


async def _refuse(sock: socket.socket, why: str) -> None:
    """Send the reason and close without a reset, so the client can read it; ignore its input."""
    loop = asyncio.get_running_loop()
    with sock:
        sock.setblocking(False)
        try:
            sock.send(wire.error(why))
            sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_REFUSED_LINGER):
                while await loop.sock_recv(sock, 65536):
                    pass
        except (OSError, TimeoutError):
            pass
