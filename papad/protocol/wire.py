"""The bytes of the protocol, both ways, without any I/O.

Everything that knows how a line, a word, a reply or a watch record looks lives here, and both ends use it: the kernel to
read commands and write replies, the client for the opposite. docs/protocol.md is this file in prose.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from papad.errors import Error

WELCOME = b'Papa is home. Type "help" for commands.\n> '
PROMPT = b"> "
BATCH_END = b"] "
NOTHING_LEFT = "Nothing left to watch"
STOPPED = "Stopped watching"

MAX_LINE = 4 * 1024 * 1024
"""Bytes in one command line. A line with the 2 MiB that an environment may have on Linux fits, quoting included."""

_UNSAFE = re.compile(rb"[\x00-\x20%=\x7f]")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_HTTP_OR_TLS = re.compile(rb"\x16\x03|[A-Za-z]+ [^\n]* HTTP/\d|(?i:host|content-length|content-type|user-agent):")


class LineTooLong(Exception):
    """A line ran past the limit; what follows it is understood again."""


class LineReader:
    """Cuts a byte stream into lines, whatever pieces it comes in, and holds no more than `limit` bytes of one."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self.limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes | LineTooLong]:
        """The lines that `data` completes, without their newlines; a LineTooLong in the place of one over the limit."""
        *ends, rest = data.split(b"\n")
        lines: list[bytes | LineTooLong] = []
        for end in ends:
            if self._skipping:
                self._skipping = False
            elif self._size + len(end) > self.limit:
                lines.append(LineTooLong())
            else:
                lines.append(b"".join((*self._parts, end)) if self._parts else end)
            self._parts.clear()
            self._size = 0
        if rest and not self._skipping:
            self._parts.append(rest)
            self._size += len(rest)
            if self._size > self.limit:
                self._parts.clear()
                self._size = 0
                self._skipping = True
                lines.append(LineTooLong())
        return lines


def looks_like_http(line: bytes) -> bool:
    """Whether a connection's first line is that of a browser (or of TLS), for example a cross-protocol request."""
    return _HTTP_OR_TLS.match(line) is not None


def decode(line: bytes) -> str:
    """A line as text: UTF-8, what is not UTF-8 replaced, blanks at both ends gone."""
    return line.decode("utf-8", "replace").strip()


def split_words(line: str) -> list[str]:
    r"""The words of a line. They end at single spaces; a piece ending in `\` is joined to the next with one space."""
    words: list[str] = []
    joined = ""
    for piece in line.split(" "):
        if piece.endswith("\\"):
            joined += piece[:-1] + " "
        elif piece:
            words.append((joined + piece).strip())
            joined = ""
    if joined:
        words.append(joined)
    return words


class ExactWord(str):
    """A word of an exact line. `option` is its name and value if it was written as one: an encoded `=` makes none."""

    __slots__ = ("option",)
    option: tuple[str, str] | None


def exact_words(line: bytes) -> list[str]:
    """The words of an exact line, which begins with `%`: percent-encoded, with single spaces between. Raises Error."""
    return [_exact_word(piece) for piece in line[1:].split(b" ") if piece]


def exact_line(words: Iterable[str | tuple[str, str]]) -> bytes:
    """An exact line for the words; a tuple is an option. Lone surrogates stand for bytes that are not UTF-8 (os.fsdecode)."""
    pieces = [_encode(w) or b"%" if isinstance(w, str) else _encode(w[0]) + b"=" + _encode(w[1]) for w in words]
    return b"%" + b" ".join(pieces) + b"\n"


def _exact_word(piece: bytes) -> ExactWord:
    name, equals, value = (b"", b"", b"") if piece == b"%" else piece.partition(b"=")
    word = ExactWord(_unquote(name) + equals.decode() + _unquote(value))
    word.option = (_unquote(name), _unquote(value)) if equals else None
    return word


def _encode(word: str) -> bytes:
    data = word.encode("utf-8", "surrogateescape")
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], data)


def _unquote(piece: bytes) -> str:
    if _BAD_ESCAPE.search(piece):
        raise Error("In a line that begins with %, every other % must be followed by two hexadecimal digits")
    data = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), piece)
    return data.decode("utf-8", "surrogateescape")


def split_options(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The leading `name=value` words as a dict, and the words from the first without `=` on.

    A value in double quotes loses them: so a client protects one that ends in a backslash.
    """
    options: dict[str, str] = {}
    for used, word in enumerate(words):
        if isinstance(word, ExactWord):
            if word.option is None:
                return options, words[used:]
            options[word.option[0]] = word.option[1]
            continue
        name, equals, value = word.partition("=")
        if not equals:
            return options, words[used:]
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        options[name] = value
    return options, []


def join_words(words: Iterable[str]) -> bytes:
    r"""A command line for the words: spaces and newlines become `\ `, empty words are dropped, as the original does."""
    return " ".join(w.replace(" ", "\\ ").replace("\n", "\\ ") for w in words if w).encode() + b"\n"


def reply(text: str) -> bytes:
    """The answer to a command: its text, a newline if it lacks one, the prompt."""
    return (text if text.endswith("\n") else text + "\n").encode("utf-8", "surrogateescape") + PROMPT


def error(message: str) -> bytes:
    """The answer to a command that failed: always one line."""
    return reply("Error: " + message.replace("\n", " "))


def output_record(stream: str, name: str, timestamp: float, data: bytes) -> bytes:
    """One piece of output (`stream` is `out` or `err`) as a watcher gets it."""
    return f"{stream}:{name}:{timestamp}:{len(data)}\n".encode() + data + b"\n"


def closed_record(name: str, timestamp: float, code: int) -> bytes:
    """The end of a process as a watcher gets it; `code` is 0 to 255, or minus the number of the signal."""
    return f"closed:{name}:{timestamp}:{code}\n".encode()
