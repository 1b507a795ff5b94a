"""Watching processes: drops duplicate records, so that a watch can continue after a restart."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from papad.protocol import requests
from papad.protocol.requests import Request
from papad.protocol.responses import Batch, Frame, Handed, ProcessOutput, Record

_BEYOND = 10**18
"""A position that no process reaches: papad sends nothing of a process after it but its end."""


class WatchBatch(NamedTuple):
    """One batch, as Watcher.read returns it."""

    out: list[ProcessOutput[bytes]]
    err: list[ProcessOutput[bytes]]
    closed: list[ProcessOutput[int]]


def batch_of(records: Iterable[Record]) -> WatchBatch:
    """Sort records by stream."""
    batch = WatchBatch([], [], [])
    for stream, name, timestamp, data in records:
        getattr(batch, stream).append(ProcessOutput[Any](name, timestamp, data))
    return batch


class Watched:
    """The state of a watch, without I/O. The watchers of both clients share it."""

    def __init__(self, patterns: tuple[object, ...]) -> None:
        self.exit_code: dict[str, int] = {}
        self.unacknowledged = False
        """Whether a batch was handed out and its acknowledgement not yet sent."""
        self.handed = Handed()
        self.again = False
        """Whether the next batch is the first after a restart of papad."""
        self.rest: deque[Record] = deque()
        """Records of the last batch that were not handed out; it must not be acknowledged before."""
        self._last: list[Record] = []
        self._patterns = [each for each in patterns if each is not None] or ["*"]

    def take(self, batch: Batch) -> WatchBatch | None:
        """Return the part of a received batch to hand out, or None at the end of the watch."""
        records = self.handed.strip(batch.records) if self.again else batch.records
        self.again = False
        self.handed.note(batch.records)
        for record in batch.records:
            if isinstance(record.data, int):
                self.exit_code[record.name] = record.data
        self.unacknowledged = batch.final is None
        self._last = records
        return None if batch.final is not None else batch_of(records)

    def spread(self) -> None:
        """Put the records of the last batch into `rest`, to be handed out one by one.

        They are in the order of time. Those of one process stay in the order in which they came.
        """
        by_name: dict[str, list[Record]] = {}
        for record in self._last:
            by_name.setdefault(record.name, []).append(record)
        self.rest.extend(heapq.merge(*by_name.values(), key=lambda record: record.timestamp))
        self._last = []

    def take_rest(self) -> WatchBatch:
        """Return, as a batch, what was not handed out of the last one."""
        batch = batch_of(self.rest)
        self.rest.clear()
        return batch

    def left(self, listed: dict[str, dict[str, Any]]) -> list[object]:
        """Return the patterns to watch again after a restart, given the processes that exist."""
        known = {*listed, *(str(each["pid"]) for each in listed.values())}
        return [each for each in self._patterns if requests.text(each).endswith("*") or requests.text(each) in known]


class Later:
    """Which processes a watch knows, so that those that are made later show."""

    def __init__(self, patterns: tuple[object, ...]) -> None:
        self._patterns = patterns
        self._known: set[int] = set()

    @property
    def inquiry(self) -> Request[list[dict[str, Any]]]:
        """The request whose answer `know` needs, before the watch begins anew."""
        return requests.describe("processes", *self._patterns)

    def know(self, described: Iterable[Mapping[str, Any]]) -> None:
        """Note which processes there are. A watch that begins afterwards has them all."""
        self._known = {each["id"] for each in described}

    def line(self) -> bytes:
        """Return the command that follows the processes that are made later.

        papad sends only the ends of those that are known, so nothing travels twice.
        """
        after = [(f"after.{id}", str(_BEYOND)) for id in sorted(self._known)]
        return requests.line(["output", ("follow", "1"), *after, *requests.pattern_words(self._patterns)])

    def is_new(self, frame: Frame) -> bool:
        """Return whether a frame is of a process that the watch does not have."""
        return frame.id not in self._known
