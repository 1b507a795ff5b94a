"""Times and durations as people read them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from papad.ctl.stamps import span, stamp

NOW = 1795460637.25  # 2026-11-23 19:03:57 UTC, a Monday


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("style", "utc", "text"),
    [
        ("short", False, "Nov 23 20:03:57"),
        ("short", True, "Nov 23 19:03:57"),
        ("short-iso", False, "2026-11-23T20:03:57+01:00"),
        ("short-iso", True, "2026-11-23T19:03:57+00:00"),
        ("short-precise", True, "Nov 23 19:03:57.250000"),
        ("short-iso-precise", False, "2026-11-23T20:03:57.250000+01:00"),
        ("short-full", False, "Mon 2026-11-23 20:03:57 CET"),
        ("short-full", True, "Mon 2026-11-23 19:03:57 UTC"),
        ("short-unix", False, "1795460637.250000"),
    ],
)
def test_stamps(style: str, utc: bool, text: str) -> None:
    assert stamp(NOW, style, utc=utc) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3661, "1 h 1 min"),
        (90000, "1 d 1 h"),
        (86400 * 3 + 5, "3 d"),
        (-1, "0 s"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text
