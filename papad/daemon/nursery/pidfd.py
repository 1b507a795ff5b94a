"""Pidfds: how a process of a nursery that is no more is known to have ended, and with what code. See pidfd_open(2)."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct

_GET_INFO = 0xC040FF0B  # PIDFD_GET_INFO, Linux 6.13
_INFO_EXIT = 8  # PIDFD_INFO_EXIT, Linux 6.15


def reaped(pidfd: int) -> bool:
    """Whether the process has ended and its parent has taken note: from then on `exit_code` has its last word."""
    poll = select.poll()
    poll.register(pidfd, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def exit_code(pidfd: int) -> int | None:
    """The exit code of a reaped process, minus the signal if one killed it; None where the kernel cannot tell.

    The pidfd must have been opened before the process was reaped. Raises OSError for what is no pidfd.
    """
    try:
        answer = fcntl.ioctl(pidfd, _GET_INFO, struct.pack("=Q56x", _INFO_EXIT))
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL, errno.ESRCH):
            return None
        raise
    mask, status = struct.unpack("=Q52xi", answer)
    return os.waitstatus_to_exitcode(status) if mask & _INFO_EXIT else None
