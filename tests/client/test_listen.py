"""Programs made for socket activation run unchanged on papad's sockets: gunicorn, and one in C."""

from __future__ import annotations

import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from papad import Papa
from tests.original.venv import cached_venv
from tests.unit.support import Daemon, wait_until

APPLICATION = """import os
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getppid()]
"""

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


def test_gunicorn_serves_and_is_replaced_without_a_refusal(papad: Daemon, tmp_path: Path) -> None:
    venv = cached_venv("gunicorn-23", ["gunicorn==23.0.0"])
    (tmp_path / "app.py").write_text(APPLICATION)
    command = ("-m", "gunicorn", "--workers", "1", "--pythonpath", str(tmp_path), "app:application")
    with Papa(papad.path) as p:
        port = p.make_socket("web", backlog=128)["port"]
        old = p.make_process("web.1", str(venv / "bin/python"), command, listen=["web"])["pid"]
        assert get(port) == old
        new = p.make_process("web.2", str(venv / "bin/python"), command, listen=["web"])["pid"]
        wait_until(lambda: get(port) == new, "the newer serves, too")
        subprocess.run(["kill", "-TERM", str(old)], check=True)  # gunicorn finishes what it has begun
        answers = []
        while p.list_processes("web.1")["web.1"]["running"]:
            answers.append(get(port))
        answers += [get(port) for _ in range(20)]
        assert set(answers[-20:]) == {new}
        subprocess.run(["kill", "-TERM", str(new)], check=True)
        wait_until(lambda: not p.list_processes("web.2")["web.2"]["running"], "it has ended")


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
