"""`papactl watch`: prints output and acknowledges it. Only what has been printed is ever acknowledged."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import BinaryIO

from papad import requests
from papad.ctl.connect import Session
from papad.ctl.lines import Line, Look
from papad.ctl.output import look_of
from papad.ctl.parser import Call
from papad.incoming import Batch


def run(call: Call, session: Session) -> int:
    """Watch until nothing is left."""
    words = call.words[1:] if len(call.words) > 1 and call.words[0] == "processes" else call.words
    return watch(session, words, look_of(call, session, call.text("output") or "short"))


def watch(session: Session, patterns: list[str], look: Look | None = None) -> int:
    """Print what the processes write, and how they end."""
    client = session.client()
    client.begin_watch(requests.watch_processes(*patterns))
    printer = _Printer(look or Look(), sys.stdout.buffer)
    try:
        while True:
            batch = client.batch(timeout=None)
            printer.print(batch)
            if batch.final is not None:
                return 0
            client.acknowledge()
    finally:
        printer.end_line()
        session.drop()  # a batch that was not printed will come again


class _Printer:
    """Prints at once all that a batch holds, the beginning of a line too: what is acknowledged has been seen."""

    def __init__(self, look: Look, stream: BinaryIO) -> None:
        self._look = look
        self._stream = stream
        self._open: tuple[str, str] | None = None  # name and kind of the line that has not ended

    def print(self, batch: Batch) -> None:
        for line in _in_order(batch):
            self._line(line)
        self._stream.flush()

    def _line(self, line: Line) -> None:
        *complete, rest = line.data.split(b"\n") if line.kind in ("out", "err") else [b"", b""]
        for number, data in enumerate(complete):
            self._piece(line._replace(data=data), begun=number == 0)
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
        """Begin a new line unless we stand at the beginning of one."""
        if self._open is not None:
            self._open = None
            self._stream.write(b"\n")
            self._stream.flush()


def _in_order(batch: Batch) -> Iterator[Line]:
    """The records by time; an end comes after all output of the same instant."""
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
