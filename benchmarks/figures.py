"""Figures: contenders take turns, and what each of them has reached is printed as a line of JSON."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

PAPAD, ORIGINAL = "papad", "papa 1.0.6"

ROUNDS = int(os.environ.get("ROUNDS") or 3)
SECONDS = float(os.environ.get("SECONDS") or 0.3)
"""How long one turn is, where that can be chosen."""

Sample = Mapping[tuple[str, str], float]
"""What one turn has given: the value of each (measure, unit)."""


def machine() -> str:
    """What it was measured on."""
    model = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    processors = f"{len(os.sched_getaffinity(0))} processors ({model[1] if model else platform.machine()})"
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    rounds = f"{ROUNDS} rounds of {SECONDS:g} s"
    return f"{processors}, Linux {platform.release()}, Python {platform.python_version()}; load {load}; {rounds}"


def take_turns(contenders: Mapping[str, Callable[[], Sample]], *, warm: bool = False, **more: object) -> None:
    """Have each contender take a turn, ROUNDS times, and print what came out, with `more` in each line.

    `warm`: after a turn that does not count.
    """
    found: dict[tuple[str, str, str], list[float]] = {}
    names = list(contenders)
    for count in range(-warm, ROUNDS):
        # Another one begins each time, so that nobody always comes after the same neighbour.
        for name in (*names[count % len(names) :], *names[: count % len(names)]):
            for (measure, unit), value in contenders[name]().items():
                if count >= 0:
                    found.setdefault((measure, unit, name), []).append(value)
    for (measure, unit, who), values in found.items():
        line = {"measure": measure, "unit": unit, "who": who, "values": values, **more}
        print(json.dumps(line, ensure_ascii=False), flush=True)


def leave_out(who: str, why: str) -> None:
    """Say that a contender does not take part."""
    print(json.dumps({"left out": who, "why": why}), flush=True)


def repeated(act: Callable[[], object], *, at_once: int = 1) -> tuple[int, float]:
    """Do it again and again for SECONDS; how often it was done, and the seconds that took. The clock is read every `at_once` times."""
    count, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < SECONDS or not count:
        for _ in range(at_once):
            act()
        count += at_once
    return count, taken


def table(lines: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Figures as a table in Markdown: the median, and in brackets the least and the most of all rounds."""
    rows: dict[tuple[str, str], dict[str, list[float]]] = {}
    left_out = []
    for line in lines:
        if "measure" in line:
            rows.setdefault((line["measure"], line["unit"]), {})[line["who"]] = line["values"]
        else:
            left_out.append(f"Left out: {line['left out']} ({line['why']}).")
    yield f"| measure | {PAPAD} | {ORIGINAL} | {PAPAD} : {ORIGINAL} | others |"
    yield "|---|---|---|---|---|"
    for (measure, unit), by_name in rows.items():
        ours, theirs = by_name.pop(PAPAD, []), by_name.pop(ORIGINAL, [])
        others = "; ".join(f"{name} {shown(values)}" for name, values in by_name.items())
        yield f"| {measure}, {unit} | {shown(ours)} | {shown(theirs)} | {ratio(ours, theirs)} | {others} |"
    yield from ("", *dict.fromkeys(left_out)) if left_out else ()


def shown(values: list[float]) -> str:
    """The median and the spread."""
    if not values:
        return "-"
    middle, least, most = (number(value) for value in (statistics.median(values), min(values), max(values)))
    return middle if least == most else f"{middle} ({least} to {most})"


def number(value: float) -> str:
    """With three digits that count, and thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(ours: list[float], theirs: list[float]) -> str:
    """That of the medians."""
    if not ours or not theirs or not (base := statistics.median(theirs)):
        return "-"
    return f"{number(statistics.median(ours) / base)}"
