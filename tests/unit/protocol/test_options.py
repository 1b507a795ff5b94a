"""The options of a socket: one declaration is all that a new one needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from papad import Papa
from papad.protocol.options import SOCKET_OPTIONS, SocketOption
from tests.support.papad import REPOSITORY
from tests.support.waiting import wait_until

DECLARED = """
import socket, sys
from papad.protocol import options
options.SOCKET_OPTIONS += (
    options.SocketOption(
        "v6only", options.flag, "refuse IPv4", only="inet", sockopt=(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    ),
)
"""


def program(main: str, *args: str) -> list[str]:
    return [sys.executable, "-c", f"{DECLARED}from {main} import main; main()", *args]


def papactl(where: str, *args: str) -> str:
    return subprocess.run(
        program("papad.ctl", "--socket", where, *args),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout


def test_an_option_that_is_declared_is_known_everywhere(tmp_path: Path) -> None:
    """By papad, which sets and describes it, by papactl and its help, and by the client."""
    where = str(tmp_path / "papad.sock")
    with subprocess.Popen(program("papad.daemon.main", "-u", where), cwd=REPOSITORY) as daemon:
        try:
            wait_until(lambda: os.path.exists(where), "papad listens")
            made = papactl(where, "make", "socket", "one", "--family", "inet6", "--v6only")
            assert " v6only=1 " in made
            with Papa(where) as papa:
                (found,) = papa.describe("sockets", "one")
                assert found["v6only"] == 1
                assert papa.make_socket("two", family=10, v6only=1)["v6only"] == "1"
                with pytest.raises(Exception, match="has already been created"):
                    papa.make_socket("two", family=10, v6only=0)
                plain = papa.make_socket("plain", family=10, v6only=0)
                assert "v6only" not in plain
                assert papa.make_socket("plain", family=10) == plain
                assert "v6only" not in papa.make_socket("unix", path=str(tmp_path / "unix"), v6only=0)
                with pytest.raises(Exception, match="v6only must be 0 or 1"):
                    papa.make_socket("three", family=10, v6only="maybe")
                with pytest.raises(Exception, match="A Unix socket has no v6only"):
                    papa.make_socket("three", path=str(tmp_path / "x"), v6only=1)
                with pytest.raises(Exception, match="Cannot set v6only=1"):
                    papa.make_socket("three", v6only=1)
            assert "--v6only" in papactl(where, "help", "make", "socket")
        finally:
            daemon.terminate()


@pytest.mark.parametrize("option", SOCKET_OPTIONS, ids=lambda option: option.name)
def test_help_is_written_for_the_protocol_and_for_papactl(option: SocketOption) -> None:
    for text in (option.help, option.papactl_help):
        assert option.description in text
        assert text.startswith(f"{option.only}: ") or not option.only
