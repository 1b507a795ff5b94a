"""Every call that the README of papa 1.0.6 describes, made with its unmodified client and with ours, over TCP and over Unix."""

from __future__ import annotations

import ast
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.original.client import CLIENT_LEAKS, read_all
from tests.original.servers import Server
from tests.support.waiting import wait_until

pytestmark = CLIENT_LEAKS

SERVE = """
import os, socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
while True:
    connection, _ = listener.accept()
    connection.sendall(str(os.getpid()).encode())
    connection.close()
"""

# What the client can send: it fails on empty values, and cannot express newlines, quotes or spaces at the ends.
ENVIRONMENT = {
    key: value for key, value in os.environ.items() if value.strip(' "') == value != "" and "\n" not in value
}


class TestConnection:
    def test_default_address(self, papa: ModuleType, address: int | str) -> None:
        p = papa.Papa()
        assert p.port_or_path == address
        assert p.list_values() == {}
        assert p.fileno() > 2
        p.close()
        assert p.fileno() is None

    def test_with(self, papa: ModuleType, address: int | str) -> None:
        with papa.Papa(address) as p:
            p.set("a", "1")
        with papa.Papa(address) as p:
            assert p.get("a") == "1"

    def test_a_closed_object_connects_again(self, p: Any) -> None:
        p.set("a", "1")
        p.close()
        assert p.get("a") == "1"

    def test_tcp_and_unix_share_one_state(self, papa: ModuleType, p: Any, papad: Server) -> None:
        p.set("a", "1")
        for other in (papad.port, papad.path):
            with papa.Papa(other) as q:
                assert q.get("a") == "1"

    def test_many_connections(self, papa: ModuleType, address: int | str) -> None:
        connections = [papa.Papa(address) for _ in range(100)]
        for number, connection in enumerate(connections):
            connection.set(f"v{number}", str(number))
        assert len(connections[0].list_values()) == 100
        for connection in connections:
            connection.close()

    def test_exit_if_idle(self, papa: ModuleType, p: Any, papad: Server) -> None:
        p.set("a", "1")
        assert p.exit_if_idle() is False
        p.set("a")
        assert p.exit_if_idle() is True
        wait_until(papad.ended, "papad has left")

    def test_the_installed_package(self, papa: ModuleType, venv: Path, address: int | str) -> None:
        """As the README begins: a program of its own that imports papa."""
        program = (
            f"from {papa.__name__} import Papa\nwith Papa({address!r}) as p: print(p.make_socket('uwsgi')['family'])"
        )
        python = str(venv / "bin" / "python") if papa.__name__ == "papa" else sys.executable
        command = [python, "-W", "ignore", "-c", program]
        assert subprocess.run(command, capture_output=True, timeout=30, check=True).stdout == b"inet\n"


class TestValues:
    def test_set_get_list_remove(self, p: Any) -> None:
        assert p.list_values() == {}
        assert p.get("aack") is None
        p.set("aack", "bar")
        p.set("circus.state", '{"web": [1, 2]}')
        p.set("tweeter.x", "with  two spaces")
        assert p.get("aack") == "bar"
        assert p.list_values() == {"aack": "bar", "circus.state": '{"web": [1, 2]}', "tweeter.x": "with  two spaces"}
        assert p.list_values("circus.*", "nothing") == {"circus.state": '{"web": [1, 2]}'}
        assert p.list_values("nothing") == {}
        assert p.remove_values("circus.*") is True
        assert p.remove_values("aack", "nothing") is True
        assert p.list_values() == {"tweeter.x": "with  two spaces"}

    @pytest.mark.parametrize("cleared", [None, ""])
    def test_clear(self, p: Any, cleared: str | None) -> None:
        p.set("aack", "bar")
        p.set("aack", cleared)
        assert p.get("aack") is None
        assert p.list_values() == {}

    def test_newlines_arrive_as_spaces_from_the_original_and_as_they_are_from_us(
        self, papa: ModuleType, p: Any
    ) -> None:
        p.set("a", "one\ntwo")
        assert p.get("a") == ("one two" if papa.__name__ == "papa" else "one\ntwo")

    def test_beyond_ascii(self, p: Any) -> None:
        p.set("schlüssel", "日本 ö")
        assert p.list_values() == {"schlüssel": "日本 ö"}

    def test_a_long_one(self, p: Any) -> None:
        p.set("long", "x" * 500_000)
        assert p.get("long") == "x" * 500_000

    def test_not_all_at_once(self, papa: ModuleType, p: Any) -> None:
        for patterns in ((), ("*",)):
            with pytest.raises(papa.Error, match="You cannot remove all variables"):
                p.remove_values(*patterns)


class TestSockets:
    def test_make_list_remove(self, papa: ModuleType, p: Any, tmp_path: Path) -> None:
        backlog = 5 if papa.__name__ == "papa" else 4096  # ours asks for one that suits a web site
        assert p.list_sockets() == {}
        made = p.make_socket("uwsgi")
        assert set(made) == {"family", "type", "backlog", "host", "port", "fileno"}
        assert (made["family"], made["type"], made["backlog"], made["host"]) == ("inet", "stream", backlog, "127.0.0.1")
        assert made["port"] > 0
        assert made["fileno"] > 2
        path = str(tmp_path / "u.sock")
        unix = p.make_socket("circus.unix", path=path, umask=0o77, backlog=64)
        expected = {"family": "unix", "type": "stream", "backlog": 64, "path": path, "umask": "63"}
        assert unix == expected | {"fileno": unix["fileno"]}
        assert p.list_sockets() == {"uwsgi": made, "circus.unix": unix}
        assert p.list_sockets("circus.*", "nothing") == {"circus.unix": unix}
        assert p.list_sockets("nothing") == {}
        for family, where in ((socket.AF_INET, ("127.0.0.1", made["port"])), (socket.AF_UNIX, path)):
            with socket.socket(family) as client:
                client.connect(where)
        assert p.remove_sockets("circus.*") is True
        assert not os.path.exists(path)
        assert p.remove_sockets("uwsgi") is True
        assert p.list_sockets() == {}

    def test_given_port_and_same_again(self, papa: ModuleType, p: Any) -> None:
        port = p.make_socket("probe")["port"]
        p.remove_sockets("probe")
        made = p.make_socket("uwsgi", port=port)
        assert made["port"] == port
        assert p.make_socket("uwsgi", port=port) == made
        assert p.make_socket("uwsgi") == made
        with pytest.raises(papa.Error, match="Socket for uwsgi has already been created - uwsgi family=inet"):
            p.make_socket("uwsgi", backlog=99)
        with pytest.raises(papa.Error, match=r"Bind failed on 127\.0\.0\.1:"):
            p.make_socket("other", port=port)

    def test_families_types_and_hosts(self, p: Any) -> None:
        six = p.make_socket("six", family=socket.AF_INET6, socket_type=socket.SOCK_STREAM)
        assert (six["family"], six["host"]) == ("inet6", "::1")
        assert p.make_socket("any", host="0.0.0.0")["host"] == "0.0.0.0"
        assert p.make_socket("datagrams", socket_type=socket.SOCK_DGRAM)["type"] == "dgram"

    def test_reuseport(self, p: Any, tmp_path: Path) -> None:
        (tmp_path / "serve.py").write_text(SERVE)
        made = p.make_socket("r", reuseport=True)
        assert made["reuseport"] == "1"
        assert "fileno" not in made
        for name in ("w1", "w2"):
            p.make_process(name, sys.executable, ["serve.py", "$(socket.r.fileno)"], working_dir=str(tmp_path))
        served = set()

        def both() -> bool:
            with socket.create_connection(("127.0.0.1", made["port"])) as client:
                served.add(client.recv(100))
            return len(served) == 2

        wait_until(both, "both processes have served")

    def test_errors(self, papa: ModuleType, p: Any) -> None:
        with pytest.raises(papa.Error, match="absolute"):
            p.make_socket("uwsgi", path="relative.sock")
        with pytest.raises(papa.Error, match="requires a name"):
            p.make_socket("")
        with pytest.raises(papa.Error, match="nothing not found"):
            p.remove_sockets("nothing")
        assert p.remove_sockets("nothing*") is True
        assert p.list_sockets() == {}


class TestProcesses:
    def test_make_list_remove(self, p: Any) -> None:
        assert p.list_processes() == {}
        made = p.make_process("sf", "/bin/sleep", args=["60"])
        assert set(made) == {"pid", "running", "started", "args"}
        assert made["running"] is True
        assert isinstance(made["started"], float)
        assert made["args"] == "/bin/sleep 60"
        assert p.list_processes("s*") == {"sf": made}
        assert p.make_process("sf", "/bin/sleep", args=("60",)) == made
        assert p.remove_processes("sf") is True
        os.kill(made["pid"], signal.SIGTERM)
        wait_until(lambda: p.list_processes() == {}, "the process is forgotten")

    def test_the_example_of_the_readme(self, p: Any, tmp_path: Path) -> None:
        port = p.make_socket("uwsgi", port=None)["port"]
        (tmp_path / "serve.py").write_text(SERVE)
        arguments = ("serve.py", "$(socket.uwsgi.fileno)")
        made = p.make_process("uwsgi", sys.executable, args=arguments, working_dir=str(tmp_path), env=ENVIRONMENT)
        p.make_process("receiver", "/bin/echo", args=("$(socket.uwsgi.port)",), working_dir="/", env=ENVIRONMENT)
        assert set(p.list_processes()) == {"uwsgi", "receiver"}
        assert read_all(p.watch_processes("receiver")) == (f"{port}\n".encode(), b"", {"receiver": 0})
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            assert client.recv(100) == str(made["pid"]).encode()

    def test_environment(self, p: Any) -> None:
        env = ENVIRONMENT | {"TWO": "two words", "SLASH": "ends in \\", "MORE": "a=b", "LONG": "x" * 100_000}
        p.make_process("env", sys.executable, ["-c", "import os; print(dict(os.environb))"], env=env)
        out, err, _ = read_all(p.watch_processes("env"))
        assert err == b""
        sent = {os.fsencode(key): os.fsencode(value) for key, value in env.items()}
        got = ast.literal_eval(out.decode())
        assert got == sent

    def test_an_empty_value_in_the_environment(self, papa: ModuleType, p: Any) -> None:
        """The original client's own quoting fails on it, so there the line is sent as a client would have to."""
        if papa.__name__ == "papa":
            p._do_command(["m", "p", "e", "env.EMPTY=", "/usr/bin/env"])
        else:
            p.make_process("e", "/usr/bin/env", env={"EMPTY": ""})
        assert read_all(p.watch_processes("e")) == (b"EMPTY=\n", b"", {"e": 0})

    def test_no_environment(self, p: Any) -> None:
        p.make_process("env", "/usr/bin/env")
        assert read_all(p.watch_processes("env")) == (b"", b"", {"env": 0})

    def test_arguments_as_text_and_number(self, p: Any) -> None:
        p.make_process("one", "/bin/echo", args="one word")
        assert read_all(p.watch_processes("one"))[0] == b"one word\n"
        p.make_process("number", "/bin/echo", args=5)
        assert read_all(p.watch_processes("number"))[0] == b"5\n"

    @pytest.mark.skipif(os.getuid() != 0, reason="only root may change user")
    def test_user_and_group(self, p: Any) -> None:
        made = p.make_process("who", "/bin/sh", ["-c", "id -u; id -g; id -G"], uid="nobody", gid="nogroup")
        assert (made["uid"], made["gid"]) == ("65534", "65534")
        assert read_all(p.watch_processes("who"))[0] == b"65534\n" * 3
        made = p.make_process("who", "/usr/bin/id", ["-u"], uid=65534)
        assert read_all(p.watch_processes("who"))[0] == b"65534\n"

    def test_limits(self, p: Any) -> None:
        p.make_process("lim", "/bin/sh", ["-c", "ulimit -n; ulimit -c"], rlimits={"nofile": 77, "CORE": 0})
        assert read_all(p.watch_processes("lim"))[0] == b"77\n0\n"

    def test_streams(self, papa: ModuleType, p: Any) -> None:
        script = ["-c", "echo out; echo err >&2"]
        cases = [
            ({}, (b"out\n", b"err\n")),
            ({"stdout": papa.PIPE, "stderr": papa.PIPE}, (b"out\n", b"err\n")),
            ({"stdout": papa.DEVNULL}, (b"", b"err\n")),
            ({"stderr": papa.DEVNULL}, (b"out\n", b"")),
            ({"stderr": papa.STDOUT}, (b"out\nerr\n", b"")),
            ({"bufsize": 0}, (b"", b"")),
            ({"bufsize": "2k"}, (b"out\n", b"err\n")),
        ]
        for options, expected in cases:
            p.make_process("x", "/bin/sh", script, **options)
            assert read_all(p.watch_processes("x"))[:2] == expected, options

    def test_errors(self, papa: ModuleType, p: Any) -> None:
        first = p.make_process("a", "/bin/sleep", ["60"])
        with pytest.raises(papa.Error, match=f"Process for a has already been created - a pid={first['pid']}"):
            p.make_process("a", "/bin/sleep", ["61"])
        for expected, options in (
            ("Bad command", {"executable": "/no/such/program"}),
            ("Bad working_dir", {"executable": "/bin/true", "working_dir": "/no/such/folder"}),
            ("not a valid user name", {"executable": "/bin/true", "uid": "no-such-user"}),
            ("No such group", {"executable": "/bin/true", "gid": "no-such-group"}),
            ("Unknown rlimit", {"executable": "/bin/true", "rlimits": {"bogus": 1}}),
            ("Socket nothing not found", {"executable": "/bin/true", "args": "$(socket.nothing.port)"}),
            ("stdout must be", {"executable": "/bin/true", "stdout": 5}),
            ("No command", {}),
        ):
            with pytest.raises(papa.Error, match=expected):
                p.make_process("b", **options)
        assert set(p.list_processes()) == {"a"}
        with pytest.raises(papa.Error, match="b not found"):
            p.remove_processes("b")
