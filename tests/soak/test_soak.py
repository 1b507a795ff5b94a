"""The soak itself, SECONDS long; `make soak MINUTES=60` goes on for longer."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest

from papad.client.papa import Papa
from tests.soak.load import Load
from tests.soak.papads import Papad, by_hand, kill, managed
from tests.soak.report import collected, picture, table
from tests.soak.sampling import sample
from tests.soak.trend import growing
from tests.support.papad import no_new_fds

SECONDS = float(os.environ.get("PAPAD_SOAK_SECONDS") or 24)
RESULTS = os.environ.get("PAPAD_SOAK_RESULTS")
FEWEST, MOST = 12, 500  # samples of each papad
BLOWS = 4  # seconds between two, at least


def nursery(path: Path) -> int:
    with Papa(str(path), autostart=False) as papa:
        pid: int = papa.describe("server")[0]["nursery"]
        return pid


@contextlib.contextmanager
def three(folder: Path) -> Iterator[list[Papad]]:
    """The papads, each in a folder of its own."""
    places = [folder / name for name in ("left", "killed", "restarted")]
    for place in places:
        place.mkdir()
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(by_hand(places[0], "left alone", None)),
            stack.enter_context(by_hand(places[1], "killed", kill)),
            stack.enter_context(managed(places[2], partial(nursery, places[2] / "papad.sock"))),
        ]


def sampled(papads: list[Papad], lines: IO[str], faults: Callable[[], list[str]]) -> list[dict[str, Any]]:
    """Take samples for SECONDS, or until there is a fault, and deal a blow after a sample now and then."""
    found: list[dict[str, Any]] = []
    every = max(1.0, SECONDS / MOST)
    blow_after = max(1, round(BLOWS / every))
    with contextlib.ExitStack() as stack:
        papas = [stack.enter_context(papad.client()) for papad in papads]
        began = time.monotonic()
        for number in itertools.count():
            left = began + number * every - time.monotonic()
            if left > 0:
                time.sleep(left)
            seconds = round(time.monotonic() - began, 1)
            if (seconds > SECONDS and number >= FEWEST) or faults():
                break
            for papad, papa in zip(papads, papas, strict=True):
                found.append({"papad": papad.name, "seconds": seconds, **sample(papa, number)})
                papa.set("soak", number)
                lines.write(json.dumps(found[-1], ensure_ascii=False) + "\n")
                lines.flush()
                if papad.blow and number % blow_after == blow_after - 1:
                    papad.blow(papa.describe("server")[0]["pid"])
    return found


def test_nothing_grows_and_nothing_is_lost_while_papads_are_used_killed_and_restarted(tmp_path: Path) -> None:
    results = Path(RESULTS or tmp_path / "soak.jsonl")
    results.parent.mkdir(parents=True, exist_ok=True)
    with no_new_fds(), three(tmp_path) as papads, open(results, "w") as lines:
        loads = [Load(papad, tmp_path) for papad in papads]
        try:
            samples = sampled(papads, lines, lambda: [fault for load in loads for fault in load.faults])
        finally:
            for load in loads:
                load.end()
        assert not (faults := [fault for load in loads for fault in load.faults]), "\n".join(faults[:20])
        starts = {papad.name: starts_of(papad) for papad in papads}
    series = collected(samples)
    results.with_suffix(".svg").write_text(picture(series))
    print("", *table(series), "", *(f"{load.papad.name}: {dict(load.counts)}" for load in loads), sep="\n")
    print(f"daemons started: {starts}")
    assert starts["left alone"] == 1
    assert starts["killed"] > 2
    assert starts["restarted"] > 2
    assert all(load.counts[what] for load in loads for what in ("processes", "numbers", "changes", "clients"))
    grown = {name: found for name, each in series.items() if (found := growing(each))}
    assert not grown, f"from its second to its last quarter, this grows: {grown}"


def starts_of(papad: Papad) -> int:
    """How many daemons there were; nothing is left in the last one, for the load has removed all it made."""
    with papad.client() as papa:
        assert not papa.list_processes()
        assert not papa.list_sockets()
        assert set(papa.list_values()) == {"soak"}
        papa.set("soak")
        starts: int = papa.describe("server")[0]["starts"]
        return starts


@pytest.mark.parametrize(
    ("what", "values", "grows"),
    [
        ("entries", [50] * 100, False),
        ("entries", [*range(100)], True),
        ("daemon Rss, KiB", [39_000 + 80 * number for number in range(100)], True),
        ("daemon Rss, KiB", [*(39_000 + 100 * number for number in range(25)), *([41_500] * 75)], False),
        ("log of the store, KiB", [number * 37 % 1100 for number in range(400)], False),
        ("log of the store, KiB", [number * 37 % 1100 + number * 10 for number in range(400)], True),
        ("daemon descriptors", [33, 34, 32, 60] * 50, False),
        ("daemon descriptors", [33 + number // 10 + number % 3 for number in range(100)], True),
        ("spawn, µs", [4000 + number * 1000 for number in range(100)], False),  # few samples
        ("spawn, µs", [4000 + number * 1000 for number in range(400)], True),
    ],
)
def test_a_series_grows_if_its_last_quarter_is_above_its_second(what: str, values: list[float], grows: bool) -> None:
    assert (what in growing({what: values})) is grows
