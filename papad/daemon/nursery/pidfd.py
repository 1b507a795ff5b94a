"""Pidfds tell the exit, and its code, of a process whose nursery is gone. See pidfd_open(2)."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct

from papad.daemon.nursery.proc import start_ticks

_GET_INFO = 0xC040FF0B  # PIDFD_GET_INFO, Linux 6.13
_INFO_EXIT = 8  # PIDFD_INFO_EXIT, Linux 6.15


def opened(pid: int, ticks: int) -> int:
    """Return a pidfd of the process that began at `ticks` (proc.start_ticks), which is the caller's.

    -1 if there is none any more, although another may have its pid.
    """
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return -1
    if start_ticks(pid) == ticks:
        return fd
    os.close(fd)
    return -1


def reaped(pidfd: int) -> bool:
    """Return whether the process was reaped, after which the result of `exit_code` is final."""
    poll = select.poll()
    poll.register(pidfd, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def exit_code(pidfd: int) -> int | None:
    """Return the exit code of a reaped process, or None if the kernel cannot tell.

    The code is the negative signal number if a signal killed it. The pidfd must have been opened
    before the process was reaped. Raises OSError if the descriptor is not a pidfd.
    """
    try:
        answer = fcntl.ioctl(pidfd, _GET_INFO, struct.pack("=Q56x", _INFO_EXIT))
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL, errno.ESRCH):
            return None
        raise
    mask, status = struct.unpack("=Q52xi", answer)
    return os.waitstatus_to_exitcode(status) if mask & _INFO_EXIT else None
