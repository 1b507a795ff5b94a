"""The options of a socket, each declared once, and how the values of options are parsed.

To add an option, add it to SOCKET_OPTIONS. The command table, papactl with its help, completion and
man page, and docs/protocol.md follow from that, and the clients pass on any option. An option with
a `sockopt` is set by setsockopt(2), kept, listed and described without a further line. Any other
also needs the code in papad/daemon/tables/sockets.py that gives it its effect; one for Unix sockets
also needs a place in the client's pattern of a socket's line, because a path may hold any text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

FAMILIES = ("inet", "inet6", "unix")
TYPES = ("stream", "dgram", "seqpacket", "raw", "rdm")
_NO_ID = 2**32 - 1  # -1 of chown(2), which no user or group has


def number(text: str) -> int:
    """Return the whole number in `text`, or -1 if it is not one."""
    return int(text) if text.isdecimal() and len(text) < 20 else -1


def whole(lowest: int, highest: int) -> Callable[[str], int]:
    """Return a parser of whole numbers in this range."""

    def parse(text: str) -> int:
        if not lowest <= number(text) <= highest:
            raise ValueError(f"a number from {lowest} to {highest}")
        return number(text)

    return parse


def one_of(choices: Iterable[str]) -> Callable[[str], str]:
    """Return a parser of words that must be one of these."""
    known = sorted(choices)

    def parse(text: str) -> str:
        if text not in known:
            raise ValueError("one of " + ", ".join(known))
        return text

    return parse


def flag(text: str) -> bool:
    """Parse 0 or 1, or a word for it."""
    if text.lower() not in ("0", "1", "true", "false", "yes", "no"):
        raise ValueError("0 or 1")
    return text.lower() in ("1", "true", "yes")


def mode(text: str) -> str:
    """Parse the permissions of a file as chmod(1) takes them; return them as four octal digits."""
    if not re.fullmatch("[0-7]{1,4}", text) or int(text, 8) > 0o777:
        raise ValueError("an octal number from 0 to 0777, such as 0660")
    return f"{int(text, 8):04o}"


def owner(text: str) -> str:
    """Parse who a file belongs to, as chown(1) takes it; return it with plain numbers. No name is looked up."""
    parts = text.split(":")
    if not any(parts) or len(parts) > 2 or any(part.isdecimal() and not 0 <= number(part) < _NO_ID for part in parts):
        raise ValueError("USER, USER:GROUP, USER: or :GROUP, by name or number")
    return ":".join(str(number(part)) if part.isdecimal() else part for part in parts)


AUTO = -1
"""The backlog that suits any program: AUTO_BACKLOG for a new socket, and any for one that is there."""
AUTO_BACKLOG = 4096  # as net.core.somaxconn (Linux 5.4), beyond which the kernel does not go by default


def backlog(text: str) -> int:
    """Parse a backlog, or `auto`, which is AUTO. The ValueError says what is expected."""
    try:
        return AUTO if text == "auto" else whole(0, 2**31 - 1)(text)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None


class SocketOption(NamedTuple):
    """One option of `make socket`. `parse` returns its value; its ValueError says what is expected.

    In papactl it is `--NAME VALUE`, or `--NAME` if it has no `metavar`.
    """

    name: str
    parse: Callable[[str], Any]
    description: str
    metavar: str = ""
    only: str = ""  # unix or inet (which includes inet6): the sockets that have it; all if empty
    short: str = ""  # its letter in papactl
    choices: tuple[str, ...] = ()
    completes: str = ""  # files: what papactl completes
    octal: bool = False  # papactl takes it in octal, as umask(1) does; the protocol in decimal
    default: tuple[str, str] = ("", "")  # what is said of it in the protocol and in papactl, where they differ
    sockopt: tuple[int, int] | None = None  # level and option for setsockopt(2), set before bind

    @property
    def help(self) -> str:
        """What `help make socket` says about it."""
        return self._described("" if self.metavar else "1 to ", base="decimal") + self.default[0]

    @property
    def papactl_help(self) -> str:
        """What papactl says about it."""
        return self._described("", base="octal") + self.default[1]

    def _described(self, before: str, *, base: str) -> str:
        sockets = f"{self.only}: " if self.only else ""
        return sockets + before + self.description + (f", in {base}" if self.octal else "")


SOCKET_OPTIONS = (
    SocketOption(
        "family",
        one_of(FAMILIES),
        "inet, inet6 or unix (default: unix if there is a path, inet6 if host is an IPv6 address, otherwise inet)",
        "FAMILY",
        choices=FAMILIES,
    ),
    SocketOption(
        "type",
        one_of(TYPES),
        "stream, dgram, seqpacket, raw or rdm (default: stream)",
        "TYPE",
        choices=TYPES,
    ),
    SocketOption(
        "backlog",
        backlog,
        "how many connections may wait to be accepted; auto: "
        f"{AUTO_BACKLOG} for a new socket, and for one that is there what it has",
        "N",
        default=(" (default: 5)", " (default: auto)"),
    ),
    SocketOption(
        "path",
        str,
        "the absolute path; only a stale socket file may be there, which is replaced",
        "PATH",
        only="unix",
        completes="files",
    ),
    SocketOption(
        "umask", whole(0, 0o777), "the umask with which the path is created", "UMASK", only="unix", octal=True
    ),
    SocketOption(
        "mode", mode, "the permissions of the path, in octal as for chmod(1), such as 0660", "MODE", only="unix"
    ),
    SocketOption(
        "owner",
        owner,
        "the owner of the path, as for chown(1): USER, USER:GROUP, USER: (with the user's group) or :GROUP",
        "USER[:GROUP]",
        only="unix",
    ),
    SocketOption(
        "host", str, "the address (default: 127.0.0.1 or ::1; with interface 0.0.0.0 or ::)", "ADDRESS", "inet"
    ),
    SocketOption(
        "port", whole(0, 65535), "the port (default: 0, the system chooses one)", "PORT", only="inet", short="p"
    ),
    SocketOption("interface", str, "receive from this network interface only", "NAME", only="inet"),
    SocketOption("reuseport", flag, "bind a new socket for each process that uses it", only="inet"),
)
