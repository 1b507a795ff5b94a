"""What tests say to a real papad about processes, and how they read its answers."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.support.papad import Daemon, Talk
from tests.support.waiting import wait_until

Records = list[tuple[str, str, bytes | int]]
Frame = tuple[str, str, Any, int]  # kind, name, data or number, position


def make(talk: Talk, name: str, options: str, *args: str) -> int:
    """Start a process; its pid."""
    words = [arg.replace(" ", "\\ ") for arg in args]
    line = talk.ask(" ".join(filter(None, (f"make process {name} {options}".strip(), *words))))
    found = re.match(rf"{re.escape(name)} pid=(\d+) running=(True|False) started=\d+\.\d+ ", line)
    assert found, line
    return int(found[1])


def shell(talk: Talk, name: str, script: str, options: str = "") -> int:
    return make(talk, name, f"{options} env.PATH=/bin:/usr/bin".strip(), "/bin/sh", "-c", script)


def watch(talk: Talk, name: str) -> Records:
    """Everything until nothing is left."""
    assert talk.ask_line(f"watch processes {name}").startswith("Watching")
    return talk.watch_to_end()


def text(records: Records, kind: str, name: str | None = None) -> bytes:
    return b"".join(data for each, owner, data in records if each == kind and name in (None, owner))  # type: ignore[misc]


def codes(records: Records) -> dict[str, bytes | int]:
    return {name: code for kind, name, code in records if kind == "closed"}


def frames(talk: Talk, wanted: int | None = None) -> list[Frame]:
    """Frames up to the prompt, or as many as are wanted."""
    found: list[Frame] = []
    while wanted is None or len(found) < wanted:
        start = talk.exactly(2)
        if start in (b"> ", b"\n>"):
            assert wanted is None
            break
        kind, rest = (start + talk.until(b"\n")).decode().rstrip("\n").split(":", 1)
        name, _, number, _, position = rest.rsplit(":", 4)
        data: Any = int(number)
        if kind in ("out", "err"):
            data = talk.exactly(int(number) + 1)[:-1]
        found.append((kind, name, data, int(position)))
    return found


def ended(papad: Daemon, name: str) -> dict[str, Any]:
    """What is known of a process, once it has ended and all is read."""
    facts: dict[str, Any] = {}

    def closed() -> bool:
        facts.update(json.loads(papad.ask(f"describe processes {name}")))
        return bool(facts["closed"])

    wait_until(closed, f"{name} has ended")
    return facts


def read(papad: Daemon, line: str) -> list[Frame]:
    with papad.connect() as talk:
        talk.send(line + "\n")
        return frames(talk)
