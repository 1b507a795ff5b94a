"""Acknowledges output that is in the files of an archive, so that papad drops it and forgets what has ended.

A watch delivers no positions. So each acknowledgement takes a short watch of one process: a batch,
then how much was captured by then, which is at least as much as the batch has. Once all of that is
in the file, the batch may be acknowledged.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from threading import Event, Thread

from papad.client.connection import Client
from papad.ctl.cursor import Reached
from papad.errors import Error
from papad.protocol import requests

_INTERVAL = 1.0  # seconds
_PATIENCE = 1.0  # seconds; how long to wait for what was captured to be in the file


class Acknowledger:
    """Acknowledges for one archive, in a thread of its own once it is started."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self.written: dict[str, tuple[int, Reached]] = {}
        """By process name: its id, and how far its output is in the file."""
        self._connect = connect
        self._tried: dict[str, tuple[int, Reached]] = {}
        self._ending = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Acknowledge in the background from now on."""
        self._thread.start()

    def close(self) -> None:
        """Stop that. What is not acknowledged yet is left to the next archive."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(2 * _PATIENCE)

    def _run(self) -> None:
        while not self._ending.wait(_INTERVAL):
            self.turn()

    def turn(self) -> None:
        """Acknowledge what was written since the last turn."""
        for name, written in list(self.written.items()):
            if self._tried.get(name) != written and not self._ending.is_set():
                self._tried[name] = written
                try:
                    while self._acknowledged(name, written[0]):
                        pass
                except Error:  # papad is being restarted, or the process has gone meanwhile
                    del self._tried[name]

    def _acknowledged(self, name: str, id: int) -> bool:
        """Acknowledge a batch of a process. Return whether there may be more. Raises Error."""
        with ExitStack() as stack:
            watch, beside = stack.enter_context(self._connect()), stack.enter_context(self._connect())
            found = [each for each in beside.describe("processes", name) if each["id"] == id]
            if not found:
                self._forget(name, id)
            if not any(each["buffered"] or each["closed"] for each in found):
                return False
            watch.begin_watch(requests.watch_processes(name))
            closed = any(each.stream == "closed" for each in watch.batch().records)
            found = [each for each in beside.describe("processes", name) if each["id"] == id]
            if not found or not self._is_written(name, id, found[0]["captured"], closed=closed):
                return False
            watch.acknowledge(stop=True)
            watch.batch()
            if closed:
                self._forget(name, id)
            return not closed

    def _forget(self, name: str, id: int) -> None:
        """Forget a process that papad has forgotten."""
        if self.written[name][0] == id:
            del self.written[name]
            del self._tried[name]

    def _is_written(self, name: str, id: int, position: int, *, closed: bool) -> bool:
        """Wait for a moment until all before a position is in the file, and perhaps the end; return whether it is."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            now, reached = self.written[name]
            if now == id and min(reached.out, reached.err) >= position and (reached.closed or not closed):
                return True
            time.sleep(0.01)
        return False
