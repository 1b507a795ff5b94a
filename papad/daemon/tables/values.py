"""Named values."""

from __future__ import annotations

from collections.abc import Iterator

from papad.daemon.durable.store import Store
from papad.daemon.tables.patterns import select
from papad.errors import Error

_KEY = "value:"


class Values:
    """All values by name. Each change is in the store before the call returns."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._values: dict[str, str] = {
            name: entry["value"] for name, entry in store.of(_KEY) if isinstance(entry.get("value"), str)
        }

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def get(self, name: str) -> str:
        """Return the value, or an empty string."""
        return self._values.get(name, "")

    def set(self, name: str, value: str) -> None:
        """Set a value; an empty one clears it.

        Raises Error or OSError if there is no room, and Error if this papad cannot use what is there.
        """
        if value:
            write = self._store.write if name in self._values else self._store.begin
            write(_KEY + name, {"value": value})
            self._values[name] = value
        elif name in self._values:
            self._store.erase(_KEY + name)
            del self._values[name]
        else:
            self._store.refuse_kept(_KEY + name)

    def lines(self, patterns: list[str]) -> list[str]:
        """Return `NAME VALUE` for each name that matches, sorted."""
        return sorted(f"{name} {self._values[name]}" for name in self.select(patterns))

    def remove(self, patterns: list[str]) -> None:
        """Remove the values that match. Raises Error for no pattern or `*` alone: a mistake."""
        if not patterns or patterns == ["*"]:
            raise Error("You cannot remove all variables")
        for name in self.select(patterns):
            self.set(name, "")

    def select(self, patterns: list[str]) -> list[str]:
        """Return the names that match, sorted."""
        return select(self._values, patterns)
