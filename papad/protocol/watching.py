"""Watching processes: drops duplicate records, so that a watch can continue after a restart."""

from __future__ import annotations

from typing import Any, NamedTuple

from papad.protocol import requests
from papad.protocol.responses import Batch, Handed, ProcessOutput


class WatchBatch(NamedTuple):
    """One batch, as Watcher.read returns it."""

    out: list[ProcessOutput[bytes]]
    err: list[ProcessOutput[bytes]]
    closed: list[ProcessOutput[int]]


class Watched:
    """The state of a watch, without I/O. The watchers of both clients share it."""

    def __init__(self, patterns: tuple[object, ...]) -> None:
        self.exit_code: dict[str, int] = {}
        self.unacknowledged = False
        """Whether a batch was handed out and its acknowledgement not yet sent."""
        self.handed = Handed()
        self.again = False
        """Whether the next batch is the first after a restart of papad."""
        self._patterns = [each for each in patterns if each is not None] or ["*"]

    def take(self, batch: Batch) -> WatchBatch | None:
        """Return the part of a received batch to hand out, or None at the end of the watch."""
        complete = Batch(batch.out[:], batch.err[:], batch.closed[:])
        if self.again:
            self.handed.strip(batch)
            self.again = False
        self.handed.note(complete)
        for item in batch.closed:
            self.exit_code[item.name] = item.data
        self.unacknowledged = batch.final is None
        return None if batch.final is not None else WatchBatch(batch.out, batch.err, batch.closed)

    def left(self, listed: dict[str, dict[str, Any]]) -> list[object]:
        """Return the patterns to watch again after a restart, given the processes that exist."""
        known = {*listed, *(str(each["pid"]) for each in listed.values())}
        return [each for each in self._patterns if requests.text(each).endswith("*") or requests.text(each) in known]
