"""The options of a socket: one declaration is all that a new one needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import papad
from papad import Papa
from papad.protocol.options import SOCKET_OPTIONS, SocketOption, mode, owner
from tests.support.waiting import wait_until

DECLARED = """
import socket
SOCKET_OPTIONS += (
    SocketOption("v6only", flag, "refuse IPv4", only="inet", sockopt=(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)),
)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An installation of papad with one option more."""
    folder = tmp_path / "more"
    shutil.copytree(Path(papad.__file__).parent, folder / "papad", ignore=shutil.ignore_patterns("__pycache__"))
    with open(folder / "papad/protocol/options.py", "a") as file:
        file.write(DECLARED)
    return folder


def papactl(folder: Path, where: str, *args: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", "from papad.ctl import main; main()", "--socket", where, *args],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True, timeout=30, check=True,
    ).stdout  # fmt: skip


def test_an_option_that_is_declared_is_known_everywhere(tmp_path: Path, folder: Path) -> None:
    """By papad, which sets and describes it, by papactl and its help, and by the client."""
    where = str(tmp_path / "papad.sock")
    environ = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "papad.daemon.main", "-u", where]
    with subprocess.Popen(command, cwd=folder, env=environ) as daemon:
        try:
            wait_until(lambda: os.path.exists(where), "papad listens")
            made = papactl(folder, where, "make", "socket", "one", "--family", "inet6", "--v6only")
            assert " v6only=1 " in made
            with Papa(where) as client:
                (found,) = client.describe("sockets", "one")
                assert found["v6only"] == 1
                assert client.make_socket("two", family=10, v6only=1)["v6only"] == "1"
                with pytest.raises(Exception, match="has already been created"):
                    client.make_socket("two", family=10, v6only=0)
                plain = client.make_socket("plain", family=10, v6only=0)
                assert "v6only" not in plain
                assert client.make_socket("plain", family=10) == plain
                assert "v6only" not in client.make_socket("unix", path=str(tmp_path / "unix"), v6only=0)
                with pytest.raises(Exception, match="v6only must be 0 or 1"):
                    client.make_socket("three", family=10, v6only="maybe")
                with pytest.raises(Exception, match="A Unix socket has no v6only"):
                    client.make_socket("three", path=str(tmp_path / "x"), v6only=1)
                with pytest.raises(Exception, match="Cannot set v6only=1"):
                    client.make_socket("three", v6only=1)
            assert "--v6only" in papactl(folder, where, "help", "make", "socket")
        finally:
            daemon.terminate()


@pytest.mark.parametrize("option", SOCKET_OPTIONS, ids=lambda option: option.name)
def test_help_is_written_for_the_protocol_and_for_papactl(option: SocketOption) -> None:
    for text in (option.help, option.papactl_help):
        assert option.description in text
        assert text.startswith(f"{option.only}: ") or not option.only


@pytest.mark.parametrize(("text", "value"), [("0", "0000"), ("660", "0660"), ("0777", "0777"), ("0007", "0007")])
def test_a_mode_is_octal(text: str, value: str) -> None:
    assert mode(text) == value


@pytest.mark.parametrize("text", ["", "8", "01000", "1777", "00660", "0o660", "-1", "rw", "\u0663"])
def test_what_is_no_mode_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an octal number from 0 to 0777, such as 0660"):
        mode(text)


@pytest.mark.parametrize(
    ("text", "value"), [("a", "a"), ("a:b", "a:b"), ("a:", "a:"), (":b", ":b"), ("007:08", "7:8"), ("\u0663", "3")]
)
def test_an_owner_has_plain_numbers(text: str, value: str) -> None:
    assert owner(text) == value


@pytest.mark.parametrize("text", ["", ":", "a:b:c", "4294967295", ":4294967295", "9" * 5000])
def test_what_is_no_owner_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="USER, USER:GROUP, USER: or :GROUP, by name or number"):
        owner(text)


def test_help_says_which_of_mode_and_umask_is_octal() -> None:
    """umask is decimal in the protocol, as in the original, and octal for papactl; mode is octal for both."""
    told = {option.name: (option.help, option.papactl_help) for option in SOCKET_OPTIONS}
    assert ["octal" in text for text in told["umask"]] == [False, True]
    assert ["octal" in text for text in told["mode"]] == [True, True]
