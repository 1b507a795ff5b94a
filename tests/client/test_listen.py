"""A program in C made for socket activation runs unchanged on one of papad's sockets. tests/system/test_listen.py has more."""

from __future__ import annotations

import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from papad import Papa
from tests.support.papad import Daemon
from tests.support.waiting import wait_until

C_PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* What sd_listen_fds(3) does, without libsystemd. */
int main(void) {
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
    if (!pid || !fds || atoi(pid) != getpid() || atoi(fds) != 1) return 2;
    for (;;) {
        char request[4096], answer[128];
        int connection = accept(3, NULL, NULL);
        if (connection < 0) return 3;
        if (read(connection, request, sizeof request) > 0) {
            int body = snprintf(NULL, 0, "%d", getpid());
            int size = snprintf(answer, sizeof answer, "HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%d", body, getpid());
            write(connection, answer, size);
        }
        close(connection);
    }
}
"""


def get(port: int) -> int:
    """The pid of who serves."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
        return int(answer.read())


def test_a_program_in_c_serves(papad: Daemon, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source, program = tmp_path / "serve.c", tmp_path / "serve"
    source.write_text(C_PROGRAM)
    subprocess.run([compiler, "-o", str(program), str(source)], check=True, capture_output=True)
    with Papa(papad.path) as p:
        port = p.make_socket("web")["port"]
        pid = p.make_process("c", str(program), listen=["web"])["pid"]
        assert get(port) == pid
        subprocess.run(["kill", str(pid)], check=True)
        wait_until(lambda: not p.list_processes("c")["c"]["running"], "it has ended")
