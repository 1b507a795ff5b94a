"""The benchmarks still run: the fastest of them, with one short turn each. Their figures mean nothing here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.papad import REPOSITORY


def test_the_round_trip_is_measured_and_shown_as_lines_of_json_and_as_a_table(tmp_path: Path) -> None:
    results = tmp_path / "results"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "round_trip"],
        cwd=REPOSITORY,
        env=os.environ | {"ROUNDS": "1", "SECONDS": "0.01", "RESULTS": str(results)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    figures = {(line["measure"], line["who"]): line["values"] for line in lines if "measure" in line}
    expected = {"papad", "papa 1.0.6", *(["C: echo server"] if shutil.which("gcc") else [])}
    for measure in ("round trip, TCP", "round trip, Unix"):
        assert {who for name, who in figures if name == measure} == expected
        row = re.search(rf"^\| {measure}, µs \| (\S+) \| (\S+) \|", done.stdout, re.MULTILINE)
        assert row
        assert all(float(found.replace(",", "")) > 0 for found in row.groups())
    assert all(len(values) == 1 and values[0] > 0 for values in figures.values())


def test_an_unknown_question_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "speed"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("no such question: speed; there are round_trip pipelined ")
