"""papactl as people run it: a program, its exit status, what it prints."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from papad.ctl.advice import for_answer
from tests.support.papad import REPOSITORY, Daemon
from tests.support.waiting import wait_until

COMMAND = [sys.executable, "-c", "from papad.ctl import main; main()"]


class Done(NamedTuple):
    status: int
    out: str
    err: str


def not_found(name: str) -> str:
    """What papactl says of a name that does not exist."""
    return f"papactl: {name} not found\n{for_answer('x not found')}\n"


def environment(**more: str) -> dict[str, str]:
    """As little as possible; the times of this process's zone are those of UTC."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPOSITORY),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "HOME": "/dev/null",  # root, too, makes no folder in it
        **more,
    }


def papactl(*args: str, stdin: str = "", **env: str) -> Done:
    done = subprocess.run(
        [*COMMAND, *args], env=environment(**env), input=stdin, capture_output=True, text=True, timeout=30, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


class Papactl:
    """papactl with a papad that it finds by itself."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.env = {"PAPAD_SOCKET": daemon.path}

    def __call__(self, *args: str, stdin: str = "", **env: str) -> Done:
        return papactl(*args, stdin=stdin, **self.env, **env)

    def out(self, *args: str, **env: str) -> str:
        """What it prints where all must go well."""
        done = self(*args, **env)
        assert (done.status, done.err) == (0, "")
        return done.out

    def bytes(self, *args: str) -> bytes:
        return subprocess.run(
            [*COMMAND, *args], env=environment(**self.env), capture_output=True, timeout=30, check=True
        ).stdout

    def json(self, *args: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out(*args).splitlines()]

    def ends(self, name: str) -> None:
        """Wait until a process has ended and all its output is captured."""
        wait_until(lambda: self.described(name)["closed"], f"{name} has ended")

    def described(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.daemon.ask(f"describe processes {name}"))
        return found

    def runs(self, name: str, script: str) -> None:
        """A process that has run a shell script to its end."""
        self.out("make", "process", name, "--", "/bin/sh", "-c", script)
        self.ends(name)

    @contextlib.contextmanager
    def running(self, *args: str) -> Iterator[subprocess.Popen[bytes]]:
        """It runs on, with pipes; killed at the end if need be."""
        popen = subprocess.Popen(
            [*COMMAND, *args], env=environment(**self.env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        with popen:
            try:
                yield popen
            finally:
                popen.kill()


def line_of(popen: subprocess.Popen[bytes]) -> str:
    """The next line that it prints."""
    assert popen.stdout is not None
    assert select.select([popen.stdout], [], [], 10)[0], "nothing printed"
    return popen.stdout.readline().decode().rstrip("\n")


def interrupted(popen: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    """Ctrl-C; its status and what it still says."""
    popen.send_signal(signal.SIGINT)
    out, err = popen.communicate(timeout=10)
    return popen.returncode, out, err


class Terminal:
    """papactl at a terminal of its own."""

    def __init__(self, *args: str, **env: str) -> None:
        self.text = ""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            try:
                os.execve(COMMAND[0], [*COMMAND, *args], environment(**{"TERM": "xterm", **env}))
            finally:
                os._exit(127)

    def until(self, text: str) -> str:
        """All that it shows up to some text, which is taken."""
        deadline = time.monotonic() + 10
        while text not in self.text:
            assert time.monotonic() < deadline, f"no {text!r} in {self.text!r}"
            if select.select([self._fd], [], [], 1)[0]:
                try:
                    self.text += os.read(self._fd, 65536).decode("utf-8", "replace")
                except OSError:
                    raise AssertionError(f"ended without {text!r}: {self.text!r}") from None
        found, _, self.text = self.text.partition(text)
        return found

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def interrupt_until(self, text: str) -> None:
        """Ctrl-C until it shows this. Python's readline overlooks one that comes right before it waits, until the next key."""
        for _ in range(20):
            self.type("\x03")
            if select.select([self._fd], [], [], 0.5)[0]:
                self.until(text)
                return
        raise AssertionError(f"no {text!r} after Ctrl-C")

    def rest(self) -> tuple[int, str]:
        """Its exit status and all that it shows up to its end."""
        with contextlib.suppress(OSError):
            while data := os.read(self._fd, 65536):
                self.text += data.decode("utf-8", "replace")
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._fd)
        return status, self.text.replace("\r\n", "\n")
