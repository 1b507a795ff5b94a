"""Exactly-once capture: the way of every byte from a child's pipe into its ring.

All output passes one staging pipe, which is in the FD store beside a small memfd, the turn, that says whose bytes are in it:

1. the turn says whose bytes come next; splice child's pipe -> staging pipe (pages move, nothing is copied)
2. the ring is staged: it says where the bytes will end
3. splice staging pipe -> ring (the one copy)
4. the ring commits

Killed anywhere, the next papad finds in the staging pipe what had left the child's pipe and not yet reached the ring, and goes
on from there. Only papad writes to the staging pipe, and it is empty between two captures.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
import sys
import termios
import time
from collections.abc import Callable

from papad.daemon.durable import parcel
from papad.daemon.durable.systemd import Service
from papad.daemon.output.ring import Ring

log = logging.getLogger("papad")

_TURN = struct.Struct("=QQQQ")  # process id, stream, time in ns, whether what is staged is given up
_STAGING_SIZE = 1 << 20
_BUSY = 64 * 1024
_NOWAIT = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE


class Capture:
    """The staging pipe and the turn; both are in the FD store."""

    def __init__(self, service: Service) -> None:
        self._null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        names = [name for name in ("staging-r", "staging-w", "turn") if name in service.stored]
        if len(names) == 3:
            self._out, self._in, self._turn = (service.stored.pop(name) for name in names)
            return
        service.discard(names)  # killed while it stored the three: nothing was captured yet
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._turn = os.memfd_create("papad-turn", os.MFD_CLOEXEC)
        with contextlib.suppress(PermissionError):  # over the user's soft limit for pipes: smaller steps then
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, _STAGING_SIZE)
        for name, fd in (("staging-r", self._out), ("staging-w", self._in), ("turn", self._turn)):
            service.store(name, fd)

    def finish(self, ring_of: Callable[[int], Ring | None]) -> None:
        """Complete the capture in which an earlier papad was killed, if it was. `ring_of` gives the ring of a process id."""
        data = os.pread(self._turn, _TURN.size, 0)
        if len(data) < _TURN.size:
            return
        owner, stream, time_ns, given_up = _TURN.unpack(data)
        ring = ring_of(owner)
        staged = self._staged()
        if ring is None or given_up:
            self._give_up(ring, staged)
        elif staged or ring.staged:
            if ring.staged is None:
                ring.stage(staged, stream, time_ns)
            self._fill(ring, staged, owner)

    def pump(self, pipe: int, ring: Ring, owner: int, stream: int) -> int:
        """Move what `pipe` holds into `ring`; returns the bytes moved, 0 at end of file.

        Raises BlockingIOError when the pipe is empty but still open somewhere.
        """
        time_ns = time.time_ns()
        parcel.write_all(self._turn, _TURN.pack(owner, stream, time_ns, 0))
        size = os.splice(pipe, self._in, min(_STAGING_SIZE, ring.capacity), flags=_NOWAIT)
        if size:
            ring.stage(size, stream, time_ns)
            self._fill(ring, size, owner)
        if size >= _BUSY:
            with contextlib.suppress(OSError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _STAGING_SIZE)
        return size

    def drain(self, pipe: int) -> int:
        """Throw away what `pipe` holds; returns the bytes, 0 at end of file. Raises BlockingIOError as pump does."""
        return os.splice(pipe, self._null, _STAGING_SIZE, flags=_NOWAIT)

    def _staged(self) -> int:
        return int.from_bytes(fcntl.ioctl(self._out, termios.FIONREAD, bytes(4)), sys.byteorder)

    def _fill(self, ring: Ring, left: int, owner: int) -> None:
        """Copy the last `left` staged bytes into the ring, and commit."""
        assert ring.staged is not None
        try:
            while left:
                offset, room = ring.place(ring.staged.tail - left)
                left -= os.splice(self._out, ring.fd, min(left, room), offset_dst=offset, flags=_NOWAIT)
        except OSError as error:
            log.error("output of %d bytes could not be kept: %s", left, error.strerror)
            parcel.write_all(self._turn, _TURN.pack(owner, 0, 0, 1))
            self._give_up(ring, left)
        else:
            ring.commit()

    def _give_up(self, ring: Ring | None, left: int) -> None:
        """Count what is staged as lost, and empty the staging pipe."""
        if ring is not None and ring.staged:
            ring.abandon()
        while left:
            left -= os.splice(self._out, self._null, left, flags=_NOWAIT)
