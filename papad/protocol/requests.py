"""Commands as clients send them, and the parsers of their answers: one `Request` for each command.

This module does no I/O. The blocking and the asyncio client are thin layers over it. Words are sent
as exact lines (wire.exact_line), so spaces, newlines, quotes and bytes that are not valid UTF-8
arrive unchanged.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from papad.errors import BadRequest, Error
from papad.protocol import wire

T = TypeVar("T")
Text = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""What is accepted as a word: text, bytes or a path. Other values are converted by str()."""
Word = str | tuple[str, str]
PIPE, STDOUT, DEVNULL = -1, -2, -3
"""The values of the subprocess module, which is slow to import."""

_FAMILIES = {int(family): family.name[3:].lower() for family in socket.AddressFamily if family}
_TYPES = {int(kind): kind.name[5:].lower() for kind in socket.SocketKind}
# Patterns are compiled when they are first used: papactl needs none of these.
_SOCKET = (
    r"(?P<name>.*?) family=(?P<family>\w+) type=(?P<type>\w+) backlog=(?P<backlog>\d+)"
    r"(?: path=(?P<path>.*?)(?: umask=(?P<umask>\d+))?(?: mode=(?P<mode>[0-7]+))?(?: owner=(?P<owner>[\d:]+))?|"
    r" host=(?P<host>.*?) port=(?P<port>\d+)(?: interface=(?P<interface>.*?))?(?: reuseport=(?P<reuseport>1))?"
    r"(?P<others>(?: \w+=\S*)*?))"
    r"(?: fileno=(?P<fileno>\d+))?"
)
_PROCESS = (
    r"(?P<name>.*?) pid=(?P<pid>\d+) running=(?P<running>True|False) started=(?P<started>[\d.e+]+)"
    r"(?: uid=(?P<uid>\S+))?(?: gid=(?P<gid>\S+))?(?: shell=(?P<shell>True))? args=(?P<args>.*)"
)


class Request(NamedTuple, Generic[T]):
    """One command: its line, the parser of its answer, and whether it may be sent twice.

    If the answer is lost, the client cannot know whether papad executed the command. It then sends
    a `repeatable` command again.
    """

    line: bytes
    parse: Callable[[str], T]
    repeatable: bool = True
    watched: tuple[object, ...] = ()
    """The patterns to watch, if the command starts a watch."""


def text(value: object) -> str:
    """Convert a word to text; invalid UTF-8 becomes lone surrogates, as with os.fsdecode."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def line(words: Iterable[Word]) -> bytes:
    """Encode words and options as an exact line.

    Raises BadRequest if all words are empty or if a word cannot be encoded.
    """
    words = list(words)
    if not any(words):
        raise BadRequest("no command")
    try:
        return wire.exact_line(words)
    except UnicodeEncodeError as error:
        raise BadRequest(f"cannot be sent: {error}") from None


def list_sockets(*patterns: object) -> Request[dict[str, dict[str, Any]]]:
    """Return the options of the sockets that match, by name."""
    return Request(_about("list", "sockets", patterns), lambda answer: dict(map(_socket_of, _lines(answer))))


def make_socket(
    name: Text,
    host: Text | None = None,
    port: int | None = None,
    family: int | None = None,
    socket_type: int | None = None,
    backlog: int | None = None,
    path: Text | None = None,
    umask: int | None = None,
    interface: Text | None = None,
    reuseport: bool | None = None,
    *,
    mode: int | str | None = None,
    owner: Text | int | None = None,
    **others: object,
) -> Request[dict[str, Any]]:
    """Make a socket, or return the existing one if it has the same options.

    Without a `backlog`, a new one has 4096, and an existing one may have any.
    `mode` and `owner` are those of the path: 0o660 or "0660", and "USER", "USER:GROUP" or ":GROUP".
    `others` are options of papad by their names in the protocol; a flag is given as 1.
    """
    options: dict[str, object] = {
        "backlog": "auto" if backlog is None else backlog,
        "mode": _octal(mode),
        "owner": owner,
        **others,
    }
    if family is not None:
        options["family"] = _known(_FAMILIES, family, "socket family")
    if socket_type is not None:
        options["type"] = _known(_TYPES, socket_type, "socket type")
    if path:
        if not text(path).startswith("/") or text(path).endswith("/"):
            raise BadRequest(f"A socket's path must be absolute and name a file, not {text(path)!r}")
        options |= {"path": path, "umask": umask}
    else:
        options |= {"host": host, "port": port, "interface": interface, "reuseport": 1 if reuseport else None}
    words = ["make", "socket", _new_name("Socket", name), *option_words(options)]
    return Request(line(words), lambda answer: _socket_of(answer)[1])


def remove_sockets(*patterns: object) -> Request[bool]:
    """Close and remove the sockets that match; without patterns, all of them."""
    return Request(_about("remove", "sockets", patterns), _true, repeatable=False)


def list_values(*patterns: object) -> Request[dict[str, str]]:
    """Return the values that match, by name."""
    return Request(
        _about("describe", "values", patterns),
        lambda answer: {each["name"]: each["value"] for each in map(json.loads, _lines(answer))},
    )


def set_value(name: Text, value: object = None) -> Request[None]:
    """Set a value. An empty value or None removes it.

    A dict, list or tuple is stored as JSON, empty ones too; `get` returns the text, for json.loads.
    Others are stored as str() makes them.
    """
    if isinstance(name, Mapping):
        raise BadRequest("set takes one name and its value; call it for each item")
    if isinstance(value, dict | list | tuple):
        value = _json(value)
    if not value:  # as in the original client, any false value removes it
        return Request(line(["set", _named("Value", name)]), lambda answer: None)
    words = ["set", _new_name("Value", name), text(value)]
    return Request(line(words), lambda answer: None)


def get_value(name: Text) -> Request[str | None]:
    """Return a value, or None if it does not exist."""
    every = list_values(_named("Value", name))
    return Request(every.line, lambda answer: every.parse(answer).get(text(name)))


def remove_values(*patterns: object) -> Request[bool]:
    """Remove the values that match."""
    return Request(_about("remove", "values", patterns), _true)


def list_processes(*patterns: object) -> Request[dict[str, dict[str, Any]]]:
    """Return the pid and other properties of the processes that match, by name."""
    return Request(_about("list", "processes", patterns), lambda answer: dict(map(_process_of, _lines(answer))))


def make_process(
    name: Text,
    executable: Text | None = None,
    args: object = None,
    env: Mapping[Any, Any] | None = None,
    working_dir: Text | None = None,
    uid: int | Text | None = None,
    gid: int | Text | None = None,
    rlimits: Mapping[str, Any] | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    bufsize: int | str | None = None,
    watch_immediately: bool | None = None,
    *,
    shell: bool | None = None,
    listen: Text | Iterable[Text] | None = None,
    journal: bool | None = None,
    **others: object,
) -> Request[dict[str, Any]]:
    """Start a process, or return the existing one if it was made with the same options.

    `listen` is the name of a socket to pass as systemd does, or several: in a list, or with commas.
    `others` are options of papad by their names in the protocol; a flag is given as 1. With
    `again=1`, a process that has ended is started anew. `umask` is a number such as 0o027, or octal text.
    """
    if "umask" in others:
        others["umask"] = _octal(others["umask"])
    options: dict[str, object] = {"working_dir": working_dir, "uid": uid, "gid": gid, "bufsize": bufsize}
    options |= {"watch": 1 if watch_immediately else None, "shell": 1 if shell else None}
    options |= {"journal": 1 if journal else None, "listen": ",".join(_texts(listen)) if listen else None, **others}
    if bufsize != 0:
        options["stdout"] = _stream("stdout", stdout, {DEVNULL: "0", PIPE: None})
        joined = {DEVNULL: "0", STDOUT: "stdout", PIPE: None}
        options["stderr"] = _stream("stderr", stderr, joined)
    words: list[Word] = ["make", "process", _new_name("Process", name), *option_words(options)]
    words += [(f"env.{text(key)}", text(value)) for key, value in (env or {}).items()]
    words += [(f"rlimit.{key.lower()}", text(value)) for key, value in (rlimits or {}).items()]
    words += [text(executable)] if executable else []
    words += _texts(args)
    watched = (name,) if watch_immediately else ()
    # Sent twice, `again` would start twice what ends at once.
    return Request(line(words), lambda answer: _process_of(answer)[1], not others.get("again"), watched)


def remove_processes(*patterns: object) -> Request[bool]:
    """Remove the processes that match; without patterns, all of them.

    They keep running. Their output is discarded, and papad forgets them when they exit.
    """
    return Request(_about("remove", "processes", patterns), _true, repeatable=False)


def watch_processes(*patterns: object) -> bytes:
    """Return the line that starts a watch."""
    return _about("watch", "processes", patterns)


def exit_if_idle() -> Request[bool]:
    """Let papad exit if it is idle. Return whether it does."""
    return Request(line(["exit-if-idle"]), lambda answer: answer.startswith("Exiting"), repeatable=False)


def describe(kind: str, *patterns: object) -> Request[list[dict[str, Any]]]:
    """Return everything known about `sockets`, `processes`, `values` or the `server`."""
    return Request(_about("describe", kind, patterns), lambda answer: [json.loads(each) for each in _lines(answer)])


def _about(verb: str, kind: str, patterns: Iterable[object]) -> bytes:
    return line([verb, kind, *pattern_words(patterns)])


def _named(what: str, name: Text) -> str:
    if not name:
        raise BadRequest(f"{what} requires a name")
    return text(name)


def _new_name(what: str, name: Text) -> str:
    """Return the name of what is to be made. Raises BadRequest also for one that would be a pattern."""
    if (named := _named(what, name)).endswith("*"):
        raise BadRequest(f"{what} name {named!r} ends in *, and would be taken for a pattern; choose another")
    return named


def _json(value: object) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"cannot be stored as JSON: {error}") from None


def pattern_words(patterns: Iterable[object]) -> list[Word]:
    return [text(pattern) for pattern in patterns if pattern is not None]


def option_words(values: Mapping[str, object]) -> list[Word]:
    return [(name, text(value)) for name, value in values.items() if value is not None]


def _texts(value: object) -> list[str]:
    """Convert one word, or several, to text."""
    if value is None or value == "":
        return []
    if isinstance(value, str | bytes | os.PathLike) or not isinstance(value, Iterable):
        return [text(value)]
    return [text(each) for each in value if each is not None]


def _octal(permissions: object) -> object:
    """Return a number as papad takes it where it takes octal digits; text stays."""
    return f"{permissions:04o}" if isinstance(permissions, int) else permissions


def _known(names: Mapping[int, str], number: int, what: str) -> str:
    if number not in names:
        raise BadRequest(f"Invalid {what} {number!r}; take one from the socket module")
    return names[number]


def _stream(name: str, given: int | None, words: Mapping[int, str | None]) -> str | None:
    if given is None:
        return None
    if given not in words:
        known = {DEVNULL: "DEVNULL", PIPE: "PIPE", STDOUT: "STDOUT"}
        raise BadRequest(f"{name} must be one of {', '.join(known[value] for value in words)}")
    return words[given]


def _true(answer: str) -> bool:
    return True


def _lines(answer: str) -> list[str]:
    return answer.split("\n") if answer else []


def _socket_of(answer: str) -> tuple[str, dict[str, Any]]:
    """Parse a line about a socket into its name and options."""
    options = _fields(_SOCKET, answer)
    name = options.pop("name")
    options |= dict(each.split("=", 1) for each in options.pop("others", "").split())
    return name, options | {key: int(options[key]) for key in ("backlog", "port", "fileno") if key in options}


def _process_of(answer: str) -> tuple[str, dict[str, Any]]:
    """Parse a line about a process into its name and other fields."""
    fields = _fields(_PROCESS, answer)
    name = fields.pop("name")
    fields |= {"pid": int(fields["pid"]), "running": fields["running"] == "True", "started": float(fields["started"])}
    return name, fields | ({"shell": True} if "shell" in fields else {})


def _fields(pattern: str, answer: str) -> dict[str, Any]:
    found = re.fullmatch(pattern, answer, re.DOTALL)
    if found is None:
        raise Error(f"papad sent a line that this client cannot parse: {answer!r}")
    return {key: value for key, value in found.groupdict().items() if value is not None}
