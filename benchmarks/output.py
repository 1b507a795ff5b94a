"""Processes that write, and what becomes of it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.original.servers import REPOSITORY
from tests.support.waiting import wait_until

MIB = float(1 << 20)


def command(*words: object) -> str:
    """That of the writer."""
    return " ".join(arguments(*words))


def arguments(*words: object) -> list[str]:
    return [sys.executable, "-ISB", str(REPOSITORY / "benchmarks/writer.py"), *map(str, words)]


def written(report: Path) -> tuple[int, float]:
    """The bytes that a flood has written, and the seconds that took, once it is over; the report is used up."""
    wait_until(report.exists, "the writer has written all", 120)
    size, seconds = report.read_text().split()
    report.unlink()
    return int(size), float(seconds)
