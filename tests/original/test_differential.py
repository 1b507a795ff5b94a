"""The same lines to papa 1.0.6 and to papad: every reply is equal, but for the documented differences."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.original.script import Step, played, read_script
from tests.original.servers import Server, running_original

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))

# Each is a fault of the original. A line of a script marked `!id` must differ, and answer what the script says.
DIFFERENCES = {
    "dgram": "listens on datagram sockets, which fails and leaves the name and the path taken",
    "empty-value": "an empty value ends in an exception",
    "first-only": "replaces only the first reference to a socket in an argument",
    "http": "runs the lines in the body of an HTTP request",
    "ignored": "ignores options that do not apply and words after the options, and makes another socket than asked for",
    "interface": "imports a module that Python 3 does not have",
    "internal": "answers with the text of an exception from inside it, where papad says what is wrong",
    "ipv6": "fails on an IPv6 address unless family=inet6 is given, too",
    "no-meaning": "an option set to 0 counts as set",
    "numbers": "its help promises file numbers and process ids as names, which it does not know",
    "one-pipe-closed": "stops capturing when one of the two pipes closes",
    "output-option": "refuses the option `output`, which its help names",
    "removed-runs": "answers a process that was removed and still runs, although its output is discarded",
    "reuseport": "only the first process gets a socket of a port with reuseport",
    "takes-path": "deletes a regular file and takes over the path of somebody else's live listener",
    "umask-stays": "a failed bind leaves the umask of the server changed",
    "watch-existing": "cannot watch, at its making, a process that exists already",
    "watch-removed": "one who watches a process that somebody removes is never told, and waits for ever",
    "what-differs": "does not say what differs from the process that is there",
}


def agrees(answer: str, expected: list[str]) -> bool:
    """An expectation that ends in … gives only the beginning."""
    text = "\n".join(expected)
    answer = answer.removesuffix("\n> ")
    return answer.startswith(text[:-1]) if text.endswith("…") else answer == text


def complaint(step: Step, theirs: str, ours: str) -> str | None:
    if step.differs is None:
        return None if ours == theirs else f"{step.where} {step.line}\n  papa:  {theirs!r}\n  papad: {ours!r}"
    if ours == theirs:
        return f"{step.where} {step.line}\n  does not differ any more: {ours!r}"
    if not agrees(ours, step.expected):
        return f"{step.where} {step.line}\n  expected: {step.expected}\n  papad:    {ours!r}"
    return None


@pytest.fixture(scope="session")
def their_answers(venv: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], list[str]]:
    """What a fresh papa answers to a script, played once."""

    @functools.cache
    def answers(script: Path) -> list[str]:
        folder = tmp_path_factory.mktemp("papa")
        with running_original(folder / "server") as server:
            return list(played(read_script(script), server, server.port, folder / "work"))

    return answers


@pytest.mark.parametrize("transport", ["tcp", "unix"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_answers_are_equal(
    script: Path, transport: str, their_answers: Callable[[Path], list[str]], papad: Server, tmp_path: Path
) -> None:
    if script.stem == "users" and os.getuid() != 0:
        pytest.skip("only root can start programs of other users")
    steps = read_script(script)
    address = papad.path if transport == "unix" else papad.port
    assert address is not None
    ours = played(steps, papad, address, tmp_path / "work")
    complaints = [complaint(*answers) for answers in zip(steps, their_answers(script), ours, strict=True)]
    assert not any(complaints), "\n".join(filter(None, complaints))


def test_every_documented_difference_is_shown_by_a_script() -> None:
    shown = {step.differs for script in SCRIPTS for step in read_script(script) if step.differs}
    assert shown == set(DIFFERENCES)


def test_there_are_several_hundred_lines() -> None:
    lines = [step.line for script in SCRIPTS for step in read_script(script)]
    assert len([line for line in lines if not line.startswith("@")]) > 500
