"""A relay before a real papad. A cut looks like a restart of papad that lost nothing, which needs a systemd otherwise."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self


class Relay:
    """Passes bytes between clients at `path` and the papad at `upstream`, and cuts connections where it is told to."""

    def __init__(self, path: Path, upstream: str) -> None:
        self.path = str(path)
        self._upstream = upstream
        self.budgets: list[int] = []
        """How many bytes each next connection may receive before it is cut; without limit when there are no more."""
        self.swallow: Callable[[bytes], bool] = lambda data: False
        """Whether what a client sent is to be lost, and its connection with it."""
        self.connections = 0
        self.sent: list[bytes] = []
        """What clients have sent."""
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._budget: dict[socket.socket, int] = {}
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._orders: list[str] = []
        self._listener = self._listen()
        self._thread = threading.Thread(target=self._run)

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen(100)
        return listener

    def __enter__(self) -> Self:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._order("end")
        self._thread.join()
        for sock in (self._wake, self._woken, self._listener):
            sock.close()
        self._selector.close()

    def cut(self) -> None:
        """End all connections at once; returns when they have ended."""
        self._order("cut")

    def _order(self, order: str) -> None:
        done = threading.Event()
        self._done = done
        self._orders.append(order)
        self._wake.send(b"x")
        assert done.wait(10)

    def _run(self) -> None:
        ending = False
        while not ending:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    self._woken.recv(1)
                    ending = self._orders.pop(0) == "end"
                    while self._pairs:
                        self._drop(next(iter(self._pairs)))
                    self._done.set()
                elif key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._pairs:
                    self._pass(key.fileobj)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._upstream)
        self.connections += 1
        self._pairs[client], self._pairs[server] = server, client
        if self.budgets:
            self._budget[server] = self.budgets.pop(0)
        self._selector.register(client, selectors.EVENT_READ)
        self._selector.register(server, selectors.EVENT_READ)

    def _pass(self, sock: socket.socket) -> None:
        other = self._pairs[sock]
        try:
            data = sock.recv(min(65536, self._budget.get(sock, 65536)))
            if not data:
                return self._drop(sock)
            if sock in self._budget:
                self._budget[sock] -= len(data)
            elif sock.getsockname() == self.path:
                self.sent.append(data)
                if self.swallow(data):
                    return self._drop(sock)
            other.sendall(data)
        except OSError:
            return self._drop(sock)
        return self._drop(sock) if self._budget.get(sock) == 0 else None

    def _drop(self, sock: socket.socket) -> None:
        other = self._pairs.pop(sock)
        del self._pairs[other]
        for end in (sock, other):
            self._budget.pop(end, None)
            with contextlib.suppress(KeyError):
                self._selector.unregister(end)
            end.close()
