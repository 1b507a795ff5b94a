"""Connections to papad on another machine.

Each connection is an ssh that runs `papactl stdio-bridge` on the remote machine. The client library
talks to it through a socket pair.
"""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from papad.ctl.parser import Usage
from papad.errors import Unreachable

_HOST = re.compile(r"(?P<user>.*@)?(?P<name>\[.+\]|[^:\[\]]+)(?::(?P<port>\d+))?")
# The last two override settings that are meant for interactive sessions.
_OPTIONS = ("-xT", "-oClearAllForwardings=yes", "-oRemoteCommand=none")
_NO_QUESTIONS = "-oBatchMode=yes"
_WHY = {3: "papactl on that host has reported why", 127: "papactl was not found on that host", 255: "ssh failed"}
"""The reason by exit status of ssh, which is that of the remote papactl unless ssh failed."""


class Tunnel:
    """Makes connections to papad on `host`, each through an ssh.

    The owner closes the tunnel after the connections. For one of several hosts, `label` precedes
    each message of ssh, and ssh does not prompt, because prompts of several hosts would mix.
    """

    def __init__(self, host: str, address: str | int | None, label: str | None = None) -> None:
        if not host or host.startswith("-"):
            raise Usage(f"invalid host: {host!r}")
        before, destination = _destination(host)
        before += [_NO_QUESTIONS] if label is not None else []
        self._ssh = ["ssh", *_OPTIONS, *before, "--", destination]
        self._far = ["papactl", *_far_options(address)]
        self._command = [*self._ssh, shlex.join([*self._far, "stdio-bridge"])]
        self._simpler = shlex.join(["ssh", *before, destination, "papactl", "status"])
        self._label = (label or "").encode()
        self._said: set[bytes] = set()
        self._running: list[_Ssh] = []
        self._begun: list[socket.socket] = []

    def begin(self) -> None:
        """Start a connection, which the next `connect` returns."""
        self._begun.append(self._dial())

    def connect(self) -> socket.socket:
        """Return a new connection, which the caller owns. Failures show only when it is read."""
        return self._begun.pop() if self._begun else self._dial()

    def _dial(self) -> socket.socket:
        self._running = [ssh for ssh in self._running if ssh.popen.poll() is None]
        near, far = socket.socketpair()
        with far:
            try:
                self._running.append(_Ssh(self._command, far.fileno(), self._say))
            except OSError as error:
                near.close()
                raise Unreachable(f"cannot run ssh: {error.strerror}") from None
        return near

    def run(self, words: list[str]) -> int:
        """Run another command line of papactl there, and print what it prints. Return its exit status.

        Raises Unreachable if it was not run.
        """
        try:
            done = subprocess.run(
                [*self._ssh, shlex.join([*self._far, *words])],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        except OSError as error:
            raise Unreachable(f"cannot run ssh: {error.strerror}") from None
        sys.stdout.buffer.write(done.stdout)
        for line in done.stderr.splitlines():
            self._say(line + b"\n")
        if done.returncode in (127, 255):
            raise Unreachable(_WHY[done.returncode])
        return done.returncode

    def _say(self, line: bytes) -> None:
        """Print a line of ssh's standard error, but the same line only once.

        Several ssh in a row may fail to reach a host for the same reason.
        """
        if line not in self._said and sys.stderr is not None:
            self._said.add(line)
            sys.stderr.buffer.write(self._label + line)
            sys.stderr.buffer.flush()

    def why(self) -> tuple[str, str]:
        """Return why the last connection ended before anything arrived, and a hint.

        ssh has printed its own messages by then.
        """
        status = self._running[-1].end()
        hint = "" if status == 3 else f"Check whether this works: {self._simpler}"
        if status == 255 and _NO_QUESTIONS in self._command:
            hint += "\nWith several -H, ssh does not prompt for a password or about a host key"
        return _WHY.get(status, f"papactl on that host exited with status {status}"), hint

    def close(self, *, at_once: bool = False) -> None:
        """Wait for each ssh to exit, which it does when its connection is closed."""
        for near in self._begun:
            near.close()
        for ssh in self._running:
            ssh.end(0 if at_once else 2)


class _Ssh:
    """A running ssh with `fd` as its standard input and output. The caller still owns `fd`."""

    def __init__(self, command: list[str], fd: int, say: Callable[[bytes], None]) -> None:
        # ssh ignores Ctrl-C; papactl handles it. papactl shell continues after it on the same
        # connection.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            # ssh must not get our own standard error: it would make it non-blocking, and with
            # `2>&1` our standard output as well.
            self.popen = subprocess.Popen(command, stdin=fd, stdout=fd, stderr=subprocess.PIPE)
        finally:
            signal.signal(signal.SIGINT, handler)
        self._thread = threading.Thread(target=self._pass_on, args=(say,), daemon=True)
        self._thread.start()

    def _pass_on(self, say: Callable[[bytes], None]) -> None:
        assert self.popen.stderr is not None
        with suppress(OSError), self.popen.stderr as lines:
            for line in lines:
                say(line.rstrip(b"\r\n") + b"\n")  # ssh's own messages end with \r\n

    def end(self, seconds: float = 2) -> int:
        """Wait for ssh to exit, terminate it after `seconds`, and return its exit status."""
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.terminate()
            self.popen.wait()
        self._thread.join(1)  # with a limit: a process it leaves (ControlPersist) may hold the pipe
        return self.popen.returncode


def _destination(host: str) -> tuple[list[str], str]:
    """Return ssh's words for [USER@]HOST[:PORT]. Other forms (::1, ssh://HOST) go to ssh as is."""
    found = _HOST.fullmatch(host)
    if not found:
        return [], host
    return ["-p", found["port"]] if found["port"] else [], (found["user"] or "") + found["name"].strip("[]")


def _far_options(address: str | int | None) -> list[str]:
    return [] if address is None else ["--port" if isinstance(address, int) else "--socket", str(address)]
