"""Who holds what, from the real /proc."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from papad.ctl.holders import sharers, writers


@contextmanager
def holding(fd: int, program: str = "/bin/sleep") -> Iterator[str]:
    """A child that has this descriptor and nothing else of ours, as it is to be named."""
    with subprocess.Popen([program, "60"], pass_fds=[fd], stdin=subprocess.DEVNULL) as popen:
        try:
            yield f"{os.path.basename(program)} (pid {popen.pid})"
        finally:
            popen.kill()


def test_who_can_write_into_a_pipe_is_named_and_who_reads_it_is_not() -> None:
    reader, writer = os.pipe()
    inode = os.fstat(reader).st_ino
    with holding(reader), holding(writer) as name:
        assert writers([inode]) == {inode: [name]}
    assert writers([inode]) == {inode: []}
    assert writers([]) == {}
    os.close(reader)
    os.close(writer)


def test_who_has_a_socket_is_named_but_for_those_who_are_known() -> None:
    with socket.socket() as sock:
        inode = os.fstat(sock.fileno()).st_ino
        with holding(sock.fileno()) as known, holding(sock.fileno()) as name:
            pid = int(known.removesuffix(")").rpartition(" ")[2])
            assert sharers([inode, 1], [pid]) == {inode: [name], 1: []}


def test_the_service_manager_is_not_named(tmp_path: Path) -> None:
    shutil.copy("/bin/sleep", tmp_path / "systemd")
    with socket.socket() as sock:
        inode = os.fstat(sock.fileno()).st_ino
        with holding(sock.fileno(), str(tmp_path / "systemd")), holding(sock.fileno()) as name:
            assert sharers([inode], ()) == {inode: [name]}
