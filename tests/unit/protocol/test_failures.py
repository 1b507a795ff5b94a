"""The kind of each error, by papad's message: each message that the daemon has in its source, and those that only look alike."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import papad.daemon
from papad import errors
from papad.errors import (
    AlreadyExists,
    BadRequest,
    BindFailed,
    Error,
    NoRoom,
    NotFound,
    NotPermitted,
    StartFailed,
    Unavailable,
)
from papad.protocol.failures import _KINDS, failure

FOLDER = Path(papad.daemon.__file__).parent
NOT_SENT = ("main.py", "peers.py", "server.py")  # in the log, or in place of the welcome, where it is Refused
HANDED_ON = {"str(error)", "why", "report['error']", "self.needs_name"}
"""What is no message of that place; needs_name is in the table of commands."""
INTERNAL = {"internal error"}
STEPS = {"Bad command", "Bad rlimit", "Bad uid or gid", "Bad working_dir"}
"""Where a child failed before its exec; the reason follows."""


def messages() -> Iterator[str]:
    """All messages that papad may answer an error with, with a 7 for each part that varies."""
    for path in FOLDER.rglob("*.py"):
        if path.name not in NOT_SENT or path.parent.name == "nursery":
            for node in ast.walk(ast.parse(path.read_text())):
                yield from _told(node)
    yield "In a line that begins with %, every other % must be followed by two hexadecimal digits"  # wire.py


def _told(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Error", "wire.error") and node.args:
        if ast.unparse(node.args[0]) not in HANDED_ON:
            yield _sample(node.args[0])
    elif isinstance(node, ast.keyword) and node.arg == "needs_name":
        yield _sample(node.value)
    elif isinstance(node, ast.Dict):  # a report of the nursery
        for key, value in zip(node.keys, node.values, strict=True):
            if (
                isinstance(key, ast.Constant)
                and key.value == "error"
                and isinstance(value, ast.Constant | ast.JoinedStr)
            ):
                yield _sample(value)
    elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "step":
        yield f"{_sample(node.value)} - [Errno 2] No such file or directory: 'x'"


def _sample(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join("7" if isinstance(each, ast.FormattedValue) else _sample(each) for each in node.values)
    if isinstance(node, ast.BinOp):
        return _sample(node.left) + _sample(node.right)
    if isinstance(node, ast.IfExp):
        return _sample(node.body)
    assert isinstance(node, ast.Call), f"a message that nobody can read here: {ast.unparse(node)}"
    assert isinstance(node.func, ast.Attribute)
    return _sample(node.func.value)  # TEXT.replace(…)


MESSAGES = sorted(set(messages()))


def test_the_messages_are_found() -> None:
    assert len(MESSAGES) > 55
    assert {text.partition(" - ")[0] for text in MESSAGES} >= STEPS


@pytest.mark.parametrize("text", MESSAGES)
def test_each_message_of_the_daemon_is_of_a_kind(text: str) -> None:
    """One that was reworded, or is new, belongs into the table."""
    assert (type(failure(text.replace("\n", " "))) is Error) == (text in INTERNAL), text
    assert str(failure(text)) == text


@pytest.mark.parametrize("pattern", [pattern for _, pattern in _KINDS])
def test_each_pattern_is_of_a_message(pattern: str) -> None:
    decided = {next((each for _, each in _KINDS if re.match(each, text, re.DOTALL)), "") for text in MESSAGES}
    assert pattern in decided


LOOK_ALIKE = {
    "Process for x not found has already been created - x not found pid=7": AlreadyExists,
    "Socket for /run/x has already been created": AlreadyExists,
    "Socket web not found": NotFound,
    "No command not found": NotFound,
    "Bind failed not found": NotFound,
    "x must be y, not not found": NotFound,
    "two\nlines not found": NotFound,
    'Unknown command "x not found"': BadRequest,
    "7 cannot hold the character NUL": BadRequest,
    'bufsize must be a number of bytes, with k, m or g after it if you like, not "many"': BadRequest,
    "Cannot start a process, and no descriptor is left to learn why": StartFailed,
    "Cannot resolve host x as an address of this family": BindFailed,
    "papad lacks a resource: Too many open files; nothing was changed": NoRoom,
    "the directory of users, groups or hosts does not answer; try again later, or use numbers": Unavailable,
    'You may only look; "remove processes" is for root and members of the group x not found': NotPermitted,
    "Cannot make 33:33 the owner of /run/x: Operation not permitted": BindFailed,
    "something of a papad to come": Error,
}


@pytest.mark.parametrize("text", LOOK_ALIKE)
def test_a_name_in_a_message_does_not_decide(text: str) -> None:
    assert type(failure(text)) is LOOK_ALIKE[text]


def test_each_kind_has_a_pattern() -> None:
    """But for what the client notices by itself."""
    own = {Error, errors.ConnectionLost, errors.TimedOut, errors.Unreachable, errors.Refused}
    assert {kind for kind, _ in _KINDS} == {each for each in vars(errors).values() if isinstance(each, type)} - own
