"""Encodes and decodes the bytes of the protocol, in both directions, without I/O.

The format of lines, words, replies and watch records is defined here and nowhere else. The daemon
reads commands and writes replies with it; clients do the opposite. docs/protocol.md describes this
file in prose.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from papad.errors import Error

WELCOME = b'Papa is home. Type "help" for commands.\n> '
PROMPT = b"> "
BATCH_END = b"] "
NOTHING_LEFT = "Nothing left to watch"
STOPPED = "Stopped watching"

MAX_LINE = 4 * 1024 * 1024
"""The limit of a command line, in bytes.

The largest environment that Linux allows (2 MiB) fits into one line, quoting included.
"""

_UNSAFE = re.compile(rb"[\x00-\x20%=\x7f]")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_METHOD = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ "  # RFC 9110, 5.6.2 and 9.1
_FOREIGN = (
    rb"\x16\x03|CLIENT |" + _METHOD + rb"[^\n]* HTTP/\d|"
    rb"(?i:host|origin|referer|cookie|user-agent|connection|upgrade|transfer-encoding|(?:accept|content|sec|x)-?[\w-]*):"
)
_HTTP_TARGET = _METHOD + rb" *(?:/|\*|[A-Za-z]+://)[^\n]* HTTP/\d"


class LineTooLong(Exception):
    """A line exceeded the limit. Parsing resumes with the next line."""


class LineReader:
    """Splits a byte stream into lines. It buffers at most `limit` bytes of one line."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self.limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._skipping = False

    def feed(self, data: bytes) -> Sequence[bytes | LineTooLong]:
        """Return the lines that `data` completes, without their newlines.

        A line over the limit is replaced by a LineTooLong.
        """
        ends = data.split(b"\n")
        rest = ends.pop()
        if not (rest or self._size or self._skipping) and len(data) <= self.limit:
            return ends  # nothing but whole lines
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


def looks_like_http(line: bytes, *, command: bool = False) -> bool:
    """Return whether a line looks like one of an HTTP request, or begins TLS or DICT.

    Such a line comes, for example, from a cross-protocol request of a browser; of DICT, from a URL
    that carries a command, as dict://HOST:PORT/set:a:b. If `command`, its first word is that of a
    command, and only a request line with a path or a URL counts.
    """
    return re.match(_HTTP_TARGET if command else _FOREIGN, line) is not None  # compiled here: clients need neither


def decode(line: bytes) -> str:
    """Decode a line as UTF-8, replace invalid bytes, and strip whitespace at both ends."""
    return line.decode(errors="replace").strip()


def split_words(line: str) -> list[str]:
    r"""Split a line into words at single spaces.

    A piece that ends in `\` is joined to the next one with a space in place of the `\`.
    """
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
    """A word of an exact line. `option` is its name and value if the word contained a literal `=`.

    An encoded `=` does not make a word an option.
    """

    __slots__ = ("option",)
    option: tuple[str, str] | None


def exact_words(line: bytes) -> list[str]:
    """Split an exact line, which begins with `%`, into words. Raises Error.

    The words are percent-encoded and separated by single spaces.
    """
    return [_exact_word(piece) for piece in line[1:].split(b" ") if piece]


def exact_line(words: Iterable[str | tuple[str, str]]) -> bytes:
    """Encode words as an exact line. A tuple is an option.

    Lone surrogates stand for bytes that are not valid UTF-8, as with os.fsdecode.
    """
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
    """Split words into the leading `name=value` options and the rest.

    The rest begins with the first word without `=`. Double quotes around a value are removed;
    clients use them to protect a value that ends in a backslash.
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
    r"""Encode words as a command line.

    Spaces and newlines become `\ `, and empty words are dropped, as in the original client.
    """
    return " ".join(w.replace(" ", "\\ ").replace("\n", "\\ ") for w in words if w).encode() + b"\n"


def reply(text: str) -> bytes:
    """Encode the answer to a command: its text, a newline if the text lacks one, the prompt."""
    return (f"{text}> " if text.endswith("\n") else f"{text}\n> ").encode(errors="surrogateescape")


def error(message: str) -> bytes:
    """Encode the answer to a command that failed. It is always one line."""
    return reply("Error: " + message.replace("\n", " "))


def output_record(stream: str, name: str, timestamp: float, data: bytes) -> bytes:
    """Encode a record of output for a watch; `stream` is `out` or `err`."""
    return b"".join((f"{stream}:{name}:{timestamp}:{len(data)}\n".encode(), data, b"\n"))  # copies the data once


def closed_record(name: str, timestamp: float, code: int) -> bytes:
    """Encode the `closed` record of a process for a watch.

    `code` is the exit code (0 to 255), the negated number of the signal that killed the process, or
    256 if the exit code is unknown.
    """
    return f"closed:{name}:{timestamp}:{code}\n".encode()
