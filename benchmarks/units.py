"""systemd asked for units as systemd-run does, by libsystemd (sd-bus(3)) and without a program to be started; root only."""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Iterator
from typing import Self

PID_1 = b"unix:path=/run/systemd/private"
MANAGER = b"org.freedesktop.systemd1.Manager"
ENOUGH = 60_000_000  # µs


class Units:
    """A connection to PID 1. Use as a context manager. Raises OSError for what sd-bus refuses."""

    def __init__(self) -> None:
        self._sd = ctypes.CDLL("libsystemd.so.0")
        self._bus = ctypes.c_void_p()
        self._must(self._sd.sd_bus_new(ctypes.byref(self._bus)))
        self._must(self._sd.sd_bus_set_address(self._bus, PID_1))
        self._must(self._sd.sd_bus_start(self._bus))
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sd.sd_bus_flush_close_unref(self._bus)

    def start(self, name: str, *words: str) -> None:
        """Start a transient service NAME-NUMBER that runs these words; returns once it has executed them."""
        command = [word.encode() for word in words]
        # Types of arguments as in sd_bus_message_append(3): an array begins with its count.
        exec_start = (b"ExecStart", b"a(sasb)", 1, command[0], len(command), *command, 0)
        exec_type = (b"Type", b"s", b"exec")
        unit = f"{name}-{next(self._numbers)}.service".encode()
        arguments = (b"ssa(sv)a(sa(sv))", unit, b"fail", 2, *exec_type, *exec_start, 0)
        reply, job = ctypes.c_void_p(), ctypes.c_char_p()
        where = (None, b"/org/freedesktop/systemd1", MANAGER, b"StartTransientUnit")
        self._must(self._sd.sd_bus_call_method(self._bus, *where, None, ctypes.byref(reply), *arguments))
        self._must(self._sd.sd_bus_message_read(reply, b"o", ctypes.byref(job)))
        result = next(result for path, result in self._jobs() if path == job.value)
        self._sd.sd_bus_message_unref(reply)
        assert result == b"done", (unit, result)

    def _jobs(self) -> Iterator[tuple[bytes | None, bytes | None]]:
        """Each job that has come to its end, and how."""
        while True:
            message = ctypes.c_void_p()
            went_on = self._must(self._sd.sd_bus_process(self._bus, ctypes.byref(message)))
            if message.value and self._sd.sd_bus_message_is_signal(message, MANAGER, b"JobRemoved"):
                number, path, unit, result = ctypes.c_uint32(), *(ctypes.c_char_p() for _ in range(3))
                fields = map(ctypes.byref, (number, path, unit, result))
                self._must(self._sd.sd_bus_message_read(message, b"uoss", *fields))
                yield path.value, result.value
            self._sd.sd_bus_message_unref(message)
            if not went_on:
                self._must(self._sd.sd_bus_wait(self._bus, ctypes.c_uint64(ENOUGH)))

    def _must(self, result: int) -> int:
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result
