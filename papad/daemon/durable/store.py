"""The store: all that papad remembers, in one file of kernel memory (memfd_create(2)).

    header   one page: magic and format; where the log is and how much of it counts; the turn of
             the staging pipe (output/capture.py)
    log      records, each a line of JSON
    rings    a range for each process whose output is captured

A record is {"key": KEY, "set": {FIELD: VALUE, …}}, which amends the entry KEY (null removes a
field), or {"key": KEY, "gone": true}, which ends it. What an entry means is its table's business,
but for two fields:

    range    [START, SIZE] of the file belongs to the entry
    fds      the names of the descriptors that belong to the entry (durable/homes.py)

So nothing of an entry that this version cannot use is lost: a later one finds all of it.

The file is sparse and far larger than any memory. Each log and each ring gets a range of its own;
what is forgotten is punched out of the file, which frees its memory (fallocate(2)).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import logging
import os
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, TypeVar

from papad.daemon.durable import parcel
from papad.daemon.durable.homes import Homes
from papad.errors import Error

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
log = logging.getLogger("papad")

FORMAT = 1
"""Of the file; a papad that knows only lower ones leaves it alone. A new field or a new kind of
entry needs no new format."""
MAX_LIVE = 64 << 20
"""The most bytes of live records."""
TURN_OFFSET = 64
"""Where output/capture.py writes the turn."""

_NAME = "store"  # in the homes
_MAGIC = b"papad/st"
_PREAMBLE = struct.Struct("=8sQ")  # magic, format
_LOG = struct.Struct("=QQ")  # where the log starts, and its length
_LENGTH = struct.Struct("=Q")
_PAGE = 4096
_SIZE = 1 << (62 if sys.maxsize > 1 << 32 else 44)  # the most that ftruncate(2) takes
_LOG_ROOM = 1 << 28  # of the file, for one log: more than MAX_LIVE needs between two compactions
_SLACK = 1 << 20  # so many bytes of dead records are not worth a compaction
_CHUNK = 1 << 20  # bytes written at a time
_AT_ONCE = 1000  # records parsed at a time
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE

Fields = dict[str, Any]


class LaterFormat(Error):
    """The store was written by a later papad, in a format that this one does not know."""


class Store:
    """All entries by key. Each change is in kernel memory before the call that makes it returns."""

    # A SIGKILL at any instruction leaves a file that means either the state before a change or the
    # state after it. It is the header's page that says so: `_append` writes the record behind the
    # log's end, then the log's new length; `compact` writes a new log into a range of its own, then
    # start and length of it. Both write the header with one pwrite within a page, which SIGKILL
    # cannot split. Whatever else is in the file means nothing: a record that the length does not
    # count, a log or a ring that nothing refers to. It is memory in use, no more, and `sweep` frees
    # it at the next start.
    #
    # A range is allocated, and then counted as an entry's by a record. In the other order, the
    # record could name a range that is not ready. An entry is erased, and then its range freed: in
    # the other order, the record could name a ring that is empty.

    def __init__(self, fd: int) -> None:
        """Read the store in the memfd `fd`, which becomes the store's; an empty one is set up.

        Raises LaterFormat, or OSError for lack of memory; then `fd` stays the caller's.
        """
        self.fd = fd
        self.entries: dict[str, Fields] = {}
        """All live entries by key. Read it freely, but change it only through the methods."""
        self._sizes: dict[str, int] = {}  # bytes of live records, by key
        self._live = 0  # the sum of these
        self._start, self._length = _PAGE, 0  # of the log
        self._retry_at = 0  # after a compaction that failed, the length of the log for another try
        header = os.pread(fd, _PAGE, 0)
        if not header.strip(b"\0"):
            os.ftruncate(fd, _SIZE)
            parcel.write_all(fd, _PREAMBLE.pack(_MAGIC, FORMAT) + _LOG.pack(self._start, 0))
        else:
            magic, found = _PREAMBLE.unpack_from(header)
            if magic != _MAGIC or found > FORMAT:
                raise LaterFormat(f"what papad holds is stored in format {found}, and this papad knows {FORMAT}")
            self._start, self._length = _LOG.unpack_from(header, _PREAMBLE.size)
            for record, size in self._records():
                self._apply(record, size)
            self._live = sum(self._sizes.values())
        self._next = max((start + size for start, size in self._ranges()), default=_PAGE)

    @classmethod
    def create(cls) -> Store:
        """Create an empty store. Raises OSError."""
        fd = os.memfd_create("papad-store", os.MFD_CLOEXEC)
        try:
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    def of(self, kind: str) -> list[tuple[str, Fields]]:
        """Return the entries whose keys start with `kind`, by the rest of their keys."""
        return [(key[len(kind) :], entry) for key, entry in self.entries.items() if key.startswith(kind)]

    @property
    def names(self) -> set[str]:
        """The names of all descriptors that belong to an entry."""
        return {name for entry in self.entries.values() for name in entry.get("fds", ())}

    def begin(self, key: str, values: Mapping[str, Any]) -> None:
        """Write a new entry.

        Raises Error if there is one, which this version cannot use, or as `write` does.
        """
        self.refuse_kept(key)
        self.write(key, values)

    def refuse_kept(self, key: str) -> None:
        """Raise Error if there is an entry `key`, which the caller does not know: it cannot use it."""
        if key in self.entries:
            raise Error(f"{key.partition(':')[2]} is kept for a papad that can use it; see papad's log")

    def write(self, key: str, values: Mapping[str, Any]) -> None:
        """Set fields of the entry `key`; None removes one.

        Raises OSError or Error if there is no room; then nothing has changed. For what becomes of
        an entry that is there, its exit say, there is always room below the limit of the log.
        """
        line = _line(key, values)
        entry = self.entries.get(key, {})
        whole = entry.keys() <= values.keys()
        if whole and self._live - self._sizes.get(key, 0) + len(line) > MAX_LIVE:
            raise Error(f"papad remembers {MAX_LIVE >> 20} MiB already, which is its limit; remove something")
        self._append(line)
        self._live += self._amend(key, values, len(line))
        self._compact_if_worth_it()

    def erase(self, key: str) -> None:
        """End the entry `key`; the caller frees its range, and lets go of its descriptors.

        Raises OSError if there is no memory for the record.
        """
        if key not in self.entries:
            return
        self._append(parcel.encode({"key": key, "gone": True}).encode("ascii") + b"\n")
        del self.entries[key]
        self._live -= self._sizes.pop(key)
        self._compact_if_worth_it()

    def allocate(self, size: int) -> int:
        """Return the start of a range of `size` bytes that nothing else uses, all zero.

        Raises OSError (EFBIG). It belongs to the caller until an entry's `range` says so, which must
        be before the next one is allocated.
        """
        size = _pages(size)
        if self._next + size > _SIZE:
            return self._gap(size)
        start = self._next
        self._next += size
        return start

    def free(self, start: int, size: int) -> None:
        """Free the memory of a range that is not in use any more."""
        _punch(self.fd, start, _pages(size))

    def sweep(self) -> None:
        """Free all memory that no entry refers to, which an earlier daemon left when it was killed."""
        at = _PAGE
        for start, size in sorted(self._ranges()):
            if start > at:
                _punch(self.fd, at, start - at)
            at = max(at, start + size)
        if at < _SIZE:
            _punch(self.fd, at, _SIZE - at)

    def compact(self) -> None:
        """Write the live entries to a new log, switch to it, and free the old one.

        Raises OSError on failure; then the old log still holds everything.
        """
        start = self.allocate(_LOG_ROOM)
        sizes: dict[str, int] = {}
        length, pending = 0, b""
        try:
            for key, entry in self.entries.items():
                line = _line(key, entry)
                sizes[key] = len(line)
                pending += line
                if len(pending) >= _CHUNK:
                    parcel.write_all(self.fd, pending, start + length)
                    length += len(pending)
                    pending = b""
            parcel.write_all(self.fd, pending, start + length)
            length += len(pending)
            parcel.write_all(self.fd, _LOG.pack(start, length), _PREAMBLE.size)
        except OSError:
            self.free(start, _LOG_ROOM)
            raise
        old, self._start, self._length = self._start, start, length
        self._sizes, self._live, self._retry_at = sizes, length, 0
        self.free(old, _LOG_ROOM)

    def close(self) -> None:
        """Close the file here; the homes keep it."""
        os.close(self.fd)

    def _append(self, line: bytes) -> None:
        if self._length + len(line) > _LOG_ROOM:
            self.compact()  # one that was worth it has failed, but there may be memory by now
        parcel.write_all(self.fd, line, self._start + self._length)
        length = self._length + len(line)
        parcel.write_all(self.fd, _LENGTH.pack(length), _PREAMBLE.size + _LENGTH.size)
        self._length = length

    def _compact_if_worth_it(self) -> None:
        if self._length < max(2 * self._live + _SLACK, self._retry_at):
            return
        try:
            self.compact()
        except OSError as error:
            log.warning("cannot compact the store; continuing with it as it is: %s", error.strerror)
            self._retry_at = self._length + _SLACK

    def _records(self) -> Iterator[tuple[Fields, int]]:
        """Yield all records of the log, with their size; a damaged one is reported and left out."""
        data = b""
        while len(data) < self._length:  # one read gives at most 2 GiB
            piece = os.pread(self.fd, self._length - len(data), self._start + len(data))
            if not piece:
                log.error("the store's log is too short: %d of %d bytes", len(data), self._length)
                break
            data += piece
        lines = data.splitlines(keepends=True)
        for at in range(0, len(lines), _AT_ONCE):
            some = lines[at : at + _AT_ONCE]
            for line, record in zip(some, _parsed(some), strict=True):
                if _understood(record):
                    yield record, len(line)
                else:
                    log.error("leaving out a record of the store, which is not understood: %.200r", line)

    def _apply(self, record: Fields, size: int) -> None:
        key = record["key"]
        if record.get("gone"):
            self.entries.pop(key, None)
            self._sizes.pop(key, None)
        else:
            self._amend(key, record["set"], size)

    def _amend(self, key: str, values: Mapping[str, Any], size: int) -> int:
        """Set fields of an entry by a record of `size` bytes; return by how much it has grown."""
        entry = self.entries.setdefault(key, {})
        before = self._sizes.get(key, 0)
        superseded = before if entry.keys() <= values.keys() else 0
        entry.update(values)
        if None in values.values():
            for name in [name for name, value in values.items() if value is None]:
                del entry[name]
        self._sizes[key] = before - superseded + size
        return size - superseded

    def _ranges(self) -> Iterator[tuple[int, int]]:
        """Yield start and size of each range in use, in whole pages."""
        yield self._start, _LOG_ROOM
        for entry in self.entries.values():
            if _is_range(entry.get("range")):
                start, size = entry["range"]
                yield start, _pages(size)

    def _gap(self, size: int) -> int:
        """Return the start of the first gap of `size` bytes between the ranges in use."""
        at = _PAGE
        for start, taken in sorted(self._ranges()):
            if start - at >= size:
                return at
            at = max(at, start + taken)
        if _SIZE - at < size:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return at


def opened_store(homes: Homes) -> Store:
    """Return the store that an earlier daemon left in the homes, or a new one.

    Raises LaterFormat, OSError.
    """
    try:
        return Store(homes.take(_NAME))
    except KeyError:
        store = Store.create()
        homes.hold(_NAME, store.fd)
        return store


def recorded(instance: DataclassInstance) -> Fields:
    """Return the fields of a dataclass instance that differ from their defaults."""
    found = {}
    for each in fields(instance):
        value = getattr(instance, each.name)
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        if value != default:
            found[each.name] = value
    return found


def rebuilt(kind: type[T], recorded: Mapping[str, Any]) -> T:
    """Return a dataclass instance made from recorded fields. Raises TypeError if one is missing.

    Fields that a later version has added are ignored; the entry keeps them.
    """
    return kind(**{name: recorded[name] for name in kind.__dataclass_fields__ if name in recorded})


def _line(key: str, values: Mapping[str, Any]) -> bytes:
    return parcel.encode({"key": key, "set": values}).encode("ascii") + b"\n"


def _parsed(lines: list[bytes]) -> list[Any]:
    """Return the records in these lines, None for one that is damaged. As one array they take half as long to parse."""
    with contextlib.suppress(ValueError, RecursionError):
        records: list[Any] = json.loads(b"[%b]" % b",".join(lines))
        if len(records) == len(lines):
            return records
    return [_parsed_alone(line) for line in lines]


def _parsed_alone(line: bytes) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(line)


def _understood(record: Any) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("key"), str):
        return False
    if record.get("gone") is True:
        return True
    values = record.get("set")
    return isinstance(values, dict) and ("fds" not in values or _is_names(values["fds"]))


def _is_names(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def _is_range(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(isinstance(each, int) for each in value):
        return False
    start, size = value
    return bool(start >= 0 <= size and start + size <= _SIZE)


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = getattr(_libc, "fallocate64", _libc.fallocate)
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def punch_around(fd: int, start: int, size: int, at: int, count: int) -> None:
    """Free the memory of `count` bytes from `at` on, around the end, of the `size` bytes at `start`. Raises OSError."""
    before_end = min(count, size - at)
    for offset, length in ((at, before_end), (0, count - before_end)):
        if length:
            _punch(fd, start + offset, length)


def _punch(fd: int, start: int, size: int) -> None:
    """Make a hole in the file. Raises OSError."""
    if _fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, start, size):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
