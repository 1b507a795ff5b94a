"""What Papa has beyond the original, and where it is more exact; the rest is in tests/original/test_client.py, for both."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import papad as package
from papad import BadRequest, Client, Error, Papa, TimedOut, Watcher
from tests.support.papad import REPOSITORY, Daemon, no_new_fds
from tests.support.waiting import wait_until


def ended(p: Papa, name: str) -> None:
    wait_until(lambda: not p.list_processes(name)[name]["running"], f"{name} has ended")


def test_importing_the_package_imports_nothing_else() -> None:
    program = "import sys; before = set(sys.modules); import papad; print(set(sys.modules) - before - {'importlib'})"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    found = {name for name in eval(done.stdout) if not name.startswith("importlib")}
    assert found <= {"papad", "papad.version", "__future__", "warnings"}


def test_every_export_is_there() -> None:
    for name in package._MODULES:
        assert getattr(package, name) is not None
        assert name in dir(package)
    with pytest.raises(AttributeError, match="nonsense"):
        package.nonsense  # noqa: B018


def test_describe(p: Papa, papad: Daemon) -> None:
    p.make_socket("s")
    p.make_process("x", "/bin/sleep", ["60"], env={"A": b"\xff"})
    p.set("v", "two\nlines")
    (process,) = p.describe("processes")
    assert (process["name"], process["args"], process["env"]) == ("x", ["/bin/sleep", "60"], {"A": "\udcff"})
    assert p.describe("values", "v*") == [{"name": "v", "value": "two\nlines"}]
    assert p.describe("sockets")[0]["fileno"] == p.list_sockets()["s"]["fileno"]
    assert p.describe("server")[0]["pid"] == papad.pid


def test_output_consumes_nothing(p: Papa) -> None:
    p.make_process("x", "/bin/sh", ["-c", "echo one; echo two >&2"])
    ended(p, "x")
    for _ in range(2):
        frames = list(p.output("x"))
        assert [(frame.kind, frame.data) for frame in frames] == [("out", b"one\n"), ("err", b"two\n"), ("closed", 0)]
    assert [frame.data for frame in p.output("x", stream="err", last=1) if frame.kind == "err"] == [b"two\n"]
    position = frames[0].end
    assert next(p.output("x", after={frames[0].id: position})).data == b"two\n"
    assert [frame.data for frame in p.output("x", bytes=6)] == [b"e\n", b"two\n", 0]
    assert [frame.data for frame in p.output("x", after={frames[0].id: 2}, before={frames[0].id: 6})] == [b"e\n", b"tw"]
    assert list(p.output("nothing*")) == []
    with pytest.raises(TypeError, match="not by lines"):
        p.output("x", lines=3)
    with pytest.raises(Error, match="nothing not found"):
        list(p.output("nothing"))


def test_an_iterator_that_is_left_behind_disturbs_nothing(p: Papa, papad: Daemon) -> None:
    p.make_process("x", "/usr/bin/seq", ["100000"])
    ended(p, "x")
    with no_new_fds():
        for frame in p.output("x"):
            assert frame.kind == "out"
            break
        frames = p.follow("x")
        next(frames)
        frames.close()  # type: ignore[attr-defined]
        assert p.list_values() == {}
    with Client(papad.path) as client:
        next(client.output("x"))
        with pytest.raises(package.ConnectionLost):
            client.command("list", "values")


def test_follow_sees_processes_made_later(p: Papa) -> None:
    frames = p.follow("x.*", timeout=10)
    p.make_process("x.1", "/bin/echo", ["one"])
    assert next(frames).data == b"one\n"
    p.make_process("x.2", "/bin/echo", ["two"])
    assert b"two\n" in [next(frames).data for _ in range(2)]
    frames.close()  # type: ignore[attr-defined]


def test_ready_is_true_when_there_is_something_to_read_and_only_then(p: Papa) -> None:
    p.make_process("x", "/bin/sh", ["-c", "echo one; read line"], bufsize="1k")
    p.make_process("y", "/bin/sleep", ["60"])
    with (
        p.watch_processes("y") as silent,
        Papa(p.port_or_path, autostart=False) as q,
        q.watch_processes("x") as watcher,
    ):
        assert select.select([watcher], [], [], 5)[0]
        assert watcher.ready
        assert not silent.ready
        watcher.read()
        assert not watcher.ready
    assert not watcher.ready


def test_closing_without_an_acknowledgement_keeps_what_was_read(p: Papa) -> None:
    p.make_process("x", "/bin/echo", ["hi"])
    ended(p, "x")
    for _ in range(2):
        watcher = p.watch_processes("x")
        batch = watcher.read()
        assert batch is not None
        assert [item.data for item in batch.out] == [b"hi\n"]
        watcher.close(acknowledge=False)


def test_a_consumer_that_fails_loses_nothing(p: Papa) -> None:
    """What it was working on comes again, to the next; what it had left behind does not."""
    fifo = f"{p.port_or_path}.fifo"
    os.mkfifo(fifo)
    p.make_process("x", "/bin/sh", ["-c", "echo one; read line < $0; echo two", fifo])
    with pytest.raises(ZeroDivisionError), p.watch_processes("x") as watcher:
        assert [item.data for item in watcher.read()[0]] == [b"one\n"]  # type: ignore[index]
        watcher.acknowledge()
        Path(fifo).write_text("\n")
        assert [item.data for item in watcher.read()[0]] == [b"two\n"]  # type: ignore[index]
        raise ZeroDivisionError
    with p.watch_processes("x") as watcher:
        out = [item.data for batch in iter(watcher.read, None) for item in batch.out]
    assert out == [b"two\n"]
    os.unlink(fifo)


def test_an_acknowledgement_before_closing_counts(p: Papa, papad: Daemon) -> None:
    """However soon the connection ends after it."""
    for address in (papad.path, papad.port):
        for number in range(50):
            with Papa(address, autostart=False) as q:
                q.make_process(f"x{number}", "/bin/echo", ["hi"])
                ended(q, f"x{number}")
                watcher = q.watch_processes(f"x{number}")
                watcher.read()
                watcher.acknowledge()
                watcher.close()
            assert p.list_processes(f"x{number}") == {}


def test_more_of_make_process(p: Papa) -> None:
    p.make_socket("s")
    watcher = p.make_process(
        "x", 'echo $LISTEN_FDS:$LISTEN_FDNAMES; echo "$0"', shell=True, listen=["s"], watch_immediately=True
    )
    assert isinstance(watcher, Watcher)
    batch = watcher.read()
    assert batch is not None
    assert b"".join(item.data for item in batch.out if isinstance(item.data, bytes)).startswith(b"1:s\n")
    watcher.close()


@pytest.mark.parametrize("listen", ["s,t", ["s", "t"], (b"s", "t")])
def test_several_sockets_are_passed_however_they_are_named(p: Papa, listen: object) -> None:
    for name in "st":
        p.make_socket(name)
    watcher = p.make_process("x", "echo $LISTEN_FDNAMES", shell=True, listen=listen, watch_immediately=True)  # type: ignore[call-overload]
    assert b"".join(item.data for batch in watcher for item in batch.out) == b"s:t\n"


def test_a_structure_is_stored_as_json(p: Papa) -> None:
    for value in ({"workers": 3, "of": ["a", None]}, [], {}):
        p.set("state", value)
        assert json.loads(p.get("state") or "") == value
        assert list(p.list_values()) == ["state"]
    with pytest.raises(BadRequest, match="JSON"):
        p.set("state", {"a": object()})
    p.set("state")
    assert p.list_values() == {}


def test_a_name_that_is_a_pattern_can_still_be_removed(p: Papa, papad: Daemon) -> None:
    """Other clients may have made it."""
    with papad.connect() as talk:
        assert talk.ask("set a* x") == ""
    p.set("a*")
    assert p.list_values() == {}
    with pytest.raises(BadRequest, match="would be taken for a pattern"):
        p.set("a*", "x")


def test_settings_of_the_whole_program(papad: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Papa, "_default_port_or_path", None)
    monkeypatch.setattr(Papa, "_default_connection_timeout", 10)
    package.set_debug_mode(package.DEBUG_MODE_THREAD)
    package.set_default_connection_timeout(3)
    package.set_default_path(papad.path)
    with Papa() as p:
        assert (p.port_or_path, p.family, p.location, p.connection_timeout) == (
            papad.path,
            socket.AF_UNIX,
            papad.path,
            3,
        )
    package.set_default_port(papad.port)
    with Papa() as p:
        assert (p.port_or_path, p.family, p.location) == (papad.port, socket.AF_INET, ("127.0.0.1", papad.port))
    monkeypatch.setattr(Papa, "_default_port_or_path", None)
    monkeypatch.setenv("PAPAD_SOCKET", papad.path)
    with Papa() as p:
        assert p.port_or_path == papad.path


def test_a_follow_waits_as_long_as_it_is_told(p: Papa) -> None:
    with pytest.raises(TimedOut):
        next(p.follow("x", timeout=0.1))


def test_a_read_that_timed_out_can_be_tried_again(p: Papa) -> None:
    p.make_process("x", "/bin/sh", ["-c", "sleep 0.4; echo hi"])
    watcher = p.watch_processes("x")
    with pytest.raises(TimedOut):
        watcher.read(timeout=0.05)
    out = []
    while (batch := watcher.read()) is not None:
        out += [item.data for item in batch.out]
    assert out == [b"hi\n"]
    assert watcher.exit_code == {"x": 0}


def test_an_interrupted_command_leaves_no_answer_for_the_next(p: Papa, monkeypatch: pytest.MonkeyPatch) -> None:
    p.set("a", "1")
    assert p.connection is not None
    receive = p.connection._receive

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(p.connection, "_receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        p.get("a")
    assert receive is not interrupted
    assert p.list_processes() == {}
    assert p.get("a") == "1"


def test_os_paths_and_numbers_are_words(p: Papa, tmp_path: Path) -> None:
    p.make_process("x", Path("/bin/echo"), [tmp_path, 5, None, "", b"b"], working_dir=tmp_path, uid=os.getuid())
    assert p.describe("processes")[0]["args"] == ["/bin/echo", str(tmp_path), "5", "", "b"]
