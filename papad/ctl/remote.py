"""papad on other machines: the bridge that runs over there, and one command line for several hosts at once."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import threading

from papad.ctl.connect import ONLY_HOST, CannotConnect, Session
from papad.ctl.parser import Call, Usage


def bridge(call: Call, session: Session) -> int:
    """Connect standard input and output to papad, until either side ends."""
    sock = socket.socket(socket.AF_INET if isinstance(session.address, int) else socket.AF_UNIX)
    try:
        sock.connect(("127.0.0.1", session.address) if isinstance(session.address, int) else session.address)
    except OSError:
        session.connect().close()  # it says what is wrong
        raise CannotConnect(f"cannot connect to papad at {session.where}") from None
    with sock, selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sock:
                    data = sock.recv(65536)
                    if not data:
                        return 0
                    _write(data)
                elif data := os.read(0, 65536):
                    sock.sendall(data)
                else:
                    selector.unregister(0)
                    sock.shutdown(socket.SHUT_WR)


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def on_each(argv: list[str], call: Call) -> int:
    """Run the same command line for every host, all at once, and print what each says with its name before it.

    Returns the highest exit status.
    """
    hosts = call.texts("host")
    if call.command.words == ("shell",) or (call.command.words == ("output",) and call.text("output") == "export"):
        raise Usage(f"{call.command.name} like this is for one host only")
    runs = [_Run(host, argv, call) for host in hosts]
    live = call.flag("follow") or call.command.words == ("watch",) or call.flag("watch")
    for run in runs:
        run.start(live)
    return max(run.finish() for run in runs)


_lock = threading.Lock()


class _Run:
    """One papactl for one host, and the two threads that pass on what it says."""

    def __init__(self, host: str, argv: list[str], call: Call) -> None:
        self._json = call.flag("json") or (call.command.words == ("output",) and call.text("output") == "json")
        self._host = host
        command = [sys.executable, "-c", "from papad.ctl import main; main()", *argv]
        path = os.pathsep.join([os.path.dirname(os.path.dirname(os.path.dirname(__file__))), *sys.path[1:]])
        env = {**os.environ, "PYTHONPATH": path, ONLY_HOST: host}
        self._popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
        self._kept: list[bytes] = []

    def start(self, live: bool) -> None:
        self._threads = [threading.Thread(target=self._pump, args=(fd, live), daemon=True) for fd in (1, 2)]
        for thread in self._threads:
            thread.start()

    def _pump(self, fd: int, live: bool) -> None:
        stream = self._popen.stdout if fd == 1 else self._popen.stderr
        assert stream is not None
        for line in stream:
            named = self._named(line if line.endswith(b"\n") else line + b"\n", fd)
            if fd == 1 and not live:
                self._kept.append(named)
            else:
                self._print(fd, named)

    def _named(self, line: bytes, fd: int) -> bytes:
        if fd == 1 and self._json and line.startswith(b"{"):
            from json import dumps

            comma = b"" if line.startswith(b"{}") else b", "
            return b'{"host": ' + dumps(self._host).encode() + comma + line[1:]
        return self._host.encode() + b": " + line

    def _print(self, fd: int, data: bytes) -> None:
        with _lock:
            stream = sys.stdout if fd == 1 else sys.stderr
            try:
                stream.buffer.write(data)
                stream.buffer.flush()
            except BrokenPipeError:
                self._popen.terminate()

    def finish(self) -> int:
        for thread in self._threads:
            thread.join()
        if self._kept:
            self._print(1, b"".join(self._kept))
        return abs(self._popen.wait())
