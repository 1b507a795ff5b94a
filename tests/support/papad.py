"""What the unit tests share: an FD store in kernel memory, children that kill themselves, a real papad, conversations."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from papad.client.connection import Client
from tests.support.ports import free_port
from tests.support.waiting import wait_until

WELCOME = b'Papa is home. Type "help" for commands.\n> '
REPOSITORY = Path(__file__).resolve().parents[2]
_CHILD_SECONDS = 120
_socketpair = socket.socketpair


def open_to_all(folder: Path) -> None:
    """Let other users come as far as this folder; pytest closes its own."""
    for each in (folder, *folder.parents):
        if each == Path(tempfile.gettempdir()):
            break
        each.chmod(0o755)


def processor_time(pid: int) -> float:
    """The processor time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_fds(pid: int | str = "self") -> dict[int, str]:
    """The open descriptors of a process and what they are."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listdir used
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


@contextlib.contextmanager
def no_new_fds() -> Iterator[None]:
    """Fail if the body leaves other descriptors open than it found."""
    before = open_fds()
    yield
    after = open_fds()
    assert after == before, f"{before.items() ^ after.items()}"


class FdStore:
    """An FD store with the interface of Service. What is stored waits in a socket, so it outlives a killed child too."""

    def __init__(self, kept: Iterable[tuple[str, int]] = (), runtime: Path | None = None) -> None:
        self.managed = True
        self.runtime = runtime
        self.user = False
        self.max_sockets = 800
        self.control: list[int] = []
        self._kept = list(kept)
        self._manager, self._papad = _socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._manager.setblocking(False)
        self.stored = {name: os.dup(fd) for name, fd in self._kept}
        self.refusing: Exception | None = None
        self.closing = False

    def notify(self, *states: str) -> None:
        """What systemd would be told is of no interest here."""

    def hold(self, name: str, fd: int) -> None:
        if self.refusing is not None:
            raise self.refusing
        socket.send_fds(self._papad, [b"+" + name.encode()], [fd])

    def drop(self, name: str) -> None:
        self._papad.send(b"-" + name.encode())

    async def barrier(self) -> None:
        """All that was said is done at once here."""

    @property
    def kept(self) -> dict[str, int]:
        """What is in the store now; the descriptors stay the store's."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, fds, _, _ = socket.recv_fds(self._manager, 4096, 4)
                name = data[1:].decode()
                if data[:1] == b"+":
                    self._kept.append((name, fds[0]))
                else:
                    for each in [each for each in self._kept if each[0] == name]:
                        self._kept.remove(each)
                        os.close(each[1])
        assert len({name for name, _ in self._kept}) == len(self._kept), "a name was stored twice"
        return dict(self._kept)

    def next(self) -> FdStore:
        """The store as the next papad finds it; this one is at its end."""
        kept = self.kept
        self._kept = []
        self.close()
        return FdStore(kept.items(), self.runtime)

    def close(self) -> None:
        """Close all that the store holds, and what nobody took of it."""
        for fd in (*self.kept.values(), *self.stored.values()):
            os.close(fd)
        self._kept.clear()
        self.stored.clear()
        self._manager.close()
        self._papad.close()


def in_child(function: Callable[[], Any]) -> int:
    """Run `function` in a forked child; its wait status. An exception is printed, and the status is then that of exit(1).

    One that hangs ends by SIGALRM.
    """
    pid = os.fork()
    if pid == 0:
        signal.alarm(_CHILD_SECONDS)
        _run(function)
    return os.waitpid(pid, 0)[1]


@contextlib.contextmanager
def child_as(uid: int, act: Callable[[], object]) -> Iterator[int]:
    """A child of another user, or of ours, which does something until it is ended; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            if uid != os.getuid():
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            act()
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _run(function: Callable[[], Any]) -> NoReturn:
    status = 1
    try:
        function()
        status = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def dies_at(step: int, calls: Iterable[tuple[Any, str]], function: Callable[[], Any]) -> bool:
    """Run `function` in a child that kills itself at its `step`-th step: before, or after, each of `calls`.

    Returns whether it was killed; False means that it got to its end before that step.
    """

    def child() -> None:
        count = iter(range(1 << 30))

        def tick() -> None:
            if next(count) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        def ticking(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                tick()
                result = call(*args, **kwargs)
                tick()
                return result

            return wrapper

        for module, name in calls:
            setattr(module, name, ticking(getattr(module, name)))
        function()

    status = in_child(child)
    assert status in (0, signal.SIGKILL), "the child failed by itself"
    return status != 0


@dataclass
class Daemon:
    """A real papad at a Unix path, and perhaps at a port."""

    popen: subprocess.Popen[bytes]
    """What was started by hand: the nursery, which keeps the daemon."""
    path: str
    port: int
    leaving: bool = False  # told to end

    @property
    def log(self) -> str:
        return Path(self.path + ".log").read_text()

    def connect(self, *, tcp: bool = False, welcome: bool = True) -> Talk:
        return Talk(self.port if tcp else self.path, welcome=welcome)

    def ask(self, line: str) -> str:
        """The answer to one line, on a connection of its own."""
        with self.connect() as talk:
            return talk.ask(line)

    @property
    def pid(self) -> int:
        """The pid of the daemon; raises ValueError while there is none."""
        children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()
        (pid,) = filter(_is_daemon, children)
        return int(pid)

    @property
    def nursery(self) -> int:
        """The pid of its nursery."""
        return self.popen.pid

    def rss(self) -> int:
        """Resident memory of the daemon in bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _is_daemon(pid: str) -> bool:
    with contextlib.suppress(OSError):
        return b"papad.daemon.main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


class Talk:
    """One raw connection with a deadline on every wait."""

    def __init__(self, address: str | int, *, welcome: bool = True) -> None:
        unix = isinstance(address, str)
        self.sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        self.data = b""
        self.deadline = time.monotonic() + 40
        try:
            self.sock.settimeout(10)
            self.sock.connect(address if unix else ("127.0.0.1", address))
            if welcome:
                assert self.until(b"> ") == WELCOME
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes | str) -> None:
        self.sock.sendall(data.encode() if isinstance(data, str) else data)

    def until(self, end: bytes) -> bytes:
        """All up to and with `end`."""
        while end not in self.data:
            more = self.sock.recv(1 << 18)
            if not more:
                raise EOFError(self.data)
            self.data += more
        found, end, self.data = self.data.partition(end)
        return found + end

    def exactly(self, size: int) -> bytes:
        while len(self.data) < size:
            more = self.sock.recv(1 << 18)
            if not more:
                raise EOFError(self.data)
            self.data += more
        found, self.data = self.data[:size], self.data[size:]
        return found

    def ask(self, line: str) -> str:
        """Send one line; its answer without the prompt."""
        self.send(line + "\n")
        return self.until(b"\n> ").decode()[:-3]

    def ask_line(self, line: str) -> str:
        """Send one line; the first line of what comes, before a prompt or a batch."""
        self.send(line + "\n")
        return self.until(b"\n").decode()[:-1]

    def rest(self) -> bytes:
        """All until the other side closes."""
        with contextlib.suppress(EOFError, ConnectionResetError):
            self.until(b"\0no such thing\0")
        found, self.data = self.data, b""
        return found

    def records(self) -> list[tuple[str, str, bytes | int]]:
        """One batch of a watch: (out or err or closed, name, data or exit code); raises EOFError at `Nothing left`."""
        assert time.monotonic() < self.deadline, "batches come, but no end"
        found: list[tuple[str, str, bytes | int]] = []
        while (lead := self.exactly(2)) != b"] ":
            line = (lead + self.until(b"\n")).decode()[:-1]
            if line == "Nothing left to watch":
                raise EOFError(line)
            kind, name, *rest = line.split(":")
            if kind == "closed":
                found.append((kind, name, int(rest[1])))
            else:
                found.append((kind, name, self.exactly(int(rest[1]))))
                assert self.exactly(1) == b"\n"
        return found

    def watch_to_end(self) -> list[tuple[str, str, bytes | int]]:
        """Acknowledge batch after batch until nothing is left."""
        found = []
        with contextlib.suppress(EOFError):
            while True:
                found += self.records()
                self.send("-\n")
        assert self.exactly(2) == b"> "
        return found


@contextlib.contextmanager
def running_papad(folder: Path, *, tcp: bool = False, cwd: Path = REPOSITORY) -> Iterator[Daemon]:
    """A papad of its own, gone at the end together with its nursery and all that it started."""
    path = str(folder / "papad.sock")
    port = free_port()
    command = [sys.executable, "-m", "papad.daemon.main", "-u", path, *(["-p", str(port)] if tcp else [])]
    with open(path + ".log", "wb") as log:
        popen = subprocess.Popen(command, cwd=cwd, stderr=log)
    daemon = Daemon(popen, path, port)
    children: list[int] = []
    try:
        wait_until(lambda: popen.poll() is not None or "is home" in daemon.log, "papad is home")
        assert popen.poll() is None, daemon.log
        yield daemon
        assert daemon.leaving or popen.poll() is None, f"papad died: {daemon.log}"
        children = _descendants(popen.pid)
    finally:
        children = children or _descendants(popen.pid)
        popen.terminate()
        if popen.wait(10) and not daemon.leaving and sys.exc_info()[0] is None:
            raise AssertionError(f"papad left with {popen.returncode}: {daemon.log}")
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert "Traceback" not in daemon.log, daemon.log


def varied_copy(folder: Path, module: str, old: str, new: str) -> Path:
    """A copy of the package in a folder, with one piece of a module replaced; the module's path."""
    shutil.copytree(REPOSITORY / "papad", folder / "papad", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "papad" / module
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return path


class Probe:
    """Somebody who asks `get x` again and again while the body runs, each time on a connection that is there."""

    def __init__(self, daemon: Daemon) -> None:
        self._talk = daemon.connect()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.waits: list[float] = []
        """How long each answer took, in seconds."""

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(60)
        self._talk.sock.close()

    def _ask(self) -> None:
        while not self._ending.wait(0.01):
            began = time.monotonic()
            assert self._talk.ask("get x") == ""
            self.waits.append(time.monotonic() - began)

    @property
    def median(self) -> float:
        return sorted(self.waits)[len(self.waits) // 2]

    @property
    def longest(self) -> float:
        return max(self.waits)


def empty(daemon: Daemon) -> None:
    """Remove all that a papad holds; its processes are killed."""
    with Client(daemon.path) as client:
        for process in client.describe("processes"):
            if process["running"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process["pid"], signal.SIGKILL)
        client.plain("remove", "processes")
        client.plain("remove", "sockets")
        for value in client.describe("values"):
            client.command("set", value["name"])
        wait_until(lambda: not client.command("list", "processes"), "no process is left")


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            found += [child, *_descendants(child)]
    return found
