"""The options of `make process`. To add one, see docs/architecture.md."""

from __future__ import annotations

from papad.daemon.commands.grammar import Option
from papad.daemon.tables.launch import parse_names, parse_size
from papad.protocol.options import flag, number, whole


def _standard_error(text: str) -> int | str:
    if text not in ("0", "1", "stdout"):
        raise ValueError("0, 1 or stdout")
    return text if text == "stdout" else int(text)


def _octal(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and not set(text) & {"8", "9"}):
        raise ValueError("an octal number from 0 to 777")
    if int(text, 8) > 0o777:
        raise ValueError("an octal number from 0 to 777")
    return int(text, 8)


def _niceness(text: str) -> int:
    size = number(text.removeprefix("-"))
    value = -size if text.startswith("-") else size
    if size < 0 or not -20 <= value <= 19:
        raise ValueError("a number from -20 to 19")
    return value


PROCESS_OPTIONS = (
    Option("uid", str, "the user, by number or name (default: papad's own)"),
    Option("gid", str, "the group, by number or name (default: that of uid)"),
    Option("working_dir", str, "the directory it starts in, an absolute path (default: /)"),
    Option("env_file", str, "an absolute path: add the variables of this file; with - before it, it may be missing"),
    Option("login_env", flag, "1 sets HOME, USER, LOGNAME and SHELL for the user, below env_file and env."),
    Option("shell", flag, "1 hands the command to /bin/sh -c"),
    Option("umask", _octal, "its umask, in octal (default: 022)"),
    Option("nice", _niceness, "its niceness, from -20 to 19 (default: papad's own)"),
    Option("stdin", str, "an absolute path: its standard input, opened as its user (default: /dev/null)"),
    Option("stdout", whole(0, 1), "0 discards it, 1 captures it (default)"),
    Option("stderr", _standard_error, "0 discards it, 1 captures it (default), stdout joins it to stdout"),
    Option(
        "bufsize", parse_size, "how much output is kept, in bytes or with k, m, g (default: 1m; 0 captures nothing)"
    ),
    Option("output", parse_size, "another name for bufsize"),
    Option("journal", flag, "1 also forwards each line to the journal, with PAPAD_NAME=, stderr with priority err"),
    Option(
        "listen",
        parse_names,
        "NAME[,NAME...]: pass these sockets as systemd does, from descriptor 3 on, with LISTEN_FDS",
    ),
    Option("again", flag, "1 starts it anew if the process of that name has ended, in whose place it comes"),
    Option("watch", flag, "1 begins to watch the process at once"),
)

PROCESS_PREFIXES = {
    "env.NAME": "a variable of its environment",
    "rlimit.NAME": "a resource limit: a number, with k, m or g for sizes, or infinity; SOFT:HARD for two; see setrlimit(2)",
}
