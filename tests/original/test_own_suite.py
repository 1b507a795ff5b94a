"""papa's own test suite, as its package installs it, with its own client; only the server is papad.

The package lacks the programs that the suite starts, so here are such as it expects.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.original.servers import running_papad

PROGRAMS = {
    "write_three_lines.py": """
import sys, time
for line in (f"Version: {sys.version.split(' ')[0]}", f"Executable: {sys.executable}", "Args: " + " ".join(sys.argv[1:])):
    if not line.startswith("Version"):
        time.sleep(0.1)
    print(line, flush=True)
print("done", end="", file=sys.stderr)
""",
    "echo_server.py": """
import socket, sys
connection, _ = socket.socket(fileno=int(sys.argv[1])).accept()
for data in iter(lambda: connection.recv(1024), b""):
    connection.sendall(data)
    print(data.decode(), end="")
""",
    "echo_client.py": """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    connection.sendall(b"howdy\\n")
    print(connection.recv(1024).decode(), end="")
""",
}
# It wants a server that is as new for each test; its client would start one in a thread of its own.
RUN = """
import socket, sys, unittest
import papa, tests
port, tests.here, *names = sys.argv[1:]
papa.set_default_port(int(port))
papa.Papa.spawned = True
socket.setdefaulttimeout(20)
suite = unittest.defaultTestLoader.loadTestsFromNames(names, tests)
result = unittest.TextTestRunner().run(suite)
sys.exit(result.testsRun != len(names) or bool(result.skipped) or not result.wasSuccessful())
"""
LIST = """
import unittest, tests
for each in (tests.SocketTest, tests.ValueTest, tests.ProcessTest):
    print(*(f"{each.__name__}.{name}" for name in unittest.defaultTestLoader.getTestCaseNames(each)), sep="\\n")
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What the suite and its client can do with: no empty variable, and a name of a user."""
    kept = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
    return kept | {"LOGNAME": "root" if os.geteuid() == 0 else str(os.geteuid()), "TMPDIR": str(tmp_path)}


def test_papas_own_tests_pass(venv: Path, environment: dict[str, str], tmp_path: Path) -> None:
    def python(*args: str) -> subprocess.CompletedProcess[str]:
        command = [str(venv / "bin" / "python"), "-W", "ignore", "-c", *args]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    programs = tmp_path / "executables"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(text)
    names = python(LIST).stdout.split()
    assert len(names) == 29
    if not Path("/sys/class/net/eth0").exists():  # two of them bind to it
        names = [name for name in names if not name.endswith("_interface")]
    failed = {}
    for name in names:
        with running_papad(tmp_path / "papad") as papad:
            done = python(RUN, str(papad.port), str(tmp_path), name)
        if done.returncode:
            failed[name] = done.stderr
    assert not failed, "\n".join(failed.values())
