"""The far end of -H, and what several hosts say side by side; with hosts that answer: tests/ctl/test_remote.py."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from papad.ctl.parser import Usage
from papad.ctl.remote import _named, _pass_on, _Pipe, on_each
from papad.protocol.wire import WELCOME
from tests.ctl.support import COMMAND, environment
from tests.unit.ctl.support import called


@contextmanager
def bridged(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """The bridge as a program, and papad's side of its connection, which has not said anything yet."""
    path = str(folder / "papad.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        listening.settimeout(10)
        command = [*COMMAND, "--socket", path, "stdio-bridge"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, env=environment(), bufsize=0, **pipes) as popen, listening.accept()[0] as far:
            far.settimeout(10)
            yield popen, far


def test_the_bridge_passes_everything_on_until_papad_has_said_its_last(tmp_path: Path) -> None:
    said = bytes(range(256)) * 2000
    with bridged(tmp_path) as (popen, far):
        assert popen.stdin is not None
        assert popen.stdout is not None
        far.sendall(WELCOME)
        popen.stdin.write(b"\0\xff")
        popen.stdin.close()
        heard = b""
        while data := far.recv(100):
            heard += data
        assert heard == b"\0\xff"
        assert os.read(popen.stdout.fileno(), len(WELCOME)) == WELCOME
        far.sendall(said[:1000])
        assert os.read(popen.stdout.fileno(), 1000) == said[:1000], "it goes on after the end of its input"
        far.setblocking(False)
        sent = far.send(said)
        far.close()
        assert popen.stdout.read() == said[:sent]
        assert popen.wait(10) == 0


def test_the_bridge_ends_without_a_word_when_papad_is_killed(tmp_path: Path) -> None:
    """With a command unread, which makes it a connection reset."""
    with bridged(tmp_path) as (popen, killed):
        assert popen.stdin is not None
        killed.sendall(WELCOME)
        popen.stdin.write(b"get w\n")
        assert select.select([killed], [], [], 10)[0]
        killed.close()
        assert popen.wait(10) == 0
        assert popen.stderr is not None
        assert popen.stderr.read() == b""


@pytest.mark.parametrize("words", ["shell", "output -o export -f"])
def test_what_is_for_one_host_only_is_refused_before_ssh_runs(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    argv = ["-H", "one", "-H", "two", *words.split()]
    with pytest.raises(Usage, match="in this form works with one host only"):
        on_each(argv, called(*argv))


@pytest.mark.parametrize(
    ("words", "line", "named"),
    [
        ("list sockets", b"web port=1", b"one: web port=1"),
        ("list sockets --json", b'{"name": "web"}', b'{"host": "one", "name": "web"}'),
        ("output -o json", b"{}", b'{"host": "one"}'),
        ("output -o json", b"-- No entries --", b"one: -- No entries --"),
        ("output", b'{"a": 1}', b'one: {"a": 1}'),
        ("output", b"\xff", b"one: \xff"),
    ],
)
def test_each_line_tells_its_host(words: str, line: bytes, named: bytes) -> None:
    assert _named("one", line, called(*words.split())) == named


def test_what_is_live_is_passed_on_line_by_line_and_the_rest_host_by_host(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    call = called("list", "sockets")
    says = {"one": [b"a\nb", b"c\n"], "two": [b"d\n\n", b"no end"]}
    pipes = []
    for host, pieces in says.items():
        reading, writing = os.pipe()
        pipes.append(_Pipe(host, os.fdopen(reading, "rb", 0), call, live=False))
        with os.fdopen(writing, "wb", 0) as stream:
            stream.writelines(pieces)
    _pass_on(pipes)
    assert capsysbinary.readouterr().out == b"one: a\none: bc\ntwo: d\ntwo: \ntwo: no end\n"
    for pipe in pipes:
        pipe.source.close()
