"""One sample of a papad: what its daemon and its nursery have, and how fast it answers."""

from __future__ import annotations

import json
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.memory import files_in_memory
from papad.client.papa import Papa
from papad.daemon.durable.store import _LOG, _PAGE, _PREAMBLE
from tests.soak.papads import surely
from tests.support.papad import open_fds

ROUND_TRIPS = 21


def sample(papa: Papa, number: int) -> dict[str, float]:
    """By the names of trend.TOLERANCES. Raises OSError if the daemon was replaced meanwhile."""
    found = {
        "round trip, µs": statistics.median(taken(lambda: papa.get("soak")) for _ in range(ROUND_TRIPS)),
        "spawn, µs": taken(lambda: papa.make_process(f"probe.{number}", "/bin/true", bufsize=0)),
    }
    surely(papa.remove_processes, papa.list_processes, f"probe.{number}")
    (facts,) = papa.describe("server")
    daemon, nursery = facts["pid"], facts["nursery"]
    for who, pid in (("daemon", daemon), ("nursery", nursery)):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        for kind in ("Rss", "Pss"):
            (size,) = re.findall(rf"^{kind}: +(\d+) kB", text, re.MULTILINE)
            found[f"{who} {kind}, KiB"] = float(size)
        found[f"{who} descriptors"] = len(open_fds(pid))
    found["daemon threads"] = len(os.listdir(f"/proc/{daemon}/task"))
    found["children of the nursery"] = len(Path(f"/proc/{nursery}/task/{nursery}/children").read_text().split())
    log, found["entries"] = log_of(daemon)
    found["log of the store, KiB"] = log
    found["store beside its log, KiB"] = max(0.0, sum(files_in_memory(daemon)) / 1024 - log)
    return found


def taken(act: Callable[[], object]) -> float:
    """How long it takes, in µs."""
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1e6


def log_of(daemon: int) -> tuple[float, float]:
    """The length of the store's log in KiB, and the number of its live entries. Raises OSError."""
    (store,) = (fd for fd, what in open_fds(daemon).items() if what.startswith("/memfd:papad-store"))
    fd = os.open(f"/proc/{daemon}/fd/{store}", os.O_RDONLY)
    try:
        while True:
            start, length = header = _LOG.unpack_from(os.pread(fd, _PAGE, 0), _PREAMBLE.size)
            data = os.pread(fd, length, start)
            if _LOG.unpack_from(os.pread(fd, _PAGE, 0), _PREAMBLE.size)[0] == header[0]:  # not compacted meanwhile
                break
    finally:
        os.close(fd)
    keys: set[str] = set()
    for record in map(json.loads, data.splitlines()):
        (keys.discard if record.get("gone") else keys.add)(record["key"])
    return length / 1024, len(keys)
