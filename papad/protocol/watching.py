"""Watching processes: what is handed out of the batches that come, so that a watch can go on after a restart of papad."""

from __future__ import annotations

from typing import Any, NamedTuple

from papad.protocol import requests
from papad.protocol.responses import Batch, Handed, ProcessOutput


class WatchBatch(NamedTuple):
    """What Watcher.read gives."""

    out: list[ProcessOutput[bytes]]
    err: list[ProcessOutput[bytes]]
    closed: list[ProcessOutput[int]]


class Watched:
    """What is watched, without any I/O: shared by the watchers of both clients."""

    def __init__(self, patterns: tuple[object, ...]) -> None:
        self.exit_code: dict[str, int] = {}
        self.unacknowledged = False
        """Whether a batch was handed out and no acknowledgement was sent."""
        self.handed = Handed()
        self.again = False
        """Whether the next batch is the first after a restart of papad."""
        self._patterns = [each for each in patterns if each is not None] or ["*"]

    def take(self, batch: Batch) -> WatchBatch | None:
        """A batch that came, as it is to be handed out; None at the end of the watch."""
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
        """The patterns that make sense after a restart of papad, when these processes are there."""
        known = {*listed, *(str(each["pid"]) for each in listed.values())}
        return [each for each in self._patterns if requests.text(each).endswith("*") or requests.text(each) in known]
