"""`papactl watch`: prints output, then acknowledges it. It never acknowledges unprinted output."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from papad.client.connection import Client, connect
from papad.client.watcher import Watcher
from papad.ctl.connect import Session
from papad.ctl.lines import Line, Look
from papad.ctl.output import look_of
from papad.ctl.parser import Call, Usage
from papad.errors import ConnectionLost, TimedOut
from papad.protocol import requests
from papad.protocol.watching import WatchBatch


def run(call: Call, session: Session) -> int:
    """Run `watch` until nothing is left to watch."""
    if call.flag("json"):
        raise Usage("watch has no --json; use papactl output -f --json, which consumes nothing")
    words = call.words[1:] if len(call.words) > 1 and call.words[0] == "processes" else call.words
    watch(session, words, look_of(call, session, call.text("output") or "short"))
    return 0


def watch(session: Session, patterns: list[str], look: Look | None = None) -> dict[str, int]:
    """Print the output of processes and how they end, across restarts of papad.

    Return their exit codes by name.
    """
    source = _Source(session.client())
    session.keep()
    printer = _Printer(look or Look(), sys.stdout.buffer)
    watcher = None
    try:
        for each in source.first.describe("processes", *patterns):
            printer.begin(each["name"], each["acknowledged"], each["captured"] - each["buffered"])
        source.first.begin_watch(requests.watch_processes(*patterns))
        watcher = Watcher(source, tuple(patterns))
        while (batch := watcher.read(timeout=None)) is not None:
            names = [item.name for item in batch.closed]
            captured = {each["name"]: each["captured"] for each in source.describe(names)} if names else {}
            printer.print(batch, captured)
        return watcher.exit_code
    finally:
        printer.end_line()
        if watcher is not None and watcher.connection is not None:
            watcher.connection.close()  # a batch that was not printed is delivered again
        source.close()


class _Source:
    """Provides the connections of the watcher."""

    def __init__(self, client: Client) -> None:
        self.first = client
        self.connection: Client | None = client
        self._beside: Client | None = None

    def another(self) -> Client:
        """Return a new connection once papad answers."""
        return connect(self.first.address)

    def list_processes(self) -> dict[str, dict[str, Any]]:
        """Return all processes by name."""
        return {each["name"]: each for each in self.describe([])}

    def describe(self, patterns: list[str]) -> list[dict[str, Any]]:
        """Describe the processes that match, on a connection separate from that of the watch."""
        while True:
            if self._beside is None or not self._beside.fresh:
                self._beside = self.another()
            try:
                return self._beside.describe("processes", *patterns)
            except TimedOut:
                raise
            except ConnectionLost:  # papad is being restarted
                self._beside.close()

    def close(self) -> None:
        """Close all connections that are left."""
        for client in (self.first, self.connection, self._beside):
            if client is not None:
                client.close()


class _Printer:
    """Prints each batch completely, including incomplete lines, before it is acknowledged."""

    def __init__(self, look: Look, stream: BinaryIO) -> None:
        self._look = look
        self._stream = stream
        self._open: tuple[str, str] | None = None  # name and kind of the incomplete line
        self._positions: dict[str, int] = {}

    def begin(self, name: str, acknowledged: int, position: int) -> None:
        """Start a process whose output begins at `position`, and report missing bytes before it."""
        self._positions[name] = position
        self._lost(name, position - acknowledged, time.time())

    def print(self, batch: WatchBatch, captured: dict[str, int]) -> None:
        """Print a batch.

        `captured` is the number of captured bytes of the processes that end in it; the difference
        to the bytes that were delivered is reported as lost.
        """
        for line in _in_order(batch):
            if line.kind == "closed":
                position = self._positions.pop(line.name, 0)
                self._lost(line.name, captured.get(line.name, position) - position, line.timestamp)
                if self._open is not None and self._open[0] == line.name:
                    self.end_line()  # also where the look does not show the end
            else:
                self._positions[line.name] = self._positions.get(line.name, 0) + len(line.data)
            self._line(line)
        self._stream.flush()

    def _lost(self, name: str, count: int, timestamp: float) -> None:
        if count > 0:
            self._line(Line("lost", name, 0, timestamp, 0, b"", count))

    def _line(self, line: Line) -> None:
        *complete, rest = line.data.split(b"\n") if line.kind in ("out", "err") else [b"", b""]
        for number, data in enumerate(complete):
            if self._piece(line._replace(data=data), begun=number == 0):
                self._open = None
        if rest:
            shown = self._piece(line._replace(data=rest), begun=not complete, newline=False)
            self._open = (line.name, line.kind) if shown else None

    def _piece(self, line: Line, *, begun: bool, newline: bool = True) -> bool:
        text = self._look.format(line)
        if begun and self._open == (line.name, line.kind):
            text = self._look._replace(style="cat").format(line)
        elif text:
            self.end_line()
        self._stream.write(text if newline else text.removesuffix(b"\n"))
        return bool(text)

    def end_line(self) -> None:
        """End the current line if it is incomplete."""
        if self._open is not None:
            self._open = None
            self._stream.write(b"\n")
            self._stream.flush()


def _in_order(batch: WatchBatch) -> Iterator[Line]:
    """Yield the records by time. `closed` follows all output of the same instant."""
    records = [
        (item.timestamp, n, kind, item)
        for n, kind in enumerate(("out", "err", "closed"))
        for item in getattr(batch, kind)
    ]
    for timestamp, _, kind, item in sorted(records, key=lambda record: record[:2]):
        if kind == "closed":
            yield Line(kind, item.name, 0, timestamp, 0, b"", int(item.data))
        else:
            assert isinstance(item.data, bytes)
            yield Line(kind, item.name, 0, timestamp, 0, item.data)
