"""Ask all questions, or those that are named: each in a process of its own.

The table goes to standard output, the lines of JSON to the file RESULTS= (build/benchmarks.jsonl).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

from benchmarks.figures import machine, table
from tests.original.servers import REPOSITORY

QUESTIONS = (
    "round_trip",
    "pipelined",
    "connect",
    "spawn",
    "latency",
    "capture",
    "watched",
    "kill",
    "memory",
    "papactl",
    "listing",
    "systemd",
)
RESULTS = Path(os.environ.get("RESULTS") or REPOSITORY / "build/benchmarks.jsonl")


def ask(name: str, results: IO[str]) -> bool:
    """Have one question's program write its lines; return whether it got to its end."""
    print(f"{name} …", file=sys.stderr)
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    return not subprocess.run(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=results).returncode


def main() -> None:
    names = sys.argv[1:] or QUESTIONS
    if unknown := set(names).difference(QUESTIONS):
        sys.exit(f"no such question: {' '.join(sorted(unknown))}; there are {' '.join(QUESTIONS)}")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    print(machine(), end="\n\n")
    with open(RESULTS, "w") as results:
        failed = [name for name in names if not ask(name, results)]
    print(*table(map(json.loads, RESULTS.read_text().splitlines())), sep="\n")
    if failed:
        sys.exit(f"failed: {' '.join(failed)}")


if __name__ == "__main__":
    main()
