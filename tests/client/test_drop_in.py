"""What programs written for papa 1.0.6 count on, and what must not go wrong on the way: names, types, waits, addresses."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import papad as package
from papad import Error, Papa, Refused, TimedOut, Unreachable, Watcher, aio
from papad.client import autostart as start
from papad.client.connection import Client
from papad.daemon.tables.nodes import bind_path
from tests.client.relay import Relay
from tests.client.test_start import papads
from tests.original.servers import Server
from tests.original.test_circus import CONFIG, WORKER, Circus
from tests.original.test_circus import papad_on_its_port as papad_on_its_port
from tests.original.venv import original_venv
from tests.support.papad import REPOSITORY, Daemon, no_new_fds, open_fds, running_papad
from tests.support.ports import free_port
from tests.support.waiting import wait_until

SIGNATURES = """
import inspect, json, sys, warnings
warnings.simplefilter("ignore")
import papa
found = {}
for owner in (papa.Papa, papa.Watcher, papa):
    prefix = "" if owner is papa else owner.__name__
    for name in vars(owner):
        function = getattr(owner, name)
        own = getattr(function, "__module__", "") == "papa" and not inspect.isclass(function)
        if own and callable(function) and (name == "__init__" or name[0] != "_"):
            parameters = inspect.signature(function).parameters.values()
            found[f"{prefix}.{name}"] = [[each.name, int(each.kind), repr(each.default)] for each in parameters]
json.dump(found, sys.stdout)
"""
INTERNAL = {".wrap_trailing_slash", ".append_if_not_none"}

TYPED = """
from contextlib import aclosing, closing
from pathlib import Path
import papad
from papad import DEVNULL, PIPE, STDOUT, Error, Papa, ProcessOutput, Watcher, aio

papad.set_default_path(Path("/run/papad/papad.sock"))

def use(p: Papa, watching: bool) -> None:
    port: int = p.make_socket("s", "127.0.0.1", 0, None, None, 5)["port"]
    value: str | None = p.get("a")
    w: Watcher = p.make_process("x", "/bin/true", watch_immediately=True)
    either: object = p.make_process("x", "/bin/true", watch_immediately=watching, stdout=DEVNULL, stderr=STDOUT)
    while (batch := w.read(timeout=None)) is not None:
        out, err, closed = batch
        written: bytes = b"".join(item.data for item in out + err)
        codes: list[int] = [item.data for item in closed]
    with closing(p.follow("x", last=5)) as frames:
        print(next(frames).name)
    p.typo()  # no such method

async def use_later(p: aio.Papa) -> None:
    w: aio.Watcher = await p.make_process("x", "/bin/true", listen="web,api", watch_immediately=True)
    made: dict[str, object] = await p.make_process("x", "/bin/true", listen=["web", b"api"])
    await p.set("state", {"workers": 3})
    async with aclosing(p.follow("x")) as frames:
        async for frame in frames:
            print(frame.name)

papad.typo  # no such name
"""


@contextlib.contextmanager
def stopped(daemon: Daemon) -> Iterator[None]:
    """papad does nothing for a while, as when the machine is overloaded."""
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail rather than hang: what takes longer is interrupted."""

    def interrupt(*_: object) -> None:
        raise AssertionError(f"not within {seconds} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for papads that are started in the test; those that are left at its end are ended."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield tmp_path
    for path in tmp_path.glob("*.sock"):
        for pid in papads(str(path)):
            os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not any(papads(str(path)) for path in tmp_path.glob("*.sock")), "papad has left")


# Names and types


def test_every_function_of_the_original_is_there_and_takes_the_same() -> None:
    """More parameters may follow, by keyword or with a default."""
    python = str(original_venv() / "bin" / "python")
    done = subprocess.run([python, "-W", "ignore", "-c", SIGNATURES], capture_output=True, text=True, check=True)
    theirs = {name: wanted for name, wanted in json.loads(done.stdout).items() if name not in INTERNAL}
    assert len(theirs) > 25
    for name, wanted in theirs.items():
        owner, _, attribute = name.partition(".")
        function = getattr(getattr(package, owner) if owner else package, attribute)
        ours = list(inspect.signature(function).parameters.values())
        for parameter, (called, kind, default) in zip(ours, wanted, strict=False):
            assert (int(parameter.kind), repr(parameter.default)) == (kind, default), name
            assert parameter.name == called or parameter.kind == parameter.VAR_POSITIONAL, name
        assert len(ours) >= len(wanted), name
        assert all(each.default is not each.empty or each.kind == each.VAR_KEYWORD for each in ours[len(wanted) :]), (
            name
        )


def test_mypy_understands_what_programs_do_with_it(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(program)]
    env = os.environ | {"MYPYPATH": str(REPOSITORY)}
    said = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False).stdout
    wrong = {line.split(":")[1] for line in said.splitlines() if ": error:" in line}
    typos = {str(number) for number, line in enumerate(TYPED.splitlines(), 1) if "typo" in line}
    assert wrong == typos, said


def test_the_asyncio_client_is_there_without_an_import_of_its_own() -> None:
    program = "import papad; print(papad.aio.Papa.__name__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout == "Papa\n", done.stderr


def test_a_watcher_that_has_ended_reads_as_the_original_does(p: Papa) -> None:
    """None once, at the end; afterwards there is nothing, and the programmer is told so."""
    watcher = p.make_process("x", "/bin/echo", ["hi"], watch_immediately=True)
    while watcher.read() is not None:
        pass
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="the watch has ended"):
            out, err, closed = watcher.read()  # type: ignore[misc]
        assert (out, err, closed) == ([], [], [])
    p.make_process("y", "/bin/sleep", ["60"])
    other = p.watch_processes("y")
    other.close()
    with pytest.warns(RuntimeWarning, match="the watch has ended"):
        assert other.read() == ([], [], [])


def test_a_loop_over_a_watcher_that_has_ended_ends(p: Papa) -> None:
    watcher = p.make_process("x", "/bin/echo", ["hi"], watch_immediately=True)
    with within(10):
        assert [item.data for batch in watcher for item in batch.out] == [b"hi\n"]
        for _ in range(2):
            assert list(watcher) == []
            assert watcher.read(timeout=1) is None
            assert watcher.read(timeout=None) is None
            assert list(iter(lambda: watcher.read(timeout=1), None)) == []


@pytest.mark.parametrize("nothing", [None, "", 0, False, b""])
def test_a_value_that_is_false_clears(p: Papa, nothing: object) -> None:
    p.set("a", "x")
    p.set("a", nothing)  # type: ignore[arg-type]
    assert p.get("a") is None
    assert p.list_values() == {}


def test_a_line_with_an_empty_name_makes_nothing(papad: Daemon) -> None:
    with papad.connect() as talk:
        for line in ("%make process % /bin/true", "%make socket %", "%set % x", "%get %"):
            assert talk.ask(line).endswith("requires a name")


# Waits


def test_a_timeout_of_nothing_only_looks(p: Papa, relay: Relay) -> None:
    p.make_process("x", "/bin/sleep", ["60"])
    with Papa(relay.path, 3, autostart=False) as through:
        watcher = through.watch_processes("x")
        made = relay.connections
        for _ in range(3):
            with within(5), pytest.raises(TimedOut):
                watcher.read(timeout=0)
        assert relay.connections == made, "it is no lost connection"
        with within(5), pytest.raises(TimedOut):
            next(through.follow("x", timeout=0))
        watcher.close()


@pytest.mark.parametrize("autostart", [True, False])
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_papad_that_is_silent_is_waited_for_as_long_as_told(papad: Daemon, kind: str, *, autostart: bool) -> None:
    address = papad.path if kind == "unix" else papad.port
    with no_new_fds(), stopped(papad):
        begun = time.monotonic()
        with pytest.raises(Error):
            Papa(address, 0.5, timeout=20, autostart=autostart)
        assert time.monotonic() - begun < 5
    assert papad.popen.poll() is None


def test_a_papad_whose_queue_is_full_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with running_papad(tmp_path) as papad, contextlib.ExitStack() as waiting:
        with stopped(papad):  # all the while: papad would empty its queue
            with contextlib.suppress(BlockingIOError):
                for _ in range(5000):
                    each = waiting.enter_context(socket.socket(socket.AF_UNIX))
                    each.setblocking(False)
                    each.connect(papad.path)
            with pytest.raises(Unreachable, match="busy"):
                Papa(papad.path, 0.5)
        waiting.close()
        with Papa(papad.path, 10) as p:
            assert p.describe("server")[0]["pid"] == papad.pid
        assert papads(papad.path) == {papad.pid}


def test_closing_a_watch_waits_for_papad_no_longer_than_the_timeout(papad: Daemon) -> None:
    async def main() -> None:
        p = aio.Papa(papad.path, 1, timeout=0.3, autostart=False)
        await p.make_process("x", "/bin/sleep", ["60"])
        watcher = await p.watch_processes("x")
        with stopped(papad):
            async with asyncio.timeout(5):
                await watcher.close()
        p.close()

    asyncio.run(main())


def test_closing_a_watch_that_is_cut_short_leaves_nothing_open(papad: Daemon) -> None:
    async def main() -> None:
        p = aio.Papa(papad.path, 1, timeout=20, autostart=False)
        await p.make_process("x", "/bin/sleep", ["60"])
        watcher = await p.watch_processes("x")
        with stopped(papad), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await watcher.close()
        assert not watcher
        p.close()
        await asyncio.sleep(0)

    with no_new_fds(), warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
    assert not complaints


# Restarts of papad


@pytest.mark.parametrize("patterns", [(), (None,), ("*",), ("x",)])
def test_a_watch_of_everything_goes_on_over_a_restart(p: Papa, relay: Relay, patterns: tuple[str | None, ...]) -> None:
    fifo = Path(relay.path + ".fifo")
    os.mkfifo(fifo)
    p.make_process("x", "/bin/sh", ["-c", "echo one; read line < $0; echo two", fifo])

    def data(watcher: Watcher) -> Iterator[bytes]:
        while (batch := watcher.read()) is not None:
            yield from (item.data for item in batch.out if isinstance(item.data, bytes))

    with Papa(relay.path, 3, timeout=10, autostart=False) as through:
        watcher = through.watch_processes(*patterns)
        lines = data(watcher)
        assert next(lines) == b"one\n"
        relay.cut()
        fifo.write_text("\n")
        assert list(lines) == [b"two\n"]
        assert watcher.exit_code == {"x": 0}


def test_an_asyncio_watch_of_everything_goes_on_over_a_restart(p: Papa, relay: Relay) -> None:
    fifo = Path(relay.path + ".fifo")
    os.mkfifo(fifo)
    p.make_process("x", "/bin/sh", ["-c", "echo one; read line < $0; echo two", fifo])

    async def main() -> None:
        async with asyncio.timeout(20), aio.Papa(relay.path, 3, timeout=10, autostart=False) as through:
            watcher = await through.watch_processes()
            out = b""
            async for batch in watcher:
                out += b"".join(item.data for item in batch.out if isinstance(item.data, bytes))
                if out == b"one\n":
                    relay.cut()
                    await asyncio.to_thread(fifo.write_text, "\n")
            assert (out, watcher.exit_code) == (b"one\ntwo\n", {"x": 0})

    asyncio.run(main())


def test_a_restart_that_the_event_loop_has_not_heard_of_is_noticed(relay: Relay) -> None:
    """As in the blocking client: what was not sent yet goes out on the new connection, `remove` too."""

    async def main() -> None:
        async with asyncio.timeout(20), aio.Papa(relay.path, 3, timeout=10, autostart=False) as p:
            await p.make_socket("s")
            relay.cut()
            assert await p.remove_sockets("s") is True

    asyncio.run(main())


# Addresses, and starting


def test_an_address_may_be_a_path_or_bytes(papad: Daemon) -> None:
    for address in (Path(papad.path), os.fsencode(papad.path)):
        with Papa(address, 3, autostart=False) as p:
            assert p.port_or_path == papad.path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_may_not_talk_is_refused_over_tcp_too(papad: Daemon) -> None:
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "from papad import Papa, Refused\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: Papa(int(sys.argv[1]), 5)\n"
        "except Refused as error: print(error)"
    )
    command = ["/usr/bin/python3", "-c", program, str(papad.port), str(REPOSITORY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert "may not talk to papad" in done.stdout, done.stderr
    assert issubclass(Refused, Unreachable)


def test_it_is_started_where_the_environment_says(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the user has a service manager, where a papad of the user's own would be."""
    (own / "systemd").mkdir()
    (own / "systemd" / "private").touch()
    asked = str(own / "asked-for.sock")
    monkeypatch.setenv("PAPAD_SOCKET", asked)
    monkeypatch.setattr(Papa, "_default_port_or_path", None)
    with Papa(None, 20) as p:
        assert p.port_or_path == asked
        assert papads(asked)


def test_a_papad_that_others_end_at_once_is_started_again(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts it looks again only after somebody else has come, and ended it."""
    monkeypatch.setattr(start, "_DELAY", 0.5)
    address = str(own / "papad.sock")

    def end_it() -> None:
        while True:
            with contextlib.suppress(Error), Client(address, 5) as client:
                client.command("exit-if-idle")
                return
            time.sleep(0.001)

    other = threading.Thread(target=end_it)
    other.start()
    begun = time.monotonic()
    with Papa(address, 20):
        assert time.monotonic() - begun < 10
    other.join()


def test_what_keeps_it_from_starting_shows_at_once(own: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(Error, match="to see why"):
        Papa(str(own / "no" / "such" / "folder"), 20)
    assert time.monotonic() - begun < 10


def test_a_papad_that_leaves_does_not_take_the_path_of_the_next(tmp_path: Path) -> None:
    path = str(tmp_path / "papad.sock")
    command = [sys.executable, "-m", "papad.daemon.main", "-u", path]
    for _ in range(5):
        with open(path + ".log", "wb") as log:
            old = subprocess.Popen(command, cwd=REPOSITORY, stderr=log)
        wait_until(lambda: "is home" in Path(path + ".log").read_text(), "papad is home")
        with Client(path) as client:
            client.command("exit-if-idle")
        deadline = time.monotonic() + 10
        while (taken := _taken(path)) is None:  # without a pause: it is free for a moment only
            assert time.monotonic() < deadline
        with taken:
            old.wait(10)
            assert os.path.exists(path)
        os.unlink(path)


def _taken(path: str) -> socket.socket | None:
    """The path, taken as the next papad would take it."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        bind_path(sock, path, 0o117)
    except Error:
        sock.close()
        return None
    return sock


# Sizes


def test_it_works_in_a_process_with_many_open_files(papad: Daemon) -> None:
    """select() knows no file number above 1,023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            cleanup.callback(os.close, os.open("/dev/null", os.O_RDONLY))
        assert max(open_fds()) > 1024
        with Papa(papad.path, 5, autostart=False) as p:
            p.set("a", "1")
            assert p.get("a") == "1"
            p.make_process("x", "/bin/echo", ["hi"])
            watcher = p.watch_processes("x")
            wait_until(lambda: watcher.ready, "there is something to read")
            batch = watcher.read()
            assert batch is not None
            assert [item.data for item in batch.out] == [b"hi\n"]
            watcher.close()


def test_papactl_gets_a_value_that_looks_like_the_end_of_an_answer(p: Papa) -> None:
    value = "\n> " * 400_000
    p.set("v", value)
    program = "from papad.ctl import main; main()"
    env = os.environ | {"PAPAD_SOCKET": str(p.port_or_path)}
    done = subprocess.run(
        [sys.executable, "-c", program, "get", "v"], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == value + "\n"


def test_what_looks_like_an_option_in_a_path_is_a_part_of_it(p: Papa, tmp_path: Path) -> None:
    for name in ("a port=5 b", "a umask=x", " fileno=7 "):
        path = str(tmp_path / name)
        assert p.make_socket("s", path=path, umask=0o77)["path"] == path
        assert p.list_sockets()["s"]["path"] == path
        p.remove_sockets("s")


# The program that uses it


class WithOurs(Circus):
    """circus, where papad is what it imports as papa."""

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"PYTHONPATH": os.pathsep.join((str(self.folder / "ours"), str(REPOSITORY)))}


def test_circus_runs_with_papad_imported_as_papa(papad_on_its_port: Server, tmp_path: Path) -> None:
    folder = tmp_path / "circus"
    (folder / "ours").mkdir(parents=True)
    (folder / "ours" / "papa.py").write_text("import sys, papad\nsys.modules[__name__] = papad\n")
    (folder / "worker.py").write_text(WORKER)
    python = str(original_venv() / "bin" / "python")
    circus = WithOurs(folder, python, papad_on_its_port, free_port(), free_port())
    values = {"control": circus.control, "events": free_port(), "port": circus.port}
    (folder / "circus.ini").write_text(CONFIG.format(python=python, folder=folder, **values))
    try:
        circus.start()
        first = circus.serving_pids(2)
        circus.quit()
        circus.start()
        assert circus.running_pids() == first
        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(circus.running_pids()) == 2 and victim not in circus.running_pids(), "a new one", 20)
        everyone = first | circus.serving_pids(2)

        def printed() -> set[int]:
            return {int(line.split()[1]) for line in (folder / "out").read_text().splitlines()}

        wait_until(lambda: printed() == everyone, f"the output of all workers: {circus.log()}")
        circus.control_call("stop", "web")
        wait_until(lambda: not circus.running_pids(), "no worker is left", 20)
        circus.quit()
    finally:
        circus.end()
