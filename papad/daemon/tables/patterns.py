"""Select names by pattern: names, prefixes that end in `*`, and numbers that stand for names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from papad.errors import Error
from papad.protocol.options import number


def select(
    names: Collection[str],
    patterns: list[str],
    *,
    numbers: Callable[[], Mapping[int, str]] = dict,
    visible: Callable[[str], bool] = bool,
    required: bool = False,
) -> list[str]:
    """Return the visible names that match any of the patterns, sorted; all if there are no patterns.

    A pattern ends in `*`, or is a name, or else a number of those that `numbers` returns (a pid or
    a fileno); that is called only then, so a name costs the same among few and many. Raises Error
    for a name that does not exist if `required`.
    """
    found: dict[str, None] = {}  # in the order of `names`: what was made in order is sorted in no time
    known: Mapping[int, str] | None = None
    for pattern in patterns or ["*"]:
        if pattern.endswith("*"):
            matching = (name for name in names if name.startswith(pattern[:-1])) if pattern != "*" else names
            found.update(dict.fromkeys(filter(visible, matching)))
            continue
        name = pattern
        if pattern not in names or not visible(pattern):
            known = numbers() if known is None else known
            name = known.get(number(pattern), "")
        if name in names and visible(name):
            found[name] = None
        elif required:
            raise Error(f"{pattern} not found")
    return sorted(found)
