"""`papactl watch`: prints output, then acknowledges it. It never acknowledges unprinted output."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NoReturn

from papad.client.connection import Client, connect
from papad.client.later import LaterWatcher
from papad.client.watcher import Watcher
from papad.ctl.connect import Session
from papad.ctl.lines import Line, Look
from papad.ctl.output import look_of
from papad.ctl.parser import Call, Usage
from papad.ctl.render import leave_with_reader, safe_text
from papad.ctl.run import complain
from papad.errors import ConnectionLost, TimedOut
from papad.protocol import requests
from papad.protocol.watching import WatchBatch

_NO_END = "{} was removed, or another watcher has acknowledged its end"


def run(call: Call, session: Session) -> int:
    """Run `watch` until nothing is left to watch, or with --follow until it is interrupted."""
    if call.flag("json"):
        raise Usage("watch has no --json; use papactl output -f --json, which consumes nothing")
    words = call.words[1:] if len(call.words) > 1 and call.words[0] == "processes" else call.words
    look = look_of(call, session, call.text("output") or "short")
    if call.flag("follow"):
        session.check_acknowledges()
        leave_with_reader()
        _watch_on(session, words, look)
    watch(session, words, look)
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
        described = source.first.describe("processes", *patterns)
        names = [each["name"] for each in _begun(described, source, printer)]
        source.first.begin_watch(requests.watch_processes(*patterns))
        watcher = Watcher(source, tuple(patterns))
        while _print_next(watcher, source, printer) is not None:
            pass
        for name in names:
            if name not in watcher.exit_code:
                complain(_NO_END.format(safe_text(name)))
        return watcher.exit_code
    finally:
        _close(watcher, source, printer)


def _watch_on(session: Session, patterns: list[str], look: Look) -> NoReturn:
    """Print the output of processes, also of those that are made later, until it is interrupted."""
    source = _Source(session.client())
    session.keep()
    printer = _Printer(look, sys.stdout.buffer)
    known: dict[int, str] = {}  # id -> name

    def look_around() -> list[dict[str, Any]]:
        found = source.describe(patterns)
        for name in [known.pop(id) for id in known.keys() - {each["id"] for each in found}]:
            if printer.forget(name):
                complain(_NO_END.format(safe_text(name)))
        return found

    def begins() -> None:
        new = _begun([each for each in look_around() if each["id"] not in known], source, printer)
        known.update({each["id"]: each["name"] for each in new})

    watcher: Watcher | None = None
    try:
        watcher = _WatcherOn(source, tuple(patterns), begins)
        while True:
            if not any(_print_next(watcher, source, printer) or ()):
                look_around()
    finally:
        _close(watcher, source, printer)


def _begun(described: list[dict[str, Any]], source: _Source, printer: _Printer) -> list[dict[str, Any]]:
    """Have the printer begin with these processes, and report who else watches them. Return them."""
    for each in described:
        printer.begin(each["name"], each["acknowledged"], each["captured"] - each["buffered"], each["lost"])
        if each["watchers"] and each["name"] not in source.watched:
            complain(
                f"{safe_text(each['name'])} has another watcher; each gets only what the other has not acknowledged"
            )
    return described


def _print_next(watcher: Watcher, source: _Source, printer: _Printer) -> WatchBatch | None:
    """Acknowledge the last batch, print the next one, and return it; None when nothing is left to watch."""
    batch = watcher.read(timeout=None)
    if batch is not None:
        names = [item.name for item in batch.closed]
        printer.print(batch, {each["name"]: each for each in source.describe(names)} if names else {})
    return batch


def _close(watcher: Watcher | None, source: _Source, printer: _Printer) -> None:
    printer.end_line()
    if watcher is not None and watcher.connection is not None:
        watcher.connection.close()  # a batch that was not printed is delivered again
    source.close()


class _WatcherOn(LaterWatcher):
    """Tells each time before it begins anew."""

    def __init__(self, source: _Source, patterns: tuple[str, ...], begins: Callable[[], None]) -> None:
        self._begins = begins
        super().__init__(source, patterns)

    def _begin_once(self) -> None:
        self._begins()  # before the watch, so that what is missing at its beginning can be told
        super()._begin_once()


class _Source:
    """Provides the connections of the watcher."""

    def __init__(self, client: Client) -> None:
        self.first = client
        self.connection: Client | None = client
        self._beside: Client | None = None
        self.watched: set[str] = set()
        """The names that existed when the watcher last began anew, for example because papad was restarted."""

    def another(self) -> Client:
        """Return a new connection once papad answers."""
        return connect(self.first.address)

    def list_processes(self) -> dict[str, dict[str, Any]]:
        """Return all processes by name."""
        found = {each["name"]: each for each in self.describe([])}
        self.watched = {*found}
        return found

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
        self._lost_before: dict[str, int] = {}

    def begin(self, name: str, acknowledged: int, position: int, lost: int) -> None:
        """Start a process whose output begins at `position`, and report missing bytes before it.

        `lost` is the number of bytes that have been overwritten so far.
        """
        if name in self._positions:
            return  # it has begun already: papad was restarted, and the watch has got it thereby
        self._positions[name] = position
        self._lost_before[name] = lost
        self._lost(name, position - acknowledged, time.time())

    def forget(self, name: str) -> bool:
        """Forget a process. Return whether its end was not printed yet."""
        self._lost_before.pop(name, None)
        return self._positions.pop(name, None) is not None

    def print(self, batch: WatchBatch, described: dict[str, dict[str, Any]]) -> None:
        """Print a batch.

        `described` has the processes that end in it. The difference between what they have captured
        and what was delivered is reported as lost, and how much of that another watcher must have got.
        """
        for line in _in_order(batch):
            if line.kind == "closed":
                self._end(line, described.get(line.name))
                if self._open is not None and self._open[0] == line.name:
                    self.end_line()  # also where the look does not show the end
            else:
                self._positions[line.name] = self._positions.get(line.name, 0) + len(line.data)
            self._line(line)
        self._stream.flush()

    def _end(self, line: Line, process: dict[str, Any] | None) -> None:
        position, lost_before = self._positions.pop(line.name, 0), self._lost_before.pop(line.name, 0)
        if process is not None:
            missing = process["captured"] - position
            self._lost(line.name, missing, line.timestamp)
            taken = missing - (process["lost"] - lost_before)
            if missing > 0 and taken > 0:
                complain(
                    f"{safe_text(line.name)}: another watcher has acknowledged {taken} of the {missing} bytes lost"
                )

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
