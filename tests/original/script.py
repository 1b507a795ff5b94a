"""The scripts: text files of lines to send, played to a server, giving the masked replies one by one.

    # a comment                          an empty line is skipped
    make socket a port={port1}           sent as it stands; one reply is read
    !id make socket d type=dgram         the same, where papad is meant to differ for the reason `id`
    => d family=inet ...                 what papad answers to the line above (masked; several lines for several)
    @empty                               an empty line is sent
    @watch LINE                          LINE starts a watch, which is read and acknowledged to its end
    @watch until=TEXT then=q LINE        ... until TEXT is in the output; then `q` is sent
    @watch until=TEXT then=drop LINE     ... then the connection is closed without acknowledging, and a new one made
    @watch until=TEXT then=hold LINE     ... then nothing is acknowledged until there is an
    @ack WORD                            acknowledgement, after which the watch is read to its end; takes options too
    @watch ack=WORD LINE                 acknowledge with WORD instead of `-`
    @help LINE                           only whether there is help is compared, not its words
    @ended NAME  @gone NAME              wait until the process is shown as not running; until it is not listed
    @connect N                           use connection N, made at its first use, where the greeting is the reply
    @eof  @exited                        the server has closed the connection; the server itself has ended
    @forget                              masks are counted anew: file numbers may come again after a removal, and
                                         one server may have made more than the other
    @file PATH  @stat PATH               make a regular file; what is at PATH now, and its mode
    @listen PATH  @stale PATH            a live listener of somebody else's; a socket file that nobody listens on
    @reach PORT-or-PATH  @signal NAME    connect to a listening socket; send SIGTERM to a process

In lines: {tmp} {port1}… {sp} (a space) {tab} {cr} {bad} (a byte that is no UTF-8) {long} (100,000 letters)
{pid:NAME} {fileno:NAME}, as last reported.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.original.conversation import Closed, Conversation, Delivered
from tests.original.servers import Server
from tests.support.ports import free_port
from tests.support.waiting import wait_until

FIXED = {"sp": " ", "tab": "\t", "cr": "\r", "bad": "\udcff", "long": "x" * 100_000}
PLACEHOLDER = re.compile(r"\{(tmp|port\d|sp|tab|cr|bad|long|(?:pid|fileno):[\w.]+)\}")
NUMBERED = re.compile(r"\b(pid|started|port|fileno)=(\d+(?:\.\d+)?)\b")
# A new process may have ended already when the answer is written; lists are compared after @ended.
MAKES = re.compile(r"(@watch )?m\w* p\w* ")
RUNNING = re.compile(r"running=(True|False)")


@dataclass
class Step:
    where: str
    line: str
    differs: str | None = None
    expected: list[str] = field(default_factory=list)


def read_script(path: Path) -> list[Step]:
    steps: list[Step] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("=> "):
            steps[-1].expected.append(line[3:])
        elif line and not line.startswith("#"):
            differs, _, rest = line[1:].partition(" ") if line.startswith("!") else (None, "", line)
            steps.append(Step(f"{path.name}:{number}", rest, differs))
    return steps


class Mask:
    """Replaces what may differ from server to server; equal values get equal masks, in order of first appearance."""

    def __init__(self, folder: Path) -> None:
        self.values = {"tmp": str(folder)}
        self.seen: dict[tuple[str, str], str] = {}

    def fill(self, line: str) -> str:
        def value(found: re.Match[str]) -> str:
            name = found[1]
            if name.startswith("port"):
                self.values.setdefault(name, str(free_port()))
            return FIXED.get(name) or self.values[name]

        return PLACEHOLDER.sub(value, line)

    def learn(self, reply: str) -> None:
        for name, key, number in re.findall(r"^(\S+) .*?\b(pid|fileno)=(\d+)", reply, re.MULTILINE):
            self.values[f"{key}:{name}"] = number

    def __call__(self, text: str) -> str:
        self.learn(text)
        text = text.replace(FIXED["long"], "{long}").replace(self.values["tmp"], "{tmp}")
        for name, value in self.values.items():
            if name.startswith("port"):
                text = re.sub(rf"\b{value}\b", f"{{{name}}}", text)
            elif ":" in name:
                text = re.sub(rf"\b{value}\b(?= not found)", f"{{{name}}}", text)
        return NUMBERED.sub(self._number, text)

    def _number(self, found: re.Match[str]) -> str:
        if found[2] == "0":
            return found[0]
        key = (found[1], found[2])
        count = sum(kind == found[1] for kind, _ in self.seen)
        return f"{found[1]}={self.seen.setdefault(key, f'<{count + 1}>')}"


def watch_options(rest: str) -> tuple[bytes, str, bytes, str]:
    """until, then, ack, and what follows them."""
    given = {"until": "", "then": "", "ack": "-"}
    while found := re.match(r"(until|then|ack)=(\S+) ", rest):
        given[found[1]] = found[2]
        rest = rest[found.end() :]
    return given["until"].encode(), given["then"], given["ack"].encode(), rest


class Player:
    """Plays steps to one server over one address."""

    def __init__(self, server: Server, address: int | str, folder: Path) -> None:
        self.server, self.address, self.folder = server, address, folder
        folder.mkdir()
        self.mask = Mask(folder)
        self.talks: dict[str, Conversation] = {}
        self.listeners: list[socket.socket] = []
        self.current = "1"
        self._connect("1")

    def close(self) -> None:
        for talk in self.talks.values():
            talk.close()
        for listener in self.listeners:
            listener.close()

    @property
    def talk(self) -> Conversation:
        return self.talks[self.current]

    def _connect(self, name: str) -> bytes:
        self.current = name
        if name in self.talks:
            return b""
        self.talks[name] = Conversation(self.server.connect(self.address))
        return self.talk.reply()

    def play(self, step: Step) -> str:
        """The masked reply; a closed connection is shown as what came before and `<closed>`."""
        verb, _, rest = step.line.partition(" ")
        try:
            directive = getattr(self, f"do_{verb[1:]}") if verb.startswith("@") else None
            shown = self._shown(directive(self.mask.fill(rest)) if directive else self._ask(step.line))
            return RUNNING.sub("running=<new>", shown) if MAKES.match(step.line) else shown
        except Closed as closed:
            return self._shown(closed.received) + "<closed>"
        except TimeoutError:
            raise AssertionError(f"{step.where} {step.line}\n  no answer from {self.server.process.args!r}") from None

    def _shown(self, reply: bytes) -> str:
        text = self.mask(reply.decode("utf-8", "backslashreplace"))
        self.server.children.update(int(v) for k, v in self.mask.values.items() if k.startswith("pid:"))
        return text

    def _ask(self, line: str) -> bytes:
        self.talk.send(self.mask.fill(line).encode("utf-8", "surrogateescape"))
        return self.talk.reply()

    def do_empty(self, _: str) -> bytes:
        return self._ask("")

    def do_help(self, line: str) -> bytes:
        reply = self._ask(line)
        helpful = len(reply.split()) > 2 and not reply.startswith((b"Error", b"Unknown", b"Bad"))
        return b"help" if helpful else b"no help: " + reply

    def do_watch(self, rest: str) -> bytes:
        until, then, ack, line = watch_options(rest)
        self.talk.send(line.encode())
        head = self.talk.line()
        if head.startswith(b"Error"):
            return head + b"\n" + self.talk.reply()
        return head + b"\n" + self._follow(until, then, ack)

    def do_ack(self, rest: str) -> bytes:
        until, then, ack, line = watch_options(rest)
        self.talk.send(line.encode())
        return self._follow(until, then, ack)

    def _follow(self, until: bytes, then: str, ack: bytes) -> bytes:
        """Read batches and acknowledge them, until the watch or this step is at its end."""
        delivered = Delivered()
        while (final := self.talk.batch(delivered)) is None:
            if not until or not delivered.contains(until):
                self.talk.send(ack)
            elif then == "hold":
                final = b"<held>"
                break
            elif then == "drop":
                self.talk.close()
                del self.talks[self.current]
                self._connect(self.current)
                final = b"<dropped>"
                break
            else:
                self.talk.send(then.encode())
        return "\n".join([*delivered.lines(), final.decode()]).encode()

    def _listed(self, name: str) -> bytes:
        with contextlib.closing(Conversation(self.server.connect(self.address))) as talk:
            talk.reply()
            talk.send(f"list processes {name}".encode())
            return talk.reply()

    def do_ended(self, name: str) -> bytes:
        wait_until(lambda: b"running=False" in self._listed(name), f"{name} ended", 15)
        return b""

    def do_gone(self, name: str) -> bytes:
        wait_until(lambda: b"pid=" not in self._listed(name), f"{name} gone", 15)
        return b""

    def do_connect(self, name: str) -> bytes:
        return self._connect(name)

    def do_eof(self, _: str) -> bytes:
        return self.talk.reply()

    def do_exited(self, _: str) -> bytes:
        self.close()
        wait_until(self.server.ended, "the server has ended")
        return b"ended"

    def do_forget(self, _: str) -> bytes:
        self.mask.seen.clear()
        return b""

    def do_file(self, path: str) -> bytes:
        Path(path).write_text("mine\n")
        return b""

    def do_listen(self, path: str) -> bytes:
        self.listeners.append(socket.socket(socket.AF_UNIX))
        self.listeners[-1].bind(path)
        self.listeners[-1].listen(1)
        return b""

    def do_stale(self, path: str) -> bytes:
        self.do_listen(path)
        self.listeners.pop().close()
        return b""

    def do_stat(self, path: str) -> bytes:
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return b"nothing"
        return f"{stat.filemode(found.st_mode)}".encode()

    def do_reach(self, address: str) -> bytes:
        unix = address.startswith("/")
        with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as sock:
            sock.settimeout(5)
            error = sock.connect_ex(address if unix else ("127.0.0.1", int(address)))
        return b"reached" if not error else os.strerror(error).encode()

    def do_signal(self, name: str) -> bytes:
        os.kill(int(self.mask.values[f"pid:{name}"]), signal.SIGTERM)
        return b""


def played(steps: list[Step], server: Server, address: int | str, folder: Path) -> Iterator[str]:
    player = Player(server, address, folder)
    try:
        for step in steps:
            yield player.play(step)
    finally:
        player.close()
