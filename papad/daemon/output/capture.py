"""Move every byte from a process's pipe into its ring exactly once, even across SIGKILL.

All output passes through one staging pipe. Both ends of it have their two homes, and the turn, in
the header of the store, records whose bytes the staging pipe holds. A capture has four steps:

1. write the turn, unless it is the same, then splice process's pipe -> staging pipe (moves pages,
   copies nothing)
2. stage the ring: record where the bytes will end
3. splice staging pipe -> ring (the only copy)
4. commit the ring

If the daemon is killed at any point, the next one finds in the staging pipe the bytes that have
left the process's pipe but not reached the ring, and continues from there. Only the daemon writes
to the staging pipe, and it is empty between captures.
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
from papad.daemon.durable.homes import Homes
from papad.daemon.durable.store import TURN_OFFSET, Store
from papad.daemon.output.ring import Ring

log = logging.getLogger("papad")

_TURN = struct.Struct("=QQ8xQ")  # process id, stream, given_up: see `_turn`
_STAGING_SIZE = 1 << 20
_BUSY = 64 * 1024  # bytes in one capture after which the process gets a larger pipe
_STAGING = ("staging-r", "staging-w")  # names in the homes
_NOWAIT = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE


class Capture:
    """Capture output through the staging pipe, which outlives the daemon as the store does."""

    # A byte is always in exactly one place that outlives the daemon: the process's pipe, the
    # staging pipe, or the ring. Each step prepares what recovery needs if the next one is
    # interrupted. `finish` continues after a SIGKILL:
    #
    # - After the turn is written, before the first splice: the staging pipe is empty and the ring
    #   is not staged. Nothing has moved, and nothing is left to do. The turn comes first because
    #   bytes in the staging pipe do not say whose they are. It stays as it is until those of another
    #   process or stream are to come, and is written while the staging pipe is empty.
    # - After the first splice, before the ring is staged: the staging pipe holds all the bytes. The
    #   turn tells process and stream, so the ring is staged as it would have been, but for the time,
    #   which is that of the recovery.
    # - During the second splice: the staging pipe holds the bytes that are still to be copied. The
    #   staged state says where the last of them belongs, and so where the next one does. This is
    #   why the ring is staged before the copy: a count of bytes alone would not tell how many had
    #   arrived. The copy overwrites the oldest data, so a staged ring must not be read.
    # - After the second splice, before the commit: the staging pipe is empty, and the ring is still
    #   staged. Only the commit is missing.
    # - After the commit: the staging pipe is empty and the ring is not staged. The capture is done.
    #
    # If there is no memory to stage or to copy, what could not be copied is lost, and the turn is
    # marked before anything is discarded. Otherwise a SIGKILL after the ring was committed but before
    # the staging pipe was empty would look like the second case, and the rest of the bytes would be
    # captured although they were counted as lost. The mark tells how many are lost then, so they are
    # counted once; it is removed at the end, because an acknowledgement may change their number.
    #
    # One thread captures for one process at a time, and completes each capture before it does
    # anything else, so one staging pipe and one turn serve all processes.

    def __init__(self, homes: Homes, store: Store) -> None:
        self._store = store
        self._current: tuple[int, int] | None = None  # process and stream of the turn, once it is known
        # The staging pipe is read from _out and written to _in; _null is where output is discarded.
        self._null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        if all(name in homes for name in _STAGING):
            self._out, self._in = (homes.take(name) for name in _STAGING)
            self._is_new = False
            return
        self._is_new = True
        # Incomplete only if an earlier daemon was killed before its first capture, or both homes.
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Beyond the user's soft limit for pipes, the pipe stays small and captures take more steps.
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, _STAGING_SIZE)
        for name, fd in zip(_STAGING, (self._out, self._in), strict=True):
            homes.discard(name)
            homes.hold(name, fd)

    def _turn(self, owner: int, stream: int, given_up: int = 0) -> None:
        """Write the turn. `given_up` is what the ring has lost when the staged bytes are, or 0."""
        parcel.write_all(self._store.fd, _TURN.pack(owner, stream, given_up), TURN_OFFSET)
        self._current = None if given_up else (owner, stream)

    def finish(self, ring_of: Callable[[int], Ring | None]) -> None:
        """Complete the capture during which an earlier daemon was killed, if any.

        `ring_of` returns the ring of a process id.
        """
        owner, stream, given_up = _TURN.unpack(os.pread(self._store.fd, _TURN.size, TURN_OFFSET))
        ring = ring_of(owner)
        staged = self._staged()
        if self._is_new and ring is not None and ring.staged:  # only the pipe could tell how much had arrived
            ring.abandon()
        elif ring is None or given_up:
            self._give_up(ring, staged, given_up)
        elif staged or ring.staged:
            self._fill(ring, staged, owner, stream)

    def pump(self, pipe: int, ring: Ring, owner: int, stream: int) -> int:
        """Move the contents of `pipe` into `ring`; return the number of bytes, 0 at end of file.

        Raises BlockingIOError if the pipe is empty but still has a writer.
        """
        if self._current != (owner, stream):
            self._turn(owner, stream)
        most = min(_STAGING_SIZE, -(-ring.capacity // 2))  # so that a line before it is there to the end
        size = os.splice(pipe, self._in, most, flags=_NOWAIT)
        if size:
            self._fill(ring, size, owner, stream)
        if size >= _BUSY and fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) < _STAGING_SIZE:
            with contextlib.suppress(OSError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _STAGING_SIZE)
        return size

    def drain(self, pipe: int) -> int:
        """Discard the contents of `pipe`; return the number of bytes, 0 at end of file.

        Raises BlockingIOError under the same conditions as pump.
        """
        return os.splice(pipe, self._null, _STAGING_SIZE, flags=_NOWAIT)

    def _staged(self) -> int:
        return int.from_bytes(fcntl.ioctl(self._out, termios.FIONREAD, bytes(4)), sys.byteorder)

    def _fill(self, ring: Ring, left: int, owner: int, stream: int) -> None:
        """Stage the ring, unless it is staged; copy the last `left` staged bytes, and commit it."""
        try:
            if ring.staged is None:
                ring.stage(left, stream, time.time_ns())
            assert ring.staged is not None
            while left:
                offset, room = ring.place(ring.staged.tail - left)
                left -= os.splice(self._out, ring.fd, min(left, room), offset_dst=offset, flags=_NOWAIT)
        except OSError as error:
            log.error("cannot keep %d bytes of output: %s", left, error.strerror)
            given_up = (ring.staged or ring.state).lost + left
            self._turn(owner, 0, given_up)
            self._give_up(ring, left, given_up)
        else:
            ring.commit()

    def _give_up(self, ring: Ring | None, left: int, given_up: int) -> None:
        """Count the last `left` staged bytes as lost, unless they are, and empty the staging pipe."""
        if ring is not None and ring.staged:
            ring.commit(missing=left)
        elif ring is not None and ring.state.lost < given_up:
            ring.lose(given_up - ring.state.lost)
        while left:
            left -= os.splice(self._out, self._null, left, flags=_NOWAIT)
        self._turn(0, 0)
