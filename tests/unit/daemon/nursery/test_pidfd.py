"""What a pidfd tells of processes that are not our children: which they are, that they are reaped, how they ended."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator

import pytest

from papad.daemon.nursery import pidfd, proc
from tests.support.papad import no_new_fds
from tests.support.waiting import wait_until


class Child:
    """A child that waits to be told its end; the pidfd is opened while it lives."""

    def __init__(self) -> None:
        reader, self.tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(ord(os.read(reader, 1)))
        os.close(reader)
        self.fd = os.pidfd_open(self.pid)
        self.reaped = False

    def reap(self) -> None:
        os.waitpid(self.pid, 0)
        self.reaped = True

    def dead(self) -> bool:
        return bool(select.select([self.fd], [], [], 0)[0])


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child()
    yield made
    if not made.reaped:
        os.kill(made.pid, signal.SIGKILL)
        os.waitpid(made.pid, 0)
    os.close(made.tell)
    os.close(made.fd)


def kernel_keeps_exit_codes() -> bool:
    made = Child()
    os.kill(made.pid, signal.SIGKILL)
    made.reap()
    known = pidfd.exit_code(made.fd) is not None
    os.close(made.tell)
    os.close(made.fd)
    return known


needs_codes = pytest.mark.skipif(not kernel_keeps_exit_codes(), reason="the kernel has no PIDFD_INFO_EXIT (Linux 6.15)")


@needs_codes
@pytest.mark.parametrize("code", [0, 1, 127, 255])
def test_the_exit_code_is_known_once_it_is_reaped(child: Child, code: int) -> None:
    os.write(child.tell, bytes([code]))
    wait_until(child.dead, "the child has ended")
    assert not pidfd.reaped(child.fd)
    assert pidfd.exit_code(child.fd) is None
    child.reap()
    assert pidfd.reaped(child.fd)
    assert pidfd.exit_code(child.fd) == code


@needs_codes
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_a_negative_code(child: Child, number: signal.Signals) -> None:
    os.kill(child.pid, number)
    child.reap()
    assert pidfd.exit_code(child.fd) == -number


def test_of_a_running_process_nothing_is_told(child: Child) -> None:
    assert not pidfd.reaped(child.fd)
    assert pidfd.exit_code(child.fd) is None


def test_what_is_no_pidfd_is_unknown() -> None:
    fd = os.memfd_create("test")
    assert pidfd.exit_code(fd) is None
    os.close(fd)
    with pytest.raises(OSError, match="Bad file"):
        pidfd.exit_code(fd)


@pytest.mark.parametrize("error", [25, 22, 3])
def test_a_kernel_that_cannot_tell_is_no_failure(child: Child, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(error, os.strerror(error))

    os.write(child.tell, b"\0")
    child.reap()
    monkeypatch.setattr(pidfd.fcntl, "ioctl", refuse)
    assert pidfd.exit_code(child.fd) is None


def test_a_process_is_found_again_by_its_pid_and_when_it_began(child: Child) -> None:
    fd = pidfd.opened(child.pid, proc.start_ticks(child.pid))
    signal.pidfd_send_signal(fd, signal.SIGKILL)
    os.close(fd)
    child.reap()


def test_another_process_with_the_same_pid_is_not_taken_for_it(child: Child) -> None:
    ticks = proc.start_ticks(child.pid)
    with no_new_fds():
        assert pidfd.opened(child.pid, ticks - 1) == -1
        assert pidfd.opened(child.pid, 0) == -1
        os.write(child.tell, b"\0")
        child.reap()
        assert pidfd.opened(child.pid, ticks) == -1
        assert pidfd.opened(child.pid, 0) == -1
