"""Values: set, cleared, listed, and there again after a kill."""

from __future__ import annotations

import os
from typing import Any

import pytest

from papad.daemon.durable import store as module
from papad.daemon.tables.values import Values
from papad.errors import Error
from tests.support.homes import ValuesHome as Home


@pytest.mark.parametrize("value", ["x", "one  two", "caf\u00e9 \udce9", "x" * (3 << 20)], ids=len)
def test_a_value_of_any_size_is_the_same_after_a_kill(home: Home, value: str) -> None:
    home.values.set("a", value)
    assert home.values.get("a") == value
    home.restart()
    assert home.values.get("a") == value


def test_an_empty_value_clears(home: Home) -> None:
    home.values.set("a", "1")
    home.values.set("a", "")
    home.values.set("never", "")
    assert (home.values.get("a"), len(home.values)) == ("", 0)
    home.restart()
    assert len(home.values) == 0


def test_values_are_listed_and_removed_by_pattern(home: Home) -> None:
    for name in ("b.2", "a", "b.1"):
        home.values.set(name, f"v {name}")
    assert home.values.lines([]) == ["a v a", "b.1 v b.1", "b.2 v b.2"]
    home.values.remove(["b.*", "nothing"])
    home.restart()
    assert home.values.lines(["*"]) == ["a v a"]


@pytest.mark.parametrize("patterns", [[], ["*"]])
def test_nobody_removes_all_by_accident(home: Home, patterns: list[str]) -> None:
    home.values.set("a", "1")
    with pytest.raises(Error, match="You cannot remove all variables"):
        home.values.remove(patterns)
    assert home.values.get("a") == "1"


def test_what_cannot_be_kept_is_not_changed(home: Home) -> None:
    home.values.set("a", "1")

    def full(*_: object) -> int:
        raise OSError(28, "full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        for name, value in (("a", "2"), ("a", ""), ("b", "1")):
            with pytest.raises(OSError, match="full"):
                home.values.set(name, value)
    assert home.values.lines([]) == ["a 1"]
    home.restart()
    assert home.values.lines([]) == ["a 1"]


def test_the_limit_of_what_is_remembered_is_said(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LIVE", 1 << 20)
    home.values.set("a", "x" * 600_000)
    with pytest.raises(Error, match="papad remembers 1 MiB already, which is its limit; remove something"):
        home.values.set("b", "x" * 600_000)
    assert home.values.lines(["b"]) == []
    home.values.set("a", "")
    home.values.set("b", "x" * 600_000)


def test_a_value_that_this_version_cannot_use_is_kept_and_its_name_is_not_given_away(home: Home) -> None:
    home.values.set("b", "1")
    odd: list[dict[str, Any]] = [{"value": ["of", "a later version"]}, {}, {"value": "", "kind": 2}]
    for number, fields in enumerate(odd):
        home.store.write(f"value:odd{number}", fields)
    home.store.write("value:odd2", {"value": None})
    home.restart()
    entries = dict(home.store.entries)
    for number in range(3):
        name = f"odd{number}"
        assert (home.values.get(name), home.values.lines([]), len(home.values)) == ("", ["b 1"], 1)
        for value in ("2", ""):
            with pytest.raises(Error, match=f"^{name} is kept for a papad that can use it; see papad's log$"):
                home.values.set(name, value)
        home.values.remove(["odd*"])
    assert home.store.entries == entries
    home.restart()
    assert home.store.entries == entries
    home.store.write("value:odd0", {"value": "as this version has it"})
    assert Values(home.store).lines([]) == ["b 1", "odd0 as this version has it"]
