"""Formats tables, sizes and colours, runs the pager, and escapes bytes unsafe for terminals."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO

from papad.errors import Error

RED, GREEN, DIM, BOLD, PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[2m", "\x1b[1m", "\x1b[0m"

_UNSAFE = "[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\udc80-\udcff]"


def safe(data: bytes) -> str:
    r"""Decode text for a terminal; escape control characters and invalid UTF-8 as `\x1b`."""
    return safe_text(data.decode("utf-8", "surrogateescape"))


def safe_text(text: str) -> str:
    """Escape text like `safe`."""
    return text if text.isprintable() else re.sub(_UNSAFE, _escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def on_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def colourful() -> bool:
    """Return whether to use colour: on a terminal that supports it, unless NO_COLOR is set."""
    return _able_terminal() and not os.environ.get("NO_COLOR")


def _able_terminal() -> bool:
    return on_terminal() and os.environ.get("TERM", "dumb") != "dumb"


def paint(text: str, colour: str) -> str:
    """Return the text in the given colour, if colour is used."""
    return f"{colour}{text}{PLAIN}" if colour and colourful() else text


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table with aligned columns, numbers to the right.

    Columns without content are omitted.
    """
    shown = [n for n in range(len(heads)) if any(row[n] for row in rows)]
    widths = {n: max(len(heads[n]), *(len(row[n]) for row in rows)) for n in shown}
    right = {n for n in shown if all(re.fullmatch(r"-?[\d.]+( ?[kMGT]?B?)|", row[n]) for row in rows)}
    lines = []
    for number, row in enumerate([heads, *rows]):
        cells = [row[n].rjust(widths[n]) if n in right else row[n].ljust(widths[n]) for n in shown]
        line = "  ".join(cells).rstrip()
        lines.append(line if number else paint(line, BOLD))
    return lines


def size(count: int | None) -> str:
    """Format a number of bytes with a unit."""
    if count is None:
        return ""
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 999.5:  # what is more would be rounded to 1000
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.5 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def leave_with_reader() -> None:
    """Exit as soon as the reader of standard output is gone, even with nothing to write."""
    if on_terminal():
        return
    from select import poll
    from threading import Thread

    def wait() -> None:
        output = poll()
        output.register(1, 0)
        output.poll()
        os._exit(0)

    Thread(target=wait, daemon=True).start()


@contextmanager
def output_stream(*, pager: bool, at_end: bool = False) -> Iterator[BinaryIO]:
    """Yield the stream to write to: a pager on a terminal, otherwise standard output."""
    command = _pager() if pager and _able_terminal() else ""
    if not command:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    import signal
    import subprocess

    less = os.environ.get("PAPAD_LESS", "FRSXMK") + (" +G" if at_end else "")
    sys.stdout.flush()
    process = subprocess.Popen(
        command, shell=True, stdin=subprocess.PIPE, env={**os.environ, "LESS": less, "LESSCHARSET": "utf-8"}
    )
    assert process.stdin is not None
    try:
        yield process.stdin  # type: ignore[misc]
        process.stdin.close()
    except BrokenPipeError:
        pass  # the pager was quit before the end
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pager handles it while it runs
        with suppress(BrokenPipeError):
            process.stdin.close()
        status = process.wait()
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if status == 127:
        raise Error(f"cannot find the pager {command!r}; --no-pager prints without one")


def _pager() -> str:
    for name in ("PAPAD_PAGER", "PAGER"):
        if name in os.environ:
            return "" if os.environ[name] in ("", "cat") else os.environ[name]
    from shutil import which

    return "less" if which("less") else ""
