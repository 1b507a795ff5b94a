"""State machines: what their docstrings say, what is reachable, and what the daemon's sources enter."""

from __future__ import annotations

import ast
import enum
import re
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.papad import REPOSITORY


def documented(docstring: str, header: tuple[str, str, str]) -> dict[str, set[str]]:
    """The table of a docstring: name -> the names in capitals in its last column.

    Below the table, "A may also become B" is an exception to it.
    """
    lines = docstring.splitlines()
    (start,) = (number for number, line in enumerate(lines) if line.split() == " ".join(header).split())
    columns = [lines[start].index(name) for name in header]
    table: dict[str, set[str]] = {}
    name = ""
    for line in lines[start + 1 : lines.index("", start)]:
        assert all(line[column - 1 : column] in ("", " ") for column in columns), f"across columns: {line}"
        name = line[: columns[1]].strip() or name
        table.setdefault(name, set()).update(re.findall(r"\b[A-Z_]{2,}\b", line[columns[2] :]))
    for before, after in re.findall(r"\b([A-Z_]+) may also become ([A-Z_]+)\b", docstring):
        table[before].add(after)
    return table


def named(transitions: Mapping[enum.Enum, set[enum.Enum]]) -> dict[str, set[str]]:
    """A table of transitions by the names of its states."""
    return {before.name: {each.name for each in after} for before, after in transitions.items()}


def reachable(transitions: Mapping[enum.Enum, set[enum.Enum]], first: enum.Enum) -> set[enum.Enum]:
    """All that can follow, in any number of steps."""
    found: set[enum.Enum] = set()
    new = {first}
    while new:
        new = {after for before in new for after in transitions[before]} - found
        found |= new
    return found


def entered(kind: type[enum.Enum], attribute: str) -> set[str]:
    """The names of the members of `kind` that the daemon enters, or assigns to the attribute."""
    found: set[str] = set()
    for path in (REPOSITORY / "papad/daemon").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            for value in _entering(node, attribute):
                found |= {
                    each.attr
                    for each in ast.walk(value)
                    if isinstance(each, ast.Attribute)
                    and isinstance(each.value, ast.Name)
                    and each.value.id == kind.__name__
                }
    return found


def check_step(thing: Any, attribute: str, transitions: Mapping[Any, set[Any]], after: Any, refusal: Exception) -> None:
    """Let a thing enter a state: it does, or this is raised, and nothing has changed."""
    if after in transitions[getattr(thing, attribute)]:
        thing.enter(after)
        assert getattr(thing, attribute) is after
    else:
        before = {**vars(thing)}
        with pytest.raises(type(refusal)) as error:
            thing.enter(after)
        assert str(error.value) == str(refusal)
        assert vars(thing) == before


def _entering(node: ast.AST, attribute: str) -> list[ast.expr]:
    """What a node enters: the argument of `.enter(…)`, or the value that the attribute gets; of a choice, both."""
    value: ast.expr | None = None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "enter":
        (value,) = node.args
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(getattr(target, "attr", getattr(target, "id", "")) == attribute for target in targets):
            value = node.value
    if isinstance(value, ast.IfExp):
        return [value.body, value.orelse]
    return [] if value is None else [value]
