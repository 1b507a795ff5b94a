"""Programs made to be passed sockets, unchanged on one of papad's, each replaced by a newer one while clients connect."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest

from tests.support.waiting import wait_until
from tests.system.machine import Machine
from tests.system.papad import TOOLS, Papad, field, pid_of

GENERATIONS = 3
FOLDER = "/run/test"
APPLICATIONS = """import os
NAME = os.environ["NAME"].encode()

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [NAME]

async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": NAME})
"""
PLAIN = """import os, select, signal, socket
assert os.environ["LISTEN_PID"] == str(os.getpid()) and os.environ["LISTEN_FDS"] == "1"
assert os.environ["LISTEN_FDNAMES"] == "web"
listener = socket.socket(fileno=3)
listener.setblocking(False)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
while signal.SIGTERM not in signal.sigpending():  # between two connections, not within one
    if select.select([listener], [], [], 0.02)[0]:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            continue
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + os.environ["NAME"].encode())
"""
# O_NONBLOCK is the socket's, for all who share it. nginx takes it to be set: otherwise a worker that loses the race for a connection
# to another process waits in accept(), with requests in its hands.
NONBLOCKING = """import os, sys
os.set_blocking(3, False)
os.execv(sys.argv[1], sys.argv[1:])
"""
NGINX = """pid {folder}/{name}.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    server {{
        listen {address};
        location / {{ return 200 {name}; }}
    }}
}}
"""


class Program(NamedTuple):
    command: str
    signal: str = "TERM"  # what makes it end gracefully
    drops: int = 0  # how many connections that it has accepted it may close without an answer then


# nginx needs no `daemon off`: it stays in the foreground where NGINX= is set. uvicorn, as it ends, closes a connection whose request
# it has not read yet; there is one at most, as the load has one connection at a time.
PROGRAMS = {
    "plain": Program(f"/usr/bin/python3 {FOLDER}/plain.py"),
    "gunicorn": Program(f"/usr/bin/gunicorn --pythonpath {FOLDER} applications:wsgi"),
    "uvicorn": Program(f"/usr/bin/python3 -m uvicorn --fd 3 --app-dir {FOLDER} applications:asgi", drops=1),
    "nginx": Program(
        f"env.NGINX=3; /usr/bin/python3 {FOLDER}/nonblocking.py /usr/sbin/nginx -c {FOLDER}/{{name}}.conf", "QUIT"
    ),
}


def start(papad: Papad, program: Program, name: str, address: str) -> None:
    """A process that answers its name at the socket `web`; returns once it does."""
    papad.machine.write(f"{FOLDER}/applications.py", APPLICATIONS)
    papad.machine.write(f"{FOLDER}/plain.py", PLAIN)
    papad.machine.write(f"{FOLDER}/nonblocking.py", NONBLOCKING)
    papad.machine.write(f"{FOLDER}/{name}.conf", NGINX.format(folder=FOLDER, name=name, address=address))
    command = program.command.format(name=name)
    made = papad.ask(f"make process {name} listen=web env.NAME={name} {command}")
    assert "running=True" in made, made
    wait_until(lambda: answer(papad.machine, address) == name, f"{name} serves")


ASK = """import socket, sys
path = sys.argv[1].removeprefix("unix:")
host, _, port = path.rpartition(":")
connection = socket.socket(socket.AF_INET if host else socket.AF_UNIX)
connection.settimeout(20)
connection.connect((host, int(port)) if host else path)
connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
print(connection.makefile(newline="").read().rpartition("\\r\\n\\r\\n")[2])
"""


def answer(machine: Machine, address: str) -> str:
    """Who serves a connection."""
    return machine.out("/usr/bin/python3", "-c", ASK, address)


def end(papad: Papad, program: Program, name: str) -> None:
    papad.machine.run("kill", f"-{program.signal}", str(pid_of(papad, name)))
    wait_until(lambda: field(papad.ask(f"list processes {name}"), "running") == "False", f"{name} has ended")


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_is_replaced_while_clients_connect(machine: Machine, papad: Papad, kind: str) -> None:
    """Three generations; no connection is refused as each takes over, and none is lost but by what the program does itself."""
    program = PROGRAMS[kind]
    port = field(papad.ask("make socket web backlog=128"), "port")
    names = [f"{kind}.{generation}" for generation in range(GENERATIONS)]
    with machine.running("/usr/bin/python3", f"{TOOLS}/load.py", port, "200", "/") as load:
        assert load.stdin is not None
        assert load.stdout is not None
        for older, newer in zip([None, *names], names, strict=False):
            start(papad, program, newer, f"127.0.0.1:{port}")
            if older:
                end(papad, program, older)
        load.stdin.close()
        report = json.loads(load.stdout.read().removeprefix("started\n"))
    dropped = [failure for failure in report["failures"] if "ConnectionResetError" in failure]
    assert report["failures"] == dropped
    assert len(dropped) <= program.drops * (GENERATIONS - 1)
    assert report["answers"] == names
    assert report["count"] > 50
    end(papad, program, names[-1])


@pytest.mark.parametrize("kind", PROGRAMS)
def test_the_path_of_a_unix_socket_stays_when_the_program_ends(machine: Machine, papad: Papad, kind: str) -> None:
    path = f"{FOLDER}/{kind}.sock"
    papad.ask(f"make socket web path={path}")
    for name in (f"{kind}.0", f"{kind}.1"):
        start(papad, PROGRAMS[kind], name, f"unix:{path}")
        end(papad, PROGRAMS[kind], name)
    assert machine.root(path).is_socket()
