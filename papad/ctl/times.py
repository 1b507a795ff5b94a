"""Times as people type them, after systemd.time(7), and as they read them."""

from __future__ import annotations

import calendar
import re
import time

from papad.ctl.parser import Usage

_UNITS = {
    "usec us µs": 1e-6,
    "msec ms": 1e-3,
    "seconds second sec s": 1,
    "minutes minute min m": 60,
    "hours hour hr h": 3600,
    "days day d": 86400,
    "weeks week w": 7 * 86400,
    "months month M": 30.44 * 86400,
    "years year y": 365.25 * 86400,
}
_SECONDS = {name: seconds for names, seconds in _UNITS.items() for name in names.split()}

_SPAN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-zµ]*)\s*")
_MOMENT = re.compile(
    r"(?:(\d{4})-(\d\d?)-(\d\d?))?"  # date
    r"(?:(?:(?<=\d)[ T]|^)(\d\d?):(\d\d)(?::(\d\d(?:\.\d+)?))?)?"  # time
    r"\s*(Z|UTC|[+-]\d\d:?\d\d)?"
)


def parse(text: str, now: float | None = None) -> float:
    """The seconds since 1970 that a text means. Raises Usage."""
    now = time.time() if now is None else now
    text = text.strip()
    days = {"yesterday": -1, "today": 0, "tomorrow": 1}
    if text == "now":
        return now
    if text in days:
        today = time.localtime(now)
        return time.mktime((today.tm_year, today.tm_mon, today.tm_mday + days[text], 0, 0, 0, 0, 0, -1))
    if re.fullmatch(r"@\d+(\.\d+)?", text):
        return float(text[1:])
    if text[:1] in ("-", "+") and len(text) > 1:
        return now + _span(text[1:], text) * (-1 if text[0] == "-" else 1)
    for suffix, sign in ((" ago", -1), (" left", 1)):
        if text.endswith(suffix):
            return now + sign * _span(text.removesuffix(suffix), text)
    return _moment(text, now)


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
    match = _MOMENT.fullmatch(text)
    if match is None or not (match[1] or match[4]):
        raise _wrong(text)
    zone = match[7]
    today = time.gmtime(now) if zone else time.localtime(now)
    year, month, day = (int(match[n]) for n in (1, 2, 3)) if match[1] else today[:3]
    hour, minute, second = int(match[4] or 0), int(match[5] or 0), float(match[6] or 0)
    if not (
        1 <= month <= 12
        and 1 <= day <= calendar.monthrange(year, month)[1]
        and hour < 25
        and minute < 60
        and second < 61
    ):
        raise _wrong(text)
    fields = (year, month, day, hour, minute, 0, 0, 0, -1)
    if not zone:
        return time.mktime(fields) + second
    offset = 0
    if zone[0] in "+-":
        digits = zone[1:].replace(":", "")
        offset = (int(digits[:2]) * 3600 + int(digits[2:]) * 60) * (1 if zone[0] == "+" else -1)
    return calendar.timegm(fields) + second - offset


def _wrong(text: str) -> Usage:
    return Usage(
        f"not a time: {text!r}", "Try: '2026-11-23 17:17:20', 17:17, today, yesterday, -1h, '10 min ago', @SECONDS"
    )


def span(seconds: float) -> str:
    """A duration for people, in two units at most: `3 h 4 min`."""
    whole = max(0, int(seconds))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if whole >= size:
            parts.append(f"{whole // size} {unit}")
            whole %= size
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"


def stamp(timestamp: float, style: str, utc: bool) -> str:
    """A point in time as `-o short`, `short-iso` or `short-precise` show it."""
    fields = time.gmtime(timestamp) if utc else time.localtime(timestamp)
    if style == "short-iso":
        offset = 0 if utc else fields.tm_gmtoff
        hours, minutes = divmod(abs(offset) // 60, 60)
        return time.strftime("%Y-%m-%dT%H:%M:%S", fields) + f"{'-' if offset < 0 else '+'}{hours:02}:{minutes:02}"
    text = f"{_MONTHS[fields.tm_mon - 1]} {fields.tm_mday:02} {fields.tm_hour:02}:{fields.tm_min:02}:{fields.tm_sec:02}"
    if style == "short-precise":
        text += f".{int(timestamp * 1e6) % 1000000:06}"
    return text


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
