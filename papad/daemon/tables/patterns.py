"""Select names by pattern: names, prefixes that end in `*`, and numbers that stand for names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from papad.errors import Error
from papad.protocol.options import number


def select(
    names: Iterable[str], patterns: list[str], *, numbers: Mapping[int, str], required: bool = False
) -> list[str]:
    """Return the names that match any of the patterns, sorted; all names if there are no patterns.

    A pattern ends in `*`, or is a name, or else a number in `numbers` (a pid or a fileno). Raises
    Error for a name that does not exist if `required`.
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
