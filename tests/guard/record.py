"""What was recorded, and how what is counted now is compared with it. `python -m tests.guard.record` records it anew."""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.guard.counting import Calls, instructions, missing, modules, system_calls

RECORDED = Path(__file__).with_name("recorded.json")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
BUILD = f"{platform.python_version()}, {platform.python_compiler()}"
KEYS = {"system calls": PYTHON, "modules": PYTHON, "instructions": BUILD}
"""What is recorded, and for what: asyncio calls what its version does, but instructions are those of one compiler."""

TOLERANCE = 0.03
"""By which part instructions may be more or fewer. System calls and modules must be the same."""

WAITS = ("epoll_wait", "poll", "recvmsg", "nursery: poll", "nursery: read", "nursery: recvmsg")
"""Of several of these, up to twice as many, or half, is the same: there is one for all that has come meanwhile, or one
for each, and a busy machine decides."""
HOW_TO_RECORD = "If this is meant, `make recount` records it, for the commit that changes it."


def recorded(what: str) -> dict[str, Any]:
    """One of KEYS, for each Python that it was recorded for."""
    found: dict[str, Any] = json.loads(RECORDED.read_text())[what]
    return found


def same_calls(name: str, before: int, now: int) -> bool:
    if name in WAITS and before > 1:
        return before / 2 <= now <= before * 2
    return now == before


def different_calls(before: Mapping[str, Calls], now: Mapping[str, Calls]) -> Iterator[str]:
    """A line for each operation whose system calls are not those recorded."""
    for operation in {**before, **now}:
        old, new = before.get(operation, {}), now.get(operation, {})
        changed = [name for name in {**old, **new} if not same_calls(name, old.get(name, 0), new.get(name, 0))]
        if changed:
            each = ", ".join(f"{name} {old.get(name, 0)} → {new.get(name, 0)}" for name in changed)
            yield f"{operation}: {sum(old.values())} → {sum(new.values())} system calls: {each}"


def different_instructions(before: Mapping[str, int], now: Mapping[str, int]) -> Iterator[str]:
    """A line for each operation whose instructions are not about those recorded."""
    for operation in {**before, **now}:
        old, new = before.get(operation, 0), now.get(operation, 0)
        if abs(new - old) > TOLERANCE * old:
            change = f"{100 * (new - old) / old:+.1f} %" if old else "new"
            yield f"{operation}: {old:,} → {new:,} instructions ({change})"


def different_modules(before: Mapping[str, list[str]], now: Mapping[str, list[str]]) -> Iterator[str]:
    """A line for each command that does not import the modules recorded."""
    for command in {**before, **now}:
        old, new = set(before.get(command, ())), set(now.get(command, ()))
        if old != new:
            each = [*(f"+{name}" for name in sorted(new - old)), *(f"-{name}" for name in sorted(old - new))]
            yield f"{command}: {len(old)} → {len(new)} modules: {' '.join(each)}"


def main() -> None:
    """Record all anew for this Python, and say what has changed."""
    if why := missing():
        sys.exit(f"nothing is recorded: {why}")
    everything = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    with tempfile.TemporaryDirectory(prefix="papad-guard-") as folder:
        for what, count, compare in MEASURES:
            print(f"{what} …", file=sys.stderr)
            of_all = everything.setdefault(what, {})
            now = count(Path(folder, what))
            print(*(f"{line}\n" for line in compare(of_all.get(KEYS[what], {}), now)), sep="", end="")
            of_all[KEYS[what]] = now
    RECORDED.write_text(json.dumps(everything, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


MEASURES: list[tuple[str, Callable[[Path], Any], Callable[[Any, Any], Iterator[str]]]] = [
    ("system calls", system_calls, different_calls),
    ("modules", modules, different_modules),
    ("instructions", instructions, different_instructions),
]

if __name__ == "__main__":
    main()
