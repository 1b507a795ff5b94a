"""Read a file of variables as EnvironmentFile= of systemd does; see systemd.exec(5)."""

from __future__ import annotations

import os
import re
import stat

from papad.errors import Error

_MOST = 1 << 20  # bytes; execve(2) takes 2 MiB of environment and arguments

# In comments and values, a backslash takes the next character as it is, and joins lines. Within "…" it does that before
# some characters only, and within '…' never. A quote counts where a value begins, or right after another.
_SPACE = re.compile(r"[ \t\r\n]*")
_COMMENT = re.compile(r"[#;][^\\\n]*(?:\\.[^\\\n]*)*", re.DOTALL)
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t\r]*")
_QUOTED = re.compile(r"""(?:'(?P<single>[^']*)'|"(?P<double>[^"\\]*(?:\\.[^"\\]*)*)")[ \t\r]*""", re.DOTALL)
_PLAIN = re.compile(r"[^\\\n]*(?:\\.[^\\\n]*)*", re.DOTALL)
_ESCAPE = re.compile(r'\\(["\\`$\n])')
_ANY_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def read(path: str) -> dict[str, str]:
    """Return the variables of the file at `path`; none if there is no file and `path` begins with `-`.

    It may take long. Raises Error, which shows no value.
    """
    optional, path = path.startswith("-"), path.removeprefix("-")
    try:
        # O_NONBLOCK: a FIFO would wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except FileNotFoundError as error:
        if optional:
            return {}
        raise Error(f"Cannot read env_file {path}: {error.strerror}; if it may be missing: env_file=-{path}") from None
    except OSError as error:
        raise Error(f"Cannot read env_file {path}: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Error(f"Cannot read env_file {path}: it is no regular file")
        with open(fd, "rb", closefd=False) as file:
            data = file.read(_MOST + 1)
    except OSError as error:
        raise Error(f"Cannot read env_file {path}: {error.strerror}") from None
    finally:
        os.close(fd)
    if len(data) > _MOST:
        raise Error(f"Cannot read env_file {path}: it has more than {_MOST >> 20} MiB")
    return parse(data.decode("utf-8", "surrogateescape"), path)


def parse(text: str, path: str) -> dict[str, str]:
    """Return the variables in `text`. Raises Error, which names `path` and the line."""
    text = text.removesuffix("\n") + "\n"
    found: dict[str, str] = {}
    at = 0
    while (at := _skip(text, at)) < len(text):
        name = _NAME.match(text, at)
        if name is None:
            raise _wrong(text, at, path, "not NAME=VALUE; a comment begins with #")
        value, end = _value(text, name.end())
        if value is None:
            raise _wrong(text, at, path, f"a quote of {name[1]} has no end")
        if "\0" in value:
            raise _wrong(text, at, path, f"{name[1]} cannot hold the character NUL")
        found[name[1]] = value
        at = end
    return found


def _wrong(text: str, at: int, path: str, reason: str) -> Error:
    number = text.count("\n", 0, at) + 1
    return Error(f"env_file {path}, line {number}: {reason}")


def _skip(text: str, at: int) -> int:
    """Return where the next assignment begins, after spaces, empty lines and comments."""
    while True:
        at = _end(_SPACE, text, at)
        after = _end(_COMMENT, text, at)
        if after == at:
            return at
        at = after


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _value(text: str, at: int) -> tuple[str | None, int]:
    """Return the value that begins at `at`, and where it ends; None if a quote has no end."""
    value = ""
    while quoted := _QUOTED.match(text, at):
        at = quoted.end()
        double = quoted["double"]
        value += quoted["single"] if double is None else _ESCAPE.sub(lambda escape: escape[1].strip("\n"), double)
    if text[at : at + 1] in ("'", '"'):
        return None, at
    end = _end(_PLAIN, text, at)
    plain = text[at:end]
    kept = plain.rstrip(" \t\r")
    if (len(kept) - len(kept.rstrip("\\"))) % 2:  # the first space after it is escaped
        kept += plain[len(kept) : len(kept) + 1]
    return value + _ANY_ESCAPE.sub(lambda escape: escape[1].strip("\n"), kept), end
