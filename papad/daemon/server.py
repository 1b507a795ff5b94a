"""Accepts and limits connections, and decides when an idle papad exits."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from papad.daemon.commands.table import Kernel
from papad.daemon.connection import Connection
from papad.daemon.peers import Peers
from papad.errors import Error
from papad.protocol import wire

log = logging.getLogger("papad")

MAX_CONNECTIONS = 1000
_REFUSED_LINGER = 1.0  # seconds for a refused client to read why
_DRAIN = 0.5  # seconds, when papad ends, for conversations to come to a pause


class Server:
    """All connections of this papad, whatever socket they came by."""

    def __init__(self, kernel: Kernel, peers: Peers) -> None:
        self.kernel = kernel
        self.connections: set[Connection] = set()
        self.peers = peers
        self._listeners: list[socket.socket] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self.exit_when_idle = False
        self.stopped: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Done when papad is to leave: True by exit-if-idle, False by a signal."""
        self._drained: asyncio.Future[None] | None = None  # while papad leaves; done when no connection is left
        self.on_change: Callable[[], None] = lambda: None

    def listen(self, listener: socket.socket) -> None:
        """Accept from a listening socket, which is the server's from now on."""
        listener.setblocking(False)
        self._listeners.append(listener)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    async def drain(self) -> None:
        """Accept no more, answer what is being asked, and end each connection once it is quiet, or in _DRAIN seconds.

        Who connects meanwhile waits for the next papad, where a service manager holds the listening sockets.
        """
        self._accept_nobody()
        for connection in self.connections:
            connection.end_when_quiet()
        self._drained = asyncio.get_running_loop().create_future()
        if self.connections:
            await asyncio.wait([self._drained], timeout=_DRAIN)

    def close(self) -> None:
        """Listen no more, and drop all connections."""
        self._accept_nobody()
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.abort()

    def _accept_nobody(self) -> None:
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something on the side."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def left(self, connection: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if self._drained is not None and not self.connections and not self._drained.done():
            self._drained.set_result(None)
        if self.exit_when_idle and not self.connections and self.kernel.idle and not self.stopped.done():
            self._accept_nobody()  # at once: who came in the last instant would be answered, and then forgotten
            self.stopped.set_result(True)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(100):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                loop = asyncio.get_running_loop()
                log.warning("cannot accept connections for a second: %s", error.strerror)
                loop.remove_reader(listener)
                loop.call_later(1.0, self._accept_again, listener)
                return
            self.exit_when_idle = False
            try:
                peer = self.peers.admit(sock)
                if len(self.connections) >= MAX_CONNECTIONS:
                    raise Error(f"papad has {MAX_CONNECTIONS} connections already; close some")
            except (Error, OSError) as error:
                log.info("refused a connection: %s", error)
                self.run(_refuse(sock, str(error)))
            else:
                sock.setblocking(False)
                connection = Connection(self, sock, peer)
                self.connections.add(connection)
                self.run(self._serve(connection, sock))

    def _accept_again(self, listener: socket.socket) -> None:
        if listener in self._listeners and listener.fileno() >= 0 and self._drained is None:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    async def _serve(self, connection: Connection, sock: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
        except OSError:  # gone already
            self.left(connection)
            sock.close()


async def _refuse(sock: socket.socket, why: str) -> None:
    """Say why, and close without a reset, so that the client can read it. Nothing that it sends is looked at."""
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
