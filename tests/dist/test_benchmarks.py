"""The benchmarks still run, those with peers of their own among them, with one short turn each. Figures mean nothing here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.papad import REPOSITORY
from tests.system.machine import why_not

BRIEFLY = {"ROUNDS": "1", "SECONDS": "0.01"}
MANAGERS = {"supervisor 4.3.0", "circus 0.19.0", "pm2 7.0.4"}


def printed(program: str, **variables: str) -> list[dict[str, Any]]:
    """The lines of one program."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{program}"],
        cwd=REPOSITORY,
        env=os.environ | BRIEFLY | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def values_of(lines: list[dict[str, Any]], measure: str) -> dict[str, list[float]]:
    """By contender what it has reached."""
    return {line["who"]: line["values"] for line in lines if line.get("measure") == measure}


def test_the_round_trip_is_measured_and_shown_as_lines_of_json_and_as_a_table(tmp_path: Path) -> None:
    results = tmp_path / "results"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "round_trip"],
        cwd=REPOSITORY,
        env=os.environ | BRIEFLY | {"RESULTS": str(results)},
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


@pytest.mark.parametrize(
    ("question", "measure"),
    [
        ("spawn", "processes started"),
        ("capture", "captured, lines of 100 bytes"),
        ("memory", "daemon, Rss, 10 processes"),
    ],
)
def test_supervisor_circus_and_pm2_take_their_turns_beside_papad(question: str, measure: str) -> None:
    lines = printed(question)
    expected = MANAGERS - {line["left out"] for line in lines if "left out" in line}
    if not expected:
        pytest.skip("none of them can be installed here")
    reached = values_of(lines, measure)
    assert {"papad", "papa 1.0.6", *expected} <= set(reached)
    assert all(len(values) == 1 and values[0] > 0 for values in reached.values())


def test_systemd_and_its_journal_take_their_turns_on_a_booted_debian() -> None:
    if reason := why_not():
        pytest.skip(reason)
    lines = printed("systemd")
    if left_out := [line["why"] for line in lines if "left out" in line]:
        pytest.skip(left_out[0])
    peers = {
        "processes started": "systemd ",
        "a process started by a command": "systemd-run",
        "captured, lines of 100 bytes": "journald",
        "all parts, Rss and files in memory, 10 processes": "systemd ",
    }
    for measure, peer in peers.items():
        reached = values_of(lines, f"{measure}, in the container")
        ours, theirs = reached
        assert ours == "papad"
        assert theirs.startswith(peer)
        assert all(len(values) == 1 and values[0] > 0 for values in reached.values())


def test_costs_are_measured_as_they_grow_and_drawn(tmp_path: Path) -> None:
    lines = printed("growth")
    grown = {(line["along"], line["measure"], line["who"]) for line in lines if "measure" in line}
    for along, measure in (
        ("processes", "start a process"),
        ("processes", "exit of a process"),
        ("processes", "list one by name"),
        ("connections", "round trip, Unix"),
        ("bytes", "captured"),
    ):
        assert {(along, measure, "papad"), (along, measure, "papa 1.0.6")} <= grown
    assert ("processes", "from SIGKILL to the first answer", "papad") in grown
    pytest.importorskip("matplotlib", reason="plots are drawn where there is matplotlib: make plots")
    (tmp_path / "growth.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = []
    for _ in range(2):
        subprocess.run([sys.executable, "-m", "benchmarks.plots", tmp_path], cwd=REPOSITORY, check=True, timeout=60)
        drawn.append({path.name: path.read_text() for path in tmp_path.glob("*.svg")})
    assert drawn[0] == drawn[1], "the same figures give the same bytes"
    for name in ("processes.svg", "memory.svg", "connections-and-lines.svg"):
        assert ">papad<" in drawn[0][name].replace(", daemon", "")


def test_an_unknown_question_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "speed"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("no such question: speed; there are round_trip pipelined ")
