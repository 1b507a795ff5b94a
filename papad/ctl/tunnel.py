"""Connections to the papad of another machine: an ssh each, with `papactl stdio-bridge` at its far end.

The client library talks to it through a socket pair, as to any other papad.
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
# The latter two overrule what somebody has configured for sessions of a person.
_OPTIONS = ("-xT", "-oClearAllForwardings=yes", "-oRemoteCommand=none")
_NO_QUESTIONS = "-oBatchMode=yes"
_WHY = {3: "papactl over there has said why", 127: "no papactl is found there", 255: "ssh has failed"}
"""What the exit status of an ssh tells, which is that of papactl over there unless it failed itself."""


class Tunnel:
    """Makes connections to the papad of `host`; each is an ssh. Its owner closes it, after the connections.

    For one of several hosts `label` is what ssh's words begin with, and ssh asks no questions, for they would mix.
    """

    def __init__(self, host: str, address: str | int | None, label: str | None = None) -> None:
        if not host or host.startswith("-"):
            raise Usage(f"not a host: {host!r}")
        before, destination = _destination(host)
        before += [_NO_QUESTIONS] if label is not None else []
        self._command = ["ssh", *_OPTIONS, *before, "--", destination, _far_command(address)]
        self._simpler = shlex.join(["ssh", *before, destination, "papactl", "status"])
        self._label = (label or "").encode()
        self._said: set[bytes] = set()
        self._running: list[_Ssh] = []
        self._begun: list[socket.socket] = []

    def begin(self) -> None:
        """Begin to connect; the next `connect` takes it."""
        self._begun.append(self._dial())

    def connect(self) -> socket.socket:
        """A new connection, the caller's. What is wrong with it shows when nothing comes."""
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

    def _say(self, line: bytes) -> None:
        """Say what an ssh says; once, though one after the other may try to reach a host that is gone."""
        if line not in self._said and sys.stderr is not None:
            self._said.add(line)
            sys.stderr.buffer.write(self._label + line)
            sys.stderr.buffer.flush()

    def why(self) -> tuple[str, str]:
        """Why the last connection has ended before anything came: in words, and what to try. ssh has said its own by then."""
        status = self._running[-1].end()
        hint = "" if status == 3 else f"Does this work: {self._simpler}"
        if status == 255 and _NO_QUESTIONS in self._command:
            hint += "\nWith several -H, ssh asks no questions: for no password, and about no host key"
        return _WHY.get(status, f"papactl over there has ended with status {status}"), hint

    def close(self, at_once: bool = False) -> None:
        """Wait for each ssh to end, as it does with its connection."""
        for near in self._begun:
            near.close()
        for ssh in self._running:
            ssh.end(0 if at_once else 2)


class _Ssh:
    """An ssh that runs, its standard input and output at `fd`, which stays the caller's."""

    def __init__(self, command: list[str], fd: int, say: Callable[[bytes], None]) -> None:
        # Somebody's Ctrl-C is papactl's business: papactl's shell goes on after it, on the same connection.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            # Not our own standard error: ssh would make it non-blocking, and after `2>&1` our standard output, too.
            self.popen = subprocess.Popen(command, stdin=fd, stdout=fd, stderr=subprocess.PIPE)
        finally:
            signal.signal(signal.SIGINT, handler)
        self._thread = threading.Thread(target=self._pass_on, args=(say,), daemon=True)
        self._thread.start()

    def _pass_on(self, say: Callable[[bytes], None]) -> None:
        assert self.popen.stderr is not None
        with suppress(OSError), self.popen.stderr as lines:
            for line in lines:
                say(line.rstrip(b"\r\n") + b"\n")  # ssh's own end with both

    def end(self, seconds: float = 2) -> int:
        """Wait for its end, and end it after so many seconds; its exit status."""
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.terminate()
            self.popen.wait()
        self._thread.join(1)  # not for ever: one that it leaves behind (ControlPersist) may hold the pipe
        return self.popen.returncode


def _destination(host: str) -> tuple[list[str], str]:
    """ssh's words for [USER@]HOST[:PORT]. What looks otherwise is ssh's to understand: ::1, ssh://HOST."""
    found = _HOST.fullmatch(host)
    if not found:
        return [], host
    return ["-p", found["port"]] if found["port"] else [], (found["user"] or "") + found["name"].strip("[]")


def _far_command(address: str | int | None) -> str:
    options = [] if address is None else ["--port" if isinstance(address, int) else "--socket", str(address)]
    return shlex.join(["papactl", *options, "stdio-bridge"])
