"""Which names are meant: patterns that end in `*`, names, and numbers that stand for names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from papad.errors import Error


def number(text: str) -> int:
    """The whole number that a text is, or -1."""
    return int(text) if text.isdecimal() and len(text) < 20 else -1


def select(
    names: Iterable[str], patterns: list[str], *, numbers: Mapping[int, str], required: bool = False
) -> list[str]:
    """The names that any of the patterns matches, sorted; no pattern matches all.

    A pattern ends in `*`, or is a name, or failing that a number in `numbers` (a pid, a file number).
    Raises Error for a name that does not exist, where `required`.
    """
    names = set(names)
    if not patterns:
        return sorted(names)
    found: set[str] = set()
    for pattern in patterns:
        if pattern.endswith("*"):
            found.update(name for name in names if name.startswith(pattern[:-1]))
        elif pattern in names:
            found.add(pattern)
        elif (name := numbers.get(number(pattern))) in names:
            found.add(name)
        elif required:
            raise Error(f"{pattern} not found")
    return sorted(found)
