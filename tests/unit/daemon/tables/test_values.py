"""Values: set, cleared, listed, and there again after a kill."""

from __future__ import annotations

import os

import pytest

from papad.daemon.durable.vault import Vault
from papad.daemon.tables.values import Values
from papad.errors import Error
from tests.support.papad import Store


class Home:
    def __init__(self) -> None:
        self.store = Store()
        self._begin()

    def _begin(self) -> None:
        self.vault = Vault(self.store)  # type: ignore[arg-type]
        self.vault.recover()
        self.values = Values(self.vault)

    def leave(self) -> None:
        for each in (*self.vault._segments.values(), self.vault._writer):
            if each is not None:
                each.close()
        for entry in self.vault.entries.values():
            for fd in entry.spilled:
                os.close(fd)

    def restart(self) -> None:
        self.leave()
        self.store = self.store.next()
        self._begin()


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
    home.store.refusing = Error("the store is full")
    with pytest.raises(Error, match="full"):
        home.values.set("a", "1")
    assert home.values.get("a") == ""
