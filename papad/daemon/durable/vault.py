"""The vault: records and descriptors that outlive papad, held by the kernel as messages in a socket.

A segment is a datagram socketpair whose reading end is in the FD store. Appending is one sendmsg: record and descriptors
land together or not at all. Nothing is ever taken out; a later message for the same key amends the earlier ones, or erases
them. A start peeks at all that is there, and begins a new segment with what is still alive.

A message is {"v": 1, "k": key, "set": {field: value}, "fds": [name, …]}, or {"v": 1, "k": key, "gone": true}.
Segments are read in the order of their numbers, so that later always means later.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from papad.daemon.durable import parcel
from papad.daemon.durable.systemd import Service
from papad.errors import Error

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
log = logging.getLogger("papad")

VERSION = 1
SO_PEEK_OFF = 42  # socket(7); not in Python's socket module
_SEGMENT_BYTES = 1 << 30
_SLACK = 512  # dead messages that are never worth a compaction


@dataclass
class Entry:
    """What the vault knows under one key. The descriptors belong to the table that wrote them."""

    fields: dict[str, Any] = field(default_factory=dict)
    fds: dict[str, int] = field(default_factory=dict)
    spilled: list[int] = field(default_factory=list)  # memfds of its large messages

    def empty(self) -> None:
        """Give back the memory of large messages that no longer count, though the log still refers to it."""
        for memfd in self.spilled:
            os.ftruncate(memfd, 0)
            os.close(memfd)
        self.spilled.clear()


class Vault:
    """All entries by key, each change of which is in kernel memory before the call returns."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._segments: dict[str, socket.socket] = {}  # FDNAME -> reading end
        self._writer: socket.socket | None = None
        self._messages = 0
        self.entries: dict[str, Entry] = {}

    def recover(self) -> None:
        """Read what an earlier papad left in the FD store, then rewrite it into one new segment."""
        for name in sorted((name for name in self._service.stored if name.startswith("vault-")), key=_number):
            try:
                reader = self._service.take_socket(name)
            except OSError as error:
                log.error("stored descriptor %s is dropped: %s", name, error.strerror)
                continue
            self._segments[name] = reader
            for message, fds in _messages_of(name, reader):
                self._apply(message, fds)
        if self._service.managed:
            self._try_to_compact()

    def write(self, key: str, fields: Mapping[str, Any], fds: Mapping[str, int] | None = None) -> None:
        """Set fields and add descriptors under `key`; the descriptors stay the caller's and open until `erase`.

        Raises OSError or Error when there is no room; then nothing has changed.
        """
        fds = fds or {}
        spilled = self._append({"k": key, "set": dict(fields), "fds": list(fds)}, list(fds.values()))
        entry = self.entries.setdefault(key, Entry())
        if fields.keys() >= entry.fields.keys() and not entry.fds:  # nothing that was said before counts any more
            entry.empty()
        entry.fields.update(fields)
        entry.fds.update(fds)
        if spilled is not None:
            entry.spilled.append(spilled)
        self._compact_if_worth_it()

    def withdraw(self, key: str, name: str) -> None:
        """The descriptor `name` is about to be closed: keep it no longer. A start may still find it, at its end of file."""
        if key in self.entries:
            self.entries[key].fds.pop(name, None)

    def erase(self, key: str) -> None:
        """Forget `key`. Closing its descriptors is the caller's. Raises OSError or Error when there is no room for the tombstone."""
        if key not in self.entries:
            return
        self._append({"k": key, "gone": True}, [])
        self.entries.pop(key).empty()
        self._compact_if_worth_it()

    def _append(self, message: dict[str, Any], fds: list[int]) -> int | None:
        if not self._service.managed:
            return None
        message["v"] = VERSION
        writer = self._writer or self._begin_segment()
        try:
            spilled = parcel.send(writer, message, fds)
        except BlockingIOError:
            spilled = parcel.send(self._begin_segment(), message, fds)
        self._messages += 1
        return spilled

    def _begin_segment(self) -> socket.socket:
        """Open a segment, and store its reading end before anything relies on it."""
        reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        writer.setblocking(False)
        so_sndbufforce = 32  # socket(7): needs CAP_NET_ADMIN; a user's segments are small, and several
        with contextlib.suppress(PermissionError):
            writer.setsockopt(socket.SOL_SOCKET, so_sndbufforce, _SEGMENT_BYTES)
        name = f"vault-{1 + max(map(_number, self._segments), default=0)}"
        try:
            self._service.store(name, reader.fileno())
        except Error:
            reader.close()
            writer.close()
            raise
        self._segments[name] = reader
        if self._writer is not None:
            self._writer.close()
        self._writer = writer
        return writer

    def _compact_if_worth_it(self) -> None:
        if self._messages > 2 * len(self.entries) + _SLACK:
            self._try_to_compact()

    def _try_to_compact(self) -> None:
        try:
            self.compact()
        except (OSError, Error) as error:
            log.warning("the vault could not be compacted, and goes on as it is: %s", error)

    def compact(self) -> None:
        """Write what is alive into a new segment, and only then drop the old ones: a crash in between finds both.

        Raises OSError or Error when that fails; everything is then still in the old segments.
        """
        old_segments, old_writer, old_messages = dict(self._segments), self._writer, self._messages
        spilled: dict[str, int | None] = {}
        self._writer, self._messages = None, 0
        try:
            for key, entry in self.entries.items():
                message = {"k": key, "set": entry.fields, "fds": list(entry.fds)}
                spilled[key] = self._append(message, list(entry.fds.values()))
        except (OSError, Error):
            for name in self._segments.keys() - old_segments.keys():
                self._drop_segment(name)
            parcel.close_all([memfd for memfd in spilled.values() if memfd is not None])
            new_writer: socket.socket | None = self._writer
            if new_writer is not None:
                new_writer.close()
            self._writer, self._messages = old_writer, old_messages
            raise
        for key, memfd in spilled.items():
            entry = self.entries[key]
            parcel.close_all(entry.spilled)
            entry.spilled = [] if memfd is None else [memfd]
        for name in old_segments:
            self._drop_segment(name)
        if old_writer is not None:
            old_writer.close()

    def _drop_segment(self, name: str) -> None:
        self._service.unstore(name)
        self._segments.pop(name).close()

    def _apply(self, message: parcel.Record, fds: list[int]) -> None:
        key, names = message["k"], message.get("fds", [])
        if message.get("gone"):
            entry = self.entries.pop(key, Entry())
            parcel.close_all([*fds, *entry.fds.values()])
            return
        if len(names) != len(fds):
            log.error("record of %s came with %d descriptors instead of %d; dropped", key, len(fds), len(names))
            parcel.close_all(fds)
            return
        entry = self.entries.setdefault(key, Entry())
        entry.fields.update(message["set"])
        for name, fd in zip(names, fds, strict=True):
            if name in entry.fds:
                os.close(entry.fds[name])
            entry.fds[name] = fd


def rebuilt(kind: type[T], recorded: Mapping[str, Any]) -> T:
    """An instance of a dataclass from its recorded fields. Raises TypeError where one that it needs is missing.

    Fields that a later version has added are left out; the entry keeps them, so that they are there again after an upgrade.
    """
    return kind(**{each.name: recorded[each.name] for each in fields(kind) if each.name in recorded})


def _number(name: str) -> int:
    return int(name.partition("-")[2])


def _messages_of(name: str, reader: socket.socket) -> Iterator[tuple[parcel.Record, list[int]]]:
    """All messages of a segment, left where they are: SO_PEEK_OFF moves a peek along (Linux 3.4)."""
    reader.setblocking(False)
    reader.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)
    while True:
        try:
            data, fds = parcel.receive(reader, socket.MSG_PEEK)
        except BlockingIOError:
            return
        if not data:
            return
        try:
            message = parcel.unpack(data, fds)
            if message and not _understood(message):
                raise ValueError(f"not understood: {str(message)[:200]}")
        except (ValueError, OSError) as error:
            log.error("a damaged record in %s was dropped: %s", name, error)
            message = {}
        if message:
            yield message, fds
        else:
            parcel.close_all(fds)


def _understood(message: parcel.Record) -> bool:
    """Whether this papad can read the message: of this version or an earlier one, and whole."""
    version, key = message.get("v"), message.get("k")
    names = message.get("fds", [])
    whole = message.get("gone") is True or isinstance(message.get("set"), dict)
    whole = whole and isinstance(names, list) and all(isinstance(name, str) for name in names)
    return isinstance(version, int) and version <= VERSION and isinstance(key, str) and whole
