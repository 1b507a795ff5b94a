"""The vault: entries and their descriptors, which outlive the daemon as messages in a socket.

A segment is a datagram socketpair whose read end is in the FD store. Appending is one sendmsg:
message and descriptors arrive together or not at all. Messages are never consumed; a later message
for the same key amends the entry or erases it. At its start, the daemon peeks at all messages, then
writes the live entries to a new segment.

A message is {"v": 1, "k": key, "set": {field: value}, "fds": [name, …]} or
{"v": 1, "k": key, "gone": true}. Segments are read in the order of their numbers, so a later
message is always read later.
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
SO_PEEK_OFF = 42  # socket(7); missing from Python's socket module
_SEGMENT_BYTES = 1 << 30
_SLACK = 512  # this many dead messages are not worth a compaction


@dataclass
class Entry:
    """What the vault knows under one key. Its descriptors belong to the table that wrote them."""

    fields: dict[str, Any] = field(default_factory=dict)
    fds: dict[str, int] = field(default_factory=dict)
    spilled: list[int] = field(default_factory=list)  # memfds of its large messages

    def empty(self) -> None:
        """Free the memory of large messages that are superseded but still in the log."""
        for memfd in self.spilled:
            os.ftruncate(memfd, 0)
            os.close(memfd)
        self.spilled.clear()


class Vault:
    """All entries by key. Each change is in kernel memory before the call that makes it returns."""

    # What the FD store holds can be read back at any instant, because each step leaves a log that
    # means either the state before it or the state after it:
    #
    # - A segment is stored before its first message is sent. A SIGKILL in between leaves an empty
    #   segment, which means nothing. In the other order, messages could be sent that die with us.
    # - `write` and `erase` first send their message, then change `entries`. A SIGKILL in between is
    #   a change that nobody was told of; the next daemon makes it when it reads the message. In the
    #   other order, the daemon could act on something that its successor does not know. If sending
    #   fails, nothing has changed.
    # - The memfd of a large message is emptied only after the message that supersedes it is sent.
    #   An emptied message is skipped when the log is read, so a SIGKILL before that only leaves
    #   memory in use until the next compaction.
    # - `compact` sends all live entries to a new segment, and drops the old ones after that. A
    #   SIGKILL in between leaves the old ones and all or part of the new one. Reading the same
    #   fields again changes nothing, and the second copy of a descriptor replaces the first. Old
    #   segments have lower numbers, so what they erased stays erased.

    def __init__(self, service: Service) -> None:
        self._service = service
        self._segments: dict[str, socket.socket] = {}  # FDNAME -> read end
        self._writer: socket.socket | None = None  # write end of the newest segment
        self._messages = 0  # sent since the last compaction, live or dead
        self.entries: dict[str, Entry] = {}
        """All live entries by key. Read it freely, but change it only through the methods."""

    def recover(self) -> None:
        """Read the segments that an earlier daemon left in the FD store, and compact them."""
        for name in sorted((name for name in self._service.stored if name.startswith("vault-")), key=_number):
            try:
                reader = self._service.take_socket(name)
            except OSError as error:
                log.error("dropping stored descriptor %s: %s", name, error.strerror)
                continue
            self._segments[name] = reader
            for message, fds in _messages_of(name, reader):
                self._apply(message, fds)
        if self._service.managed:
            self._try_to_compact()

    def write(self, key: str, fields: Mapping[str, Any], fds: Mapping[str, int] | None = None) -> None:
        """Set fields and add descriptors under `key`.

        The descriptors stay the caller's, who keeps them open until `withdraw` or `erase`. Raises
        OSError or Error if there is no room; then nothing has changed.
        """
        fds = fds or {}
        spilled = self._append({"k": key, "set": dict(fields), "fds": list(fds)}, list(fds.values()))
        entry = self.entries.setdefault(key, Entry())
        if fields.keys() >= entry.fields.keys() and not entry.fds:  # supersedes earlier messages
            entry.empty()
        entry.fields.update(fields)
        entry.fds.update(fds)
        if spilled is not None:
            entry.spilled.append(spilled)
        self._compact_if_worth_it()

    def withdraw(self, key: str, name: str) -> None:
        """Stop keeping the descriptor `name`, which the caller is about to close.

        The next start may still find it, at end of file.
        """
        if key in self.entries:
            self.entries[key].fds.pop(name, None)

    def erase(self, key: str) -> None:
        """Erase the entry `key`; the caller closes its descriptors.

        Raises OSError or Error if there is no room for the message.
        """
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
        """Open a segment and store its read end before anything relies on it."""
        reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        writer.setblocking(False)
        # socket(7). It needs CAP_NET_ADMIN; without it there are several small segments.
        so_sndbufforce = 32
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
            log.warning("cannot compact the vault; continuing with it as it is: %s", error)

    def compact(self) -> None:
        """Write the live entries to a new segment, and only then drop the old segments.

        Raises OSError or Error on failure; then the old segments still hold everything.
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
            log.error("dropping a message for %s with %d descriptors instead of %d", key, len(fds), len(names))
            parcel.close_all(fds)
            return
        entry = self.entries.setdefault(key, Entry())
        entry.fields.update(message["set"])
        for name, fd in zip(names, fds, strict=True):
            if name in entry.fds:
                os.close(entry.fds[name])
            entry.fds[name] = fd


def rebuilt(kind: type[T], recorded: Mapping[str, Any]) -> T:
    """Return a dataclass instance made from recorded fields. Raises TypeError if one is missing.

    Fields that a later version has added are ignored. The entry keeps them, so they are there again
    after an upgrade.
    """
    return kind(**{each.name: recorded[each.name] for each in fields(kind) if each.name in recorded})


def _number(name: str) -> int:
    return int(name.partition("-")[2])


def _messages_of(name: str, reader: socket.socket) -> Iterator[tuple[parcel.Record, list[int]]]:
    """Yield all messages of a segment without consuming them: SO_PEEK_OFF advances (Linux 3.4)."""
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
            log.error("dropping a damaged message in %s: %s", name, error)
            message = {}
        if message:
            yield message, fds
        else:
            parcel.close_all(fds)


def _understood(message: parcel.Record) -> bool:
    """Return whether the message is complete, and of this version or an earlier one."""
    version, key = message.get("v"), message.get("k")
    names = message.get("fds", [])
    whole = message.get("gone") is True or isinstance(message.get("set"), dict)
    whole = whole and isinstance(names, list) and all(isinstance(name, str) for name in names)
    return isinstance(version, int) and version <= VERSION and isinstance(key, str) and whole
