"""What an exit code of the protocol means: 0 to 255, the negated number of a signal, or 256 for unknown."""

from __future__ import annotations

UNKNOWN_CODE = 256
"""Reported when the real exit code is unknown; no process can exit with it."""

_CLEAN = (0, -1, -2, -15, -13)  # and SIGHUP, SIGINT, SIGTERM, SIGPIPE, as SuccessExitStatus= of systemd has it


def abnormal(code: int) -> bool:
    """Return whether somebody should look at this end: it was no success, and nobody asked for it by a signal."""
    return code not in _CLEAN


def exit_text(code: int) -> str:
    """Describe how a process has ended."""
    if code == UNKNOWN_CODE:
        return "ended, exit code unknown"
    if code >= 0:
        return f"ended with exit code {code}"
    import signal  # late, for what shows no such end

    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
