"""`Papa`: what comes of a command, whatever happens to its connection. tests/client has it against a real papad."""

from __future__ import annotations

import inspect
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from papad import Error, Papa, Refused, Unreachable
from tests.support.papad import REPOSITORY, no_new_fds
from tests.support.peer import Last, Peer
from tests.support.twins import GET, PAPAS, outcome, timeout

NOTHING = b"\n> "


@pytest.mark.parametrize("name", PAPAS)
def test_what_comes_of_a_command(tmp_path: Path, name: str) -> None:
    case = PAPAS[name]
    with (
        Peer(tmp_path / "s", case.answers) as peer,
        Papa(peer.path, 20, timeout=timeout(case.expected), autostart=False) as p,
        outcome(case.expected) as found,
    ):
        result: Any = getattr(p, case.method)(*case.args, **case.options)
        found.append(list(result) if inspect.isgenerator(result) else result)
    assert len(peer.heard) == sum(map(len, case.answers.values()))


def test_a_papa_that_was_closed_connects_again(tmp_path: Path) -> None:
    with Peer(tmp_path / "s", {GET: [NOTHING] * 2}) as peer, Papa(peer.path, 20, autostart=False) as p:
        for connections in (1, 2):
            assert p.get("a") is None
            assert p.fileno() is not None
            assert peer.connections == connections
            p.close()
            assert p.fileno() is None


@pytest.mark.parametrize("autostart", [True, False])
def test_who_is_refused_is_told_at_once(tmp_path: Path, autostart: bool) -> None:
    """And no papad is started."""
    with (
        Peer(tmp_path / "s", {}, Last(b"Error: not you\n> ")) as peer,
        pytest.raises(Refused, match="not you"),
    ):
        Papa(peer.path, 20, autostart=autostart)
    assert peer.connections == 1


def test_a_first_connection_that_is_lost_is_tried_again(tmp_path: Path) -> None:
    """papad leaves, or restarts: no other need be started."""
    with Peer(tmp_path / "s", {GET: [NOTHING]}, Last(b""), Last(b"Papa is ho")) as peer, Papa(peer.path, 20) as p:
        assert p.get("a") is None
        assert peer.connections == 3


@pytest.mark.parametrize("says", [b"Papa is ho", Last(b"Papa is ho")], ids=["silent", "lost"])
@pytest.mark.parametrize("autostart", [True, False])
def test_a_papad_that_never_welcomes_is_unreachable(tmp_path: Path, says: bytes, autostart: bool) -> None:
    with (
        Peer(tmp_path / "s", {}, *[says] * 100),
        pytest.raises(Unreachable, match=r"^could not connect to papad in 0\.2 seconds: "),
    ):
        Papa(tmp_path / "s", 0.2, autostart=autostart)


def test_a_path_must_be_absolute() -> None:
    with pytest.raises(Error, match="must be absolute, not 'relative'"):
        Papa("relative")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_address_of_somebody_else_is_left_alone() -> None:
    """Somebody answers there, but not to us: no papad is started, and nobody waits."""
    program = (
        "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.path.insert(0, sys.argv[2])\n"
        "from papad import Papa, Refused\n"
        "try: Papa(sys.argv[1])\n"
        "except Refused as error: print(error)"
    )
    with no_new_fds(), socket.socket(socket.AF_UNIX) as listener:
        listener.bind("/run/papad-test-refused.sock")
        try:
            os.chmod("/run/papad-test-refused.sock", 0o600)
            listener.listen()
            command = ["/usr/bin/python3", "-c", program, "/run/papad-test-refused.sock", str(REPOSITORY)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        finally:
            os.unlink("/run/papad-test-refused.sock")
    assert "no permission to talk to papad" in done.stdout
