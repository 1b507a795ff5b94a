"""A papad that says what the test wants: for what a real one says too seldom, or never."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from tests.support.papad import WELCOME, no_new_fds


class Last(bytes):
    """What is said before the connection ends."""


class Peer:
    """Listens at `path`, and answers each line as `answers` tells: with the first of its list, then the next.

    The first connections get `welcomes`, all others what papad says. An empty answer is silence.
    It must hear nothing else, and nothing may be left open at its end.
    """

    def __init__(self, path: Path, answers: Mapping[bytes, Iterable[bytes]], *welcomes: bytes) -> None:
        self.path = str(path)
        self.heard: list[bytes] = []
        """All lines, in the order in which they came."""
        self._answers = {line: list(those) for line, those in answers.items()}
        self._welcomes = list(welcomes)
        self._unknown: list[bytes] = []
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._all_closed = no_new_fds()

    def __enter__(self) -> Self:
        self._all_closed.__enter__()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        if kind is None:
            assert not self._unknown, f"nothing was to be said to {self._unknown}"
            self._all_closed.__exit__(None, None, None)

    @property
    def connections(self) -> int:
        """How many there have been."""
        return len(self._ends)

    @property
    def left(self) -> bool:
        """Whether all connections have ended."""
        return all(end.fileno() < 0 for end in self._ends)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                end, _ = self._listener.accept()
                self._ends.append(end)
                self._threads.append(threading.Thread(target=self._talk, args=[end]))
                self._threads[-1].start()

    def _talk(self, end: socket.socket) -> None:
        with end, contextlib.suppress(OSError), end.makefile("rb") as lines:
            says = self._welcomes.pop(0) if self._welcomes else WELCOME
            end.sendall(says)
            while not isinstance(says, Last) and (line := lines.readline()):
                self.heard.append(line)
                if not self._answers.get(line):
                    self._unknown.append(line)
                    return
                says = self._answers[line].pop(0)
                end.sendall(says)
