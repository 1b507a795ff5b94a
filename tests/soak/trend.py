"""Whether a series of samples grows: the level of its last quarter against that of its second.

The first quarter is the warm-up. Quarters, because the log of the store is a saw: it grows to twice what is live and a
megabyte, and is compacted. The level is the median, for a sample may fall into a restart; of times it is the first decile,
for what the machine has else to do adds to them, and takes nothing away. A series grows if the later level is above the
earlier by more than its tolerance: a part of it and an amount.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """By how much a later level may exceed an earlier one."""

    part: float
    amount: float

    def exceeded(self, earlier: float, later: float) -> bool:
        return later > earlier * (1 + self.part) + self.amount


MEMORY = Tolerance(0.02, 2048)  # KiB: two arenas of an allocator are not a leak yet, and a short soak is all warm-up
TOLERANCES = {
    "daemon Rss, KiB": MEMORY,
    "daemon Pss, KiB": Tolerance(0.1, 1024),  # it rises when another papad, which shared its pages, ends
    "nursery Rss, KiB": MEMORY,
    "nursery Pss, KiB": Tolerance(0.1, 1024),
    "log of the store, KiB": Tolerance(0.1, 1280),  # the height of a tooth
    "store beside its log, KiB": Tolerance(0.1, 256),  # a block that is just captured
    "entries": Tolerance(0.1, 5),
    "daemon descriptors": Tolerance(0.05, 3),
    "nursery descriptors": Tolerance(0.05, 3),
    "daemon threads": Tolerance(0, 1),
    "children of the nursery": Tolerance(0.05, 3),
    "round trip, µs": Tolerance(0.5, 20),
    "spawn, µs": Tolerance(0.5, 2000),
}
"""All series that are sampled."""


def level(name: str, values: Sequence[float]) -> float:
    """That of a series."""
    if is_time(name) and len(values) > 1:
        return statistics.quantiles(values, n=10)[0]
    return statistics.median(values)


def is_time(name: str) -> bool:
    return name.endswith("µs")


def quarters(name: str, values: Sequence[float]) -> tuple[float, float]:
    """The levels of the second and of the last quarter."""
    quarter = len(values) // 4
    assert quarter, "too few samples for a trend"
    return level(name, values[quarter : 2 * quarter]), level(name, values[-quarter:])


MANY = 200
"""So many samples are enough for a trend of times, too."""


def growing(series: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """Those of TOLERANCES that grow, with both levels. Of few samples, times are not judged."""
    judged = {name for name, values in series.items() if not is_time(name) or len(values) >= MANY}
    found = {name: quarters(name, series[name]) for name in TOLERANCES if name in judged}
    return {name: both for name, both in found.items() if TOLERANCES[name].exceeded(*both)}
