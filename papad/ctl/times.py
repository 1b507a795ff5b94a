"""Parses times and durations as in systemd.time(7); stamps.py formats them."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from papad.ctl.parser import Usage

_UNITS = {
    "usec us µs μs": 1e-6,
    "msec ms": 1e-3,
    "seconds second sec s": 1,
    "minutes minute min m": 60,
    "hours hour hr h": 3600,
    "days day d": 86400,
    "weeks week w": 7 * 86400,
    "months month M": 2629800,
    "years year y": 31557600,
}
_SECONDS = {name: seconds for names, seconds in _UNITS.items() for name in names.split()}
_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

_SPAN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-zµμ]*)\s*", re.ASCII)
_ZONE = re.compile(r"(.*?)(?: *(Z|[+-]\d\d:?\d\d)| +([A-Za-z][\w/+-]*))", re.ASCII)
_MOMENT = re.compile(
    r"(?:(?P<weekday>[A-Za-z]+)(?: +|$))?"
    r"(?:(?P<year>\d{4}|\d\d)-(?P<month>\d\d?)-(?P<day>\d\d?)(?: +|T(?=\d)|$))?"
    r"(?:(?P<hour>\d\d?):(?P<minute>\d\d?)(?::(?P<second>\d\d?(?:\.\d+)?))?)?",
    re.ASCII,
)


def parse(text: str, now: float | None = None) -> float:
    """Parse a time into seconds since 1970, with microsecond precision. Raises Usage."""
    now = time.time() if now is None else now
    text = text.strip()
    if text == "now":
        return now
    if text.startswith("@"):
        return _span(text[1:], text)
    if text.startswith(("-", "+")):
        return now + _span(text[1:], text) * (-1 if text[0] == "-" else 1)
    for suffix, sign in ((" ago", -1), (" left", 1)):
        if text.endswith(suffix):
            return now + sign * _span(text.removesuffix(suffix), text)
    try:
        seconds = _moment(text, now)
    except (ValueError, OverflowError):
        raise _wrong(text) from None
    if seconds < 0:
        raise _wrong(text)
    return round(seconds, 6)


def duration(text: str) -> float:
    """Parse a duration such as `90`, `1h 30min` or `2 weeks` into seconds. Raises Usage."""
    try:
        return _span(text, text)
    except Usage:
        raise Usage(f"invalid duration: {text!r}", "Try: 90, 30s, 15min, 12h, 1d, '1h 30min'") from None


def _span(text: str, whole: str) -> float:
    total, position = 0.0, 0
    while position < len(text):
        match = _SPAN.match(text, position)
        unit = match[2] or "s" if match else ""
        if match is None or unit not in _SECONDS:
            raise _wrong(whole)
        total += float(match[1]) * _SECONDS[unit]
        position = match.end()
    if not position:
        raise _wrong(whole)
    return total


def _moment(text: str, now: float) -> float:
    """Parse a day, a time of day, or both, with an optional zone.

    Raises ValueError, OverflowError.
    """
    zoned = _ZONE.fullmatch(text)
    body, offset, name = zoned.groups() if zoned else (text, None, None)
    zone = _zone(offset, name)
    date = datetime.fromtimestamp(now, zone).replace(hour=0, minute=0, second=0, microsecond=0)
    hour, minute, second = 0, 0, 0.0
    if body in _DAYS:
        date += timedelta(days=_DAYS[body])
    else:
        match = _MOMENT.fullmatch(body)
        if match is None or not (match["day"] or match["hour"]):
            raise ValueError
        if match["day"]:
            year = int(match["year"])
            year += 0 if year > 99 else 1900 if year >= 69 else 2000
            date = date.replace(year=year, month=int(match["month"]), day=int(match["day"]))
        weekday = _WEEKDAYS[date.weekday()]
        if (match["weekday"] or weekday).lower() not in (weekday, weekday[:3]):
            raise ValueError
        hour, minute, second = int(match["hour"] or 0), int(match["minute"] or 0), float(match["second"] or 0)
        if hour > 23 or minute > 59 or second >= 62:
            raise ValueError
    if zone:
        return date.replace(hour=hour, minute=minute).timestamp() + second
    # Use the C library instead of datetime: a local time that occurs twice at the end of summer
    # time is then resolved as in systemd.
    local = date.year, date.month, date.day, hour, minute
    standard = time.mktime((*local, 0, 0, 0, 0))
    if not name and time.localtime(standard)[:5] == local:
        return standard + second  # mktime(3) itself takes one or the other, by what it was asked before
    summer = time.tzname.index(name) if name else -1
    return time.mktime((*local, 0, 0, 0, summer)) + second


def _zone(offset: str | None, name: str | None) -> tzinfo | None:
    """Return the zone for an offset or a name, None for the local one. Raises ValueError."""
    if offset == "Z" or name == "UTC":
        return UTC
    if offset:
        return timezone(timedelta(hours=int(offset[:3]), minutes=int(offset[0] + offset[-2:])))
    if name is None or name in time.tzname:
        return None
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, OSError):
        raise ValueError from None


def _wrong(text: str) -> Usage:
    return Usage(
        f"invalid time: {text!r}", "Try: '2026-11-23 17:17:20', 17:17, today, yesterday, -1h, '10 min ago', @SECONDS"
    )
