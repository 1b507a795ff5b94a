"""What /proc tells: when a process began, and pipes that are opened anew because nobody else gives them back."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from papad.daemon.nursery.proc import Pipes, start_ticks
from tests.support.papad import no_new_fds
from tests.support.waiting import wait_until

Start = Callable[[int], subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a shell whose standard output is the given descriptor; `do` tells it what to do."""
    shells: list[subprocess.Popen[bytes]] = []

    def started(stdout: int) -> subprocess.Popen[bytes]:
        shells.append(subprocess.Popen(["/bin/sh"], stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.DEVNULL))
        return shells[-1]

    yield started
    for shell in shells:
        shell.kill()
        shell.communicate()


def do(shell: subprocess.Popen[bytes], command: str) -> None:
    """Return once the shell has done it."""
    assert shell.stdin is not None
    reader, writer = os.pipe()
    shell.stdin.write(f"{command}; (echo done >/proc/{os.getpid()}/fd/{writer})\n".encode())
    shell.stdin.flush()
    assert os.read(reader, 100) == b"done\n"
    os.close(reader)
    os.close(writer)


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """The inode of a new pipe, and the end for a process, which can read too, as those that papad makes.

    It is closed at the end at the latest.
    """
    reader, half = os.pipe()
    writer = os.open(f"/proc/self/fd/{half}", os.O_RDWR)
    os.close(reader)
    os.close(half)
    inode = os.fstat(writer).st_ino
    try:
        yield inode, writer
    finally:
        with contextlib.suppress(OSError):
            if os.fstat(writer).st_ino == inode:
                os.close(writer)


def taken(fd: int) -> bytes:
    """All that is in a pipe now."""
    assert fd >= 0
    try:
        return os.read(fd, 1000)
    finally:
        os.close(fd)


def test_a_process_began_before_one_that_is_started_later(start: Start) -> None:
    pid = start(subprocess.DEVNULL).pid
    ticks = start_ticks(pid)
    assert 0 < start_ticks(os.getpid()) <= ticks
    wait_until(lambda: start_ticks(start(subprocess.DEVNULL).pid) > ticks, "a process begins a tick later")
    assert start_ticks(pid) == ticks


def test_a_process_may_call_itself_what_it_likes(start: Start) -> None:
    shell = start(subprocess.DEVNULL)
    ticks = start_ticks(shell.pid)
    do(shell, "printf ') S 1 (2' >/proc/$$/comm")
    assert Path(f"/proc/{shell.pid}/comm").read_text() == ") S 1 (2\n"
    assert start_ticks(shell.pid) == ticks


def test_a_process_that_is_gone_began_never(start: Start) -> None:
    shell = start(subprocess.DEVNULL)
    shell.kill()
    shell.wait()
    assert start_ticks(shell.pid) == 0


@pytest.mark.parametrize("number", [1, 2])
def test_a_pipe_is_opened_from_the_standard_output_or_error_of_its_process(start: Start, number: int) -> None:
    with pipe() as (inode, writer):
        shell = start(writer)
        do(shell, f"exec {number}>&1 {'' if number == 1 else '>/dev/null'}")
        os.write(writer, b"before")
        os.close(writer)
        with no_new_fds():
            pipes = Pipes()
            fd = pipes.open(inode, shell.pid)
            do(shell, f"printf ' and after' >&{number}")
            assert taken(fd) == b"before and after"
            assert pipes._all is None, "nobody else was asked"


def test_a_pipe_is_opened_from_another_process_that_has_it(start: Start) -> None:
    """As when the process itself has ended, and a child of it writes on."""
    with pipe() as (inode, writer):
        other = start(writer)
        do(other, "exec 7>&1 >/dev/null")
        shell = start(subprocess.DEVNULL)
        os.write(writer, b"written")
        os.close(writer)
        assert taken(Pipes().open(inode, shell.pid)) == b"written"
        shell.kill()
        shell.wait()
        do(other, "printf ' later' >&7")
        assert taken(Pipes().open(inode, shell.pid)) == b" later"


def test_a_pipe_of_a_reader_is_opened_for_reading_without_waiting(start: Start) -> None:
    with pipe() as (inode, writer):
        shell = start(writer)
        os.close(writer)
        fd = Pipes().open(inode, shell.pid)
        with pytest.raises(BlockingIOError):
            os.read(fd, 1)
        assert not os.get_inheritable(fd)
        shell.kill()
        shell.wait()
        assert os.read(fd, 1) == b""
        os.close(fd)


def test_a_pipe_that_nobody_has_is_not_opened(start: Start) -> None:
    with pipe() as (inode, writer):
        shell = start(writer)
        do(shell, "exec >/dev/null")
        with no_new_fds():
            assert Pipes().open(inode, shell.pid) == -1, "our own is no end of a process"
            assert Pipes().open(inode, 1 << 22) == -1


def test_another_pipe_that_has_taken_its_place_is_not_opened(start: Start, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pipe() as (inode, writer):
        other = start(writer)
        do(other, "exec 7>&1 >/dev/null")
        os.close(writer)
        pipes = Pipes()
        assert pipes.open(1, os.getpid()) == -1  # now it has looked at all descriptors
        os.close(pipes.open(inode, os.getpid()))
        do(other, f"exec 7<>{tmp_path}/fifo")
        with no_new_fds():
            assert pipes.open(inode, os.getpid()) == -1
