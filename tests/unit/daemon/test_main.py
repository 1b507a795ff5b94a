"""papad as a program: what it may listen on, how it is ended, with what exit status."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from papad.daemon.main import EXIT_CONFIG
from tests.support.papad import REPOSITORY, Daemon, Talk, running_papad


def papad(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "papad.daemon.main", *args]
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env={"PATH": os.defpath, **env},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_control_sockets_that_cannot_work_end_it_with_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        (tmp_path / "file").write_text("precious")
        for args in (("-p", port), ("-p", "70000"), ("-u", str(tmp_path / "file")), ("-u", "/no/such/dir/x")):
            done = papad(*args)
            assert done.returncode == EXIT_CONFIG
            assert done.stderr.startswith("papad: CRITICAL: ")
            assert done.stderr.count("\n") == 1
    assert (tmp_path / "file").read_text() == "precious"


def test_a_path_that_another_papad_serves_is_left_to_it(tmp_path: Path) -> None:
    with running_papad(tmp_path) as first:
        first.ask("set a here")
        assert papad("-u", first.path).returncode == EXIT_CONFIG
        assert first.ask("get a") == "here"


def test_sigterm_ends_it_well_and_takes_its_path_along(tmp_path: Path) -> None:
    with running_papad(tmp_path) as first:
        path = first.path
        assert os.path.exists(path)
    assert not os.path.exists(path)
    assert first.popen.returncode == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_passed_socket_that_the_world_can_reach_is_refused(host: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.bind((host, 0))
        listener.listen()
        done = passing(listener)
    assert done.returncode == EXIT_CONFIG
    assert "refusing to be reachable at" in done.stderr


def test_a_passed_socket_that_does_not_listen_is_refused() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        done = passing(other)
    assert done.returncode == EXIT_CONFIG
    assert "not a listening stream socket" in done.stderr


def passing(sock: socket.socket) -> subprocess.CompletedProcess[str]:
    """Start papad as systemd would, with the socket as descriptor 3."""
    script = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
        "os.execv(sys.executable, [sys.executable, '-m', 'papad.daemon.main'])"
    )
    return subprocess.run(
        [sys.executable, "-c", script, str(sock.fileno())],
        cwd=REPOSITORY, env={"PATH": os.defpath, "LISTEN_FDS": "1"}, pass_fds=[sock.fileno()],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip


def test_exit_if_idle_ends_it_when_the_last_client_has_gone_and_only_then(tmp_path: Path) -> None:
    with contextlib.suppress(AssertionError), running_papad(tmp_path) as daemon:
        with daemon.connect() as other, daemon.connect() as talk:
            assert other.ask("set a 1") == ""
            assert talk.ask("exit-if-idle") == "not idle"
            assert other.ask("set a") == ""
            talk.send("exit-if-idle\n")
            assert talk.rest() == b"Exiting papa!\n> "
            assert other.ask("get a") == ""
        assert daemon.popen.wait(10) == 0
        returned = daemon.popen.returncode
    assert returned == 0


def test_under_a_service_manager_what_cannot_be_served_is_left_out_and_the_rest_is_served(tmp_path: Path) -> None:
    """A later papad may have stored something that this one does not know."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, socket.socket(socket.AF_UNIX) as good:
        manager.bind(str(tmp_path / "notify"))
        good.bind(str(tmp_path / "s"))
        good.listen()
        other = os.memfd_create("later")
        script = (
            "import fcntl, os, sys; fds = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 50) for fd in sys.argv[1:]];"
            "[os.dup2(fd, 3 + i) for i, fd in enumerate(fds)];"
            "os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.executable, [sys.executable, '-m', 'papad.daemon.main'])"
        )
        environ = {"PATH": str(tmp_path), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "later-thing:papad.socket"}
        environ |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "RUNTIME_DIRECTORY": str(tmp_path)}
        fds = [other, good.fileno()]
        popen = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, fds)], cwd=REPOSITORY, env=environ, pass_fds=fds
        )
        os.close(other)
        try:
            with Talk(str(tmp_path / "s")) as talk:
                assert talk.ask("get a") == ""
        finally:
            popen.terminate()
            assert popen.wait(20) == 0
        said = b""
        manager.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while more := manager.recv(4096):
                said += more + b"\n"
        assert b"READY=1" in said
        assert b"FDSTOREREMOVE=1\nFDNAME=later-thing" not in said


def test_memory_for_batches_is_not_taken_from_linux_and_given_back_each_time(own_papad: Daemon) -> None:
    def faults() -> int:
        return int(Path(f"/proc/{own_papad.pid}/stat").read_text().rpartition(")")[2].split()[7])

    with own_papad.connect() as talk:
        before = faults()
        own_papad.ask("make process zeros /usr/bin/head -c 300000000 /dev/zero")
        assert talk.ask_line("watch processes zeros") == "Watching 1"
        size = sum(len(data) for kind, _, data in talk.watch_to_end() if isinstance(data, bytes) and kind == "out")
    assert size > 1 << 20
    assert (faults() - before) / (size / (1 << 20)) < 100  # pages are taken as the heap grows; it was 900
