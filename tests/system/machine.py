"""A booted Debian with a real systemd as PID 1, in a container that leaves nothing behind.

The container's processes live in a pid namespace whose first process dies with this one (PR_SET_PDEATHSIG), and its
mounts in a mount namespace that goes with them: however a test run ends, SIGKILL included, nothing stays but an empty
cgroup directory, and that only after a SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Self

from tests.support.waiting import wait_until

HERE = Path(__file__).parent
BOOT_SECONDS = 90
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
}


class Failed(AssertionError):
    """A command inside the machine did not end with status 0."""


def why_not() -> str | None:
    """Why this machine cannot boot a container, or None where it can."""
    if os.geteuid() != 0:
        return "only root can boot a container"
    for command in ("systemd-nspawn", "debootstrap", "unshare", "nsenter", "setpriv"):
        if shutil.which(command) is None:
            return f"{command} is not installed"
    if _cgroup_here() is None:
        return "no cgroup v2 hierarchy is mounted"
    probe = "mount --make-rprivate / && mount -t tmpfs tmpfs /mnt"
    tried = subprocess.run(["unshare", "--mount", "--pid", "--fork", "sh", "-c", probe], capture_output=True, text=True)
    if tried.returncode:
        return f"namespaces are out of reach: {tried.stderr.strip()}"
    return None


def _cgroup_here() -> Path | None:
    """The directory of the cgroup (v2) that this process is in."""
    own = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    mounts = re.search(r"^\S+ \S+ \S+ \S+ (\S+) .* - cgroup2 ", Path("/proc/self/mountinfo").read_text(), re.MULTILINE)
    return Path(mounts.group(1), own.group(1)) if own and mounts else None


class Machine:
    """A running machine. Use as a context manager; `init` is the pid of its PID 1, seen from outside."""

    options: Sequence[str] = ("--boot",)
    """What nspawn is told to start."""
    first = "systemd"
    """The name that its PID 1 has in the end; before, it is still nspawn setting things up."""

    def __init__(self, tree: Path, name: str) -> None:
        self.name = name
        self._tree = tree
        self._ending = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._ending:
            self._start()
            self._ending = self._ending.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def _start(self) -> None:
        parent = _cgroup_here()
        assert parent is not None
        cgroup = parent / f"papad-test-{self.name}-{os.getpid()}"
        cgroup.mkdir()
        # Where nspawn puts what is inside. logind and others turn away a peer whose cgroup they cannot see.
        self._commands = cgroup / "payload" / "papad-test.scope"
        self._ending.callback(_remove_cgroup, cgroup)
        self._console: IO[str] = tempfile.TemporaryFile("a+")  # noqa: SIM115 - closed by the next line
        self._ending.callback(self._console.close)
        apart = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        script = (
            "sh",
            str(HERE / "boot.sh"),
            str(self._tree),
            str(cgroup),
            f"{self.name}-{os.getpid()}",
            *self.options,
        )
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", *apart, *script],
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=self._console,
            start_new_session=True,  # Ctrl-C is for pytest, which then ends this in order
        )
        self.process = process
        self._ending.callback(process.wait, timeout=20)
        self._ending.callback(process.kill)

        def find_init() -> bool:
            assert process.poll() is None, f"the container did not start:\n{self.console()}"
            self.init = _init_below(process.pid, self.first)
            return self.init != 0

        try:
            wait_until(find_init, "the container has a PID 1", BOOT_SECONDS)
            wait_until(self._is_up, "the machine has booted", BOOT_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.console()}") from None

    def _is_up(self) -> bool:
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def console(self) -> str:
        """What the machine has written to its console."""
        self._console.seek(0)
        return self._console.read()

    def root(self, path: str) -> Path:
        """Where a path of the machine is to be found from outside."""
        return Path(f"/proc/{self.init}/root", path.lstrip("/"))

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the machine, with the directories above it."""
        target = self.root(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def command(self, args: Sequence[str], user: str | None = None, env: dict[str, str] | None = None) -> list[str]:
        """The command line that runs `args` inside."""
        variables = [f"{name}={value}" for name, value in (ENVIRONMENT | (env or {})).items()]
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        enter = ["sh", "-c", 'mkdir -p "$0" && echo 0 >"$0/cgroup.procs" && exec "$@"', str(self._commands)]
        enter += ["nsenter", "--all", f"--target={self.init}", "--", "env", "-i"]
        return [*enter, *variables, *become, *args]

    def run(
        self,
        *args: str,
        user: str | None = None,
        env: dict[str, str] | None = None,
        check: bool = True,
        seconds: int = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root or as `user`, and wait for it. Raises `Failed` where `check` is set."""
        # The clock runs inside too: it is there that a command which hangs can be ended with its children.
        bounded = ["timeout", "--kill-after=5", str(seconds), *args]
        done = subprocess.run(
            self.command(bounded, user, env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds + 10,
        )
        if check and done.returncode:
            raise Failed(f"{' '.join(args)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def out(self, *args: str, user: str | None = None, env: dict[str, str] | None = None) -> str:
        """Run a command inside; its output without the last newline."""
        return self.run(*args, user=user, env=env).stdout.rstrip("\n")

    @contextlib.contextmanager
    def running(self, *args: str, user: str | None = None) -> Iterator[subprocess.Popen[str]]:
        """A command that runs inside beside the test. It has to end when its standard input does."""
        process = subprocess.Popen(
            self.command(args, user), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(timeout=20)
            finally:
                process.kill()
                assert process.stdout is not None
                process.stdout.close()

    def cursor(self) -> str:
        """The journal's present end, for `journal(since)`."""
        self.run("journalctl", "--sync")
        return self.out("journalctl", "-n0", "--show-cursor", "-q").removeprefix("-- cursor: ")

    def journal(self, since: str, *options: str) -> str:
        """What was written to the journal after the cursor `since`."""
        self.run("journalctl", "--sync")
        return self.out("journalctl", "-q", f"--after-cursor={since}", *options)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def _init_below(pid: int, first: str) -> int:
    """The pid of the container's PID 1, two pid namespaces further in than `pid`; 0 while there is none of that name."""
    for child in _children(pid):
        with contextlib.suppress(OSError):
            levels = re.search(r"^NSpid:(.*)$", Path(f"/proc/{child}/status").read_text(), re.MULTILINE)
            numbers = levels.group(1).split() if levels else []
            # unshare's child is 1 in its namespace, the container's PID 1 in the one below that.
            named = Path(f"/proc/{child}/comm").read_text().strip() == first
            if len(numbers) > 1 and numbers[-1] == "1" and numbers[-2] != "1" and named:
                return child
            if below := _init_below(child, first):
                return below
    return 0


def _remove_cgroup(top: Path) -> None:
    def gone() -> bool:
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
        return not top.exists()

    wait_until(gone, f"{top} is empty")
