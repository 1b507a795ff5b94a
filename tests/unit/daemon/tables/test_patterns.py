"""Names are matched by patterns."""

from __future__ import annotations

from typing import Any

import pytest

from papad.daemon.tables.patterns import select
from papad.errors import Error

NAMES = ["web.1", "web.2", "db", "7", "a*b"]


NUMBERS = {7: "db", 9: "web.1", 11: "gone"}


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ([], ["7", "a*b", "db", "web.1", "web.2"]),
        (["*"], ["7", "a*b", "db", "web.1", "web.2"]),
        (["web.*"], ["web.1", "web.2"]),
        (["db", "web.2", "db"], ["db", "web.2"]),
        (["7"], ["7"]),  # an exact name wins over a number
        (["9"], ["web.1"]),
        (["nothing", "8", "11"], []),
        (["a*b"], ["a*b"]),
    ],
)
def test_patterns_select_names(patterns: list[str], found: list[str]) -> None:
    assert select(NAMES, patterns, numbers=lambda: NUMBERS) == found


@pytest.mark.parametrize("pattern", ["nothing", "8", "11", "9" * 5000, "\u0663", "-1", ""])
def test_a_name_that_is_required_and_missing_is_named(pattern: str) -> None:
    with pytest.raises(Error) as error:
        select(NAMES, [pattern], numbers=lambda: NUMBERS, required=True)
    assert str(error.value) == f"{pattern} not found"


def test_a_wildcard_that_matches_nothing_is_no_error() -> None:
    assert select(NAMES, ["x*"], required=True) == []


def test_what_is_not_visible_does_not_exist() -> None:
    def visible(name: str) -> bool:
        return name != "db"

    assert select(NAMES, ["*"], visible=visible) == ["7", "a*b", "web.1", "web.2"]
    for pattern in ("db", "7"):
        assert select(["db"], [pattern], numbers=lambda: NUMBERS, visible=visible) == []
        with pytest.raises(Error):
            select(["db"], [pattern], numbers=lambda: NUMBERS, visible=visible, required=True)


def test_one_name_among_many_costs_a_look_up() -> None:
    def too_expensive(name: object = None) -> Any:
        raise AssertionError

    class Names(dict[str, int]):
        __iter__ = too_expensive

    assert select(Names(a=1, b=2), ["b", "a"], numbers=too_expensive) == ["a", "b"]
