"""A small service manager: papad under it does what it does under systemd, but for the scope of its nursery."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.papad import REPOSITORY
from tests.support.ports import free_port
from tests.support.waiting import wait_until

PAPAD = (sys.executable, "-m", "papad.daemon.main")
# Puts descriptors where sd_listen_fds(3) says they are.
_PASSING = """
import fcntl, os, sys
at = sys.argv.index("--")
fds, command = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 1000) for fd in sys.argv[1:at]], sys.argv[at + 1 :]
os.closerange(3, 1000)
for number, fd in enumerate(fds):
    os.dup2(fd, 3 + number)
    os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(command[0], command)
"""


class Manager:
    """What systemd is to papad: it passes the control sockets, holds descriptors, starts what has ended again."""

    def __init__(self, folder: Path, command: Sequence[str] = PAPAD, environ: Mapping[str, str] = {}) -> None:
        self._command, self._environ = command, environ
        self.path, self.port = str(folder / "papad.sock"), free_port()
        self._control = [socket.socket(socket.AF_UNIX), socket.socket()]
        for sock, address in zip(self._control, (self.path, ("127.0.0.1", self.port)), strict=True):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(128)
        self._folder = folder
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(folder / "notify"))
        self._notify.settimeout(0.02)
        self.stored: dict[str, int] = {}
        """What papad has given us to hold, by FDNAME; ours."""
        self._over = threading.Event()
        self._popen = self._start()
        self._thread = threading.Thread(target=self._manage)
        self._thread.start()

    @property
    def pid(self) -> int:
        """That of the daemon."""
        return self._popen.pid

    def _start(self) -> subprocess.Popen[bytes]:
        fds = [*(sock.fileno() for sock in self._control), *self.stored.values()]
        names = [*("papad.socket" for _ in self._control), *self.stored]
        # No PATH: there is no systemd-run for the nursery to get a scope by.
        environ = {"PATH": str(self._folder), "RUNTIME_DIRECTORY": str(self._folder)}
        environ |= {"NOTIFY_SOCKET": str(self._folder / "notify"), "PYTHONPATH": str(REPOSITORY)}
        environ |= {"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(names)}
        with open(self._folder / "log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", _PASSING, *map(str, fds), "--", *self._command],
                env=environ | self._environ,
                pass_fds=fds,
                stderr=log,
                cwd="/",
            )

    def _manage(self) -> None:
        while not self._over.is_set():
            ended = self._popen.poll() is not None
            while self._hear():
                pass
            if ended:  # and all that it has said is heard
                self._popen = self._start()

    def _hear(self) -> bool:
        """Take one notification; return whether there was one."""
        try:
            data, fds, _, _ = socket.recv_fds(self._notify, 65536, 16)
        except TimeoutError:
            return False
        said = dict(line.split("=", 1) for line in data.decode().split("\n") if "=" in line)
        name = said.get("FDNAME", "")
        if "FDSTOREREMOVE" in said and name in self.stored:
            os.close(self.stored.pop(name))
        if "FDSTORE" in said:
            assert name not in self.stored, name
            self.stored[name] = fds.pop()
        for fd in fds:  # of BARRIER=1
            os.close(fd)
        return True

    def end(self, nursery: int) -> None:
        """End papad, and its nursery, if there is one: it would go on to hold what it has."""
        self._over.set()
        self._thread.join()
        self._popen.terminate()
        assert self._popen.wait(60) == 0
        if nursery:
            os.kill(nursery, signal.SIGTERM)
            wait_until(lambda: not Path(f"/proc/{nursery}/exe").exists(), "the nursery has ended")
        for sock in (*self._control, self._notify):
            sock.close()
        for fd in self.stored.values():
            os.close(fd)
