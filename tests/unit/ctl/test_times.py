"""Times as people type and read them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from papad.ctl.parser import Usage
from papad.ctl.stamps import stamp
from papad.ctl.times import parse

NOW = 1795460637.25  # 2026-11-23 19:03:57 UTC, a Monday


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("now", NOW),
        ("@1795460637.5", 1795460637.5),
        ("-1h", NOW - 3600),
        ("-1h30min", NOW - 5400),
        ("-1h 30min 5s", NOW - 5405),
        ("-90", NOW - 90),
        ("+2d", NOW + 172800),
        ("10 min ago", NOW - 600),
        ("2 weeks ago", NOW - 14 * 86400),
        ("1.5h ago", NOW - 5400),
        ("250ms ago", NOW - 0.25),
        ("today", 1795388400),
        ("yesterday", 1795302000),
        ("tomorrow", 1795474800),
        ("2026-11-23 20:03:57", 1795460637),
        ("2026-11-23T20:03:57.25", NOW),
        ("2026-11-23 20:03", 1795460580),
        ("2026-11-23", 1795388400),
        ("20:03", 1795460580),
        ("20:03:57", 1795460637),
        ("2026-11-23 19:03:57 UTC", 1795460637),
        ("2026-11-23T19:03:57Z", 1795460637),
        ("2026-11-23T14:03:57-05:00", 1795460637),
        ("2026-07-01 12:00", 1782900000),
        ("Mon 2026-11-23", 1795388400),
        ("monday  26-11-23  20:3", 1795460580),
        ("Mon 20:03", 1795460580),
        ("today UTC", 1795392000),
        ("2026-11-23 20:03:57 CET", 1795460637),
        ("2026-07-01 12:00 CEST", 1782900000),
        ("2026-07-01 12:00 CET", 1782903600),
        ("2026-10-25 02:30", 1792891800),
        ("2026-10-25 02:30 CEST", 1792888200),
        ("2026-03-29 12:00 America/New_York", 1774800000),
        ("@1.5h", 5400),
        ("-1month", NOW - 2629800),
        ("23:59:61", 1795474801),
    ],
)
def test_times_are_understood(text: str, seconds: float) -> None:
    assert parse(text, NOW) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "-",
        "-1x",
        "2026-02-30",
        "2026-13-01",
        "25:61",
        "12",
        "1 h",
        "ago",
        " ago",
        "@",
        "-1h-",
        "2026-11-23 20",
        "2026-11-23T",
        "Sun 2026-11-23",
        "Mon",
        "24:00",
        "1969-12-31",
        "10000-01-01",
        "2026-11-23 12:00 Nowhere/City",
        "2026-11-23 12:00 ../etc",
        "٣:٣٣",  # digits, but not those of ASCII
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(Usage, match="invalid time") as caught:
        parse(text, NOW)
    assert "yesterday" in caught.value.hint


def test_what_is_shown_is_understood() -> None:
    for style in ("short-iso", "short-full"):
        assert parse(stamp(NOW, style, utc=False)) == parse(stamp(NOW, style, utc=True)) == int(NOW)
    assert parse(stamp(NOW, "short-iso-precise", utc=False)) == parse("@" + stamp(NOW, "short-unix", utc=False)) == NOW


@pytest.mark.parametrize("before", ["2026-07-01 12:00", "2026-12-01 12:00", "2026-10-25 02:30 CEST"])
def test_a_time_that_occurs_twice_does_not_depend_on_what_was_asked_before(before: str) -> None:
    parse(before, NOW)
    assert parse("2026-10-25 02:30", NOW) == 1792891800
