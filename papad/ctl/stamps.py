"""Formats times and durations."""

from __future__ import annotations

import time


def span(seconds: float) -> str:
    """Format a duration with at most two units: `3 h 4 min`."""
    whole = max(0, int(seconds))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if whole >= size:
            parts.append(f"{whole // size} {unit}")
            whole %= size
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"


_STAMPS = {
    "short": "%b %d %H:%M:%S",
    "short-precise": "%b %d %H:%M:%S",
    "short-iso": "%Y-%m-%dT%H:%M:%S",
    "short-iso-precise": "%Y-%m-%dT%H:%M:%S",
    "short-full": "%a %Y-%m-%d %H:%M:%S",
}


def stamp(timestamp: float, style: str, *, utc: bool) -> str:
    """Format a time for `-o short` and its variants."""
    seconds, microseconds = divmod(round(timestamp * 1e6), 1_000_000)
    if style == "short-unix":
        return f"{seconds}.{microseconds:06}"
    fields = time.gmtime(seconds) if utc else time.localtime(seconds)
    text = time.strftime(_STAMPS[style], fields)
    if style.endswith("precise"):
        text += f".{microseconds:06}"
    if style == "short-full":
        text += " UTC" if utc else f" {fields.tm_zone}"
    if style.startswith("short-iso"):
        hours, minutes = divmod(abs(fields.tm_gmtoff) // 60, 60)
        text += f"{'-' if fields.tm_gmtoff < 0 else '+'}{hours:02}:{minutes:02}"
    return text
