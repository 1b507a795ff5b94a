"""papad on other machines: the remote end of -H, and command lines for several hosts at once."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from heapq import merge
from itertools import chain, islice
from operator import attrgetter
from typing import IO

from papad.ctl.connect import ONLY_HOST, Session
from papad.ctl.lines import Line, newest_lines, oldest_lines
from papad.ctl.output import count_of, lines_of, look_of, newest_first, show, style_of
from papad.ctl.parser import Call, Hosts, Usage
from papad.ctl.render import safe
from papad.ctl.run import CannotConnect
from papad.errors import Error
from papad.protocol.wire import WELCOME


def bridge(call: Call, session: Session) -> int:
    """Connect standard input and output to papad until papad closes the connection."""
    with session.connect() as client:
        sock = client.sock
        sock.settimeout(None)
        sources = [sock.fileno(), 0]
        try:
            _write(1, WELCOME)  # the welcome of papad, which the client has read
            while True:
                for source in select.select(sources, [], [])[0]:
                    data = os.read(source, 65536)
                    if source == 0 and data:
                        sock.sendall(data)
                    elif source == 0:
                        sources.remove(0)
                        sock.shutdown(socket.SHUT_WR)
                    elif data:
                        _write(1, data)
                    else:
                        return 0
        except ConnectionError:  # papad was killed, or the local end is gone
            return 0


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def on_each(argv: list[str], call: Call) -> int:
    """Run a command line for all hosts at once, with the host before each line of output.

    Return the highest exit status.
    """
    for option in ("cursor_file", "after_cursor", "show_cursor"):
        if call.flag(option):
            raise Usage(f"--{option.replace('_', '-')} works with one host only")
    sessions = [Session(call.text("socket"), call.text("port"), host, label=f"{host}: ") for host in call.texts("host")]
    if call.command.hosts is Hosts.MERGE and not call.live:
        return _merged(call, sessions)
    if call.command.hosts is Hosts.REFUSE or call.text("output") == "export":
        raise Usage(f"{call.command.name} in this form works with one host only")
    return _separate(call.texts("host"), argv, call)


def _merged(call: Call, sessions: list[Session]) -> int:
    """Run `output` on several hosts, and merge the lines by time."""
    statuses: list[int] = []
    look = look_of(call, sessions[0], style_of(call))
    count, oldest = count_of(call)
    reverse = newest_first(call)

    def of_one(session: Session) -> Iterator[Line]:
        assert session.host is not None
        try:
            for line in lines_of(call, session):
                yield line._replace(host=session.host)
        except (CannotConnect, Error) as error:
            statuses.append(3 if isinstance(error, CannotConnect) else 1)
            for text in [f"papactl: {error}", *getattr(error, "hint", "").splitlines()]:
                sys.stderr.write(f"{session.host}: {text}\n")

    def format(line: Line) -> bytes:
        text = look._replace(host=line.host).format(line)
        return _named(line.host, text, call) if text and look.style != "export" else text

    with ExitStack() as stack:
        for session in sessions:
            stack.enter_context(session)
            session.begin()
        lines: Iterable[Line] = merge(*map(of_one, sessions), key=attrgetter("timestamp"), reverse=reverse)
        if count is not None:
            lines = oldest_lines(lines, count) if oldest or reverse else newest_lines(lines, count)
        lines = iter(lines)
        first = list(islice(lines, 1))
        if first or len(statuses) < len(sessions):  # at least one host has answered
            statuses.append(show(call, chain(first, lines), format))
    return max(statuses)


def _separate(hosts: list[str], argv: list[str], call: Call) -> int:
    """Run one papactl for each host.

    Its output is forwarded immediately if it is live, otherwise host by host at the end.
    """
    runs = [_papactl(host, argv) for host in hosts]
    pipes = []
    for host, run in zip(hosts, runs, strict=True):
        pipes += [_Pipe(host, run.stdout, call, live=call.live), _Pipe(host, run.stderr, None, live=True)]
    _pass_on(pipes)
    return max(status if status >= 0 else 128 - status for status in (run.wait() for run in runs))


def _papactl(host: str, argv: list[str]) -> subprocess.Popen[bytes]:
    """Run the same command line for one host.

    It exits when nothing reads its output any more, so at the latest when this program exits.
    """
    # -P keeps modules of the current folder out. The child gets our sys.path, but not through the
    # environment, which the programs that ssh runs would inherit.
    code = f"import sys; sys.path[:] = {sys.path!r}; from papad.ctl import main; main()"
    command = [sys.executable, "-P", "-c", code, *argv]
    env = {**os.environ, ONLY_HOST: host}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)


class _Pipe:
    """A pipe from one papactl: its standard output if `call` is given, otherwise standard error."""

    def __init__(self, host: str, source: IO[bytes] | None, call: Call | None, *, live: bool) -> None:
        assert source is not None
        self.source = source
        self.live = live
        self._host = host
        self._call = call
        self._target = sys.stdout if call else sys.stderr
        self._safe = self._target is not None and self._target.isatty() and not (call and call.flag("all"))
        self._lines: list[bytes] = []
        self._rest = b""

    def read(self) -> bool:
        """Read once. Return whether there may be more."""
        data = os.read(self.source.fileno(), 65536)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data and self._rest:
            lines.append(self._rest)
        self._lines += lines
        return bool(data)

    def write(self) -> None:
        """Write the lines read so far, with the name of the host."""
        if self._lines and self._target is not None:
            lines = [safe(line).encode() for line in self._lines] if self._safe else self._lines
            self._target.buffer.write(b"".join(_named(self._host, line, self._call) + b"\n" for line in lines))
            self._target.buffer.flush()
        self._lines.clear()


def _pass_on(pipes: list[_Pipe]) -> None:
    """Forward the output of all hosts until all have ended; what is not live, host by host."""
    poll = select.poll()
    poll.register(1, 0)  # reports when the reader of our output is gone
    open_pipes = {pipe.source.fileno(): pipe for pipe in pipes}
    for fd in open_pipes:
        poll.register(fd, select.POLLIN)
    while open_pipes:
        for fd, _ in poll.poll():
            if fd == 1:
                raise BrokenPipeError
            pipe = open_pipes[fd]
            if not pipe.read():
                poll.unregister(fd)
                del open_pipes[fd]
            if pipe.live:
                pipe.write()
    for pipe in pipes:
        pipe.write()


def _named(host: str, line: bytes, call: Call | None) -> bytes:
    """Add the name of the host to a line: before it, or as a key if the output is JSON."""
    if call and style_of(call).startswith("json") and line.startswith(b"{"):
        from json import dumps

        return b'{"host": ' + dumps(host).encode() + (b"" if line.startswith(b"{}") else b", ") + line[1:]
    return f"{host}: ".encode("utf-8", "surrogateescape") + line
