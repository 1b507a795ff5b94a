"""A user of papad that is not put off when papad is killed. Copied into the machine; needs nothing but Python.

It connects again, says again what may be said again, and checks that nothing is lost and nothing comes twice.
"""

from __future__ import annotations

import random
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Self

WHERE = "/run/papad/papad.sock"
WRITER = "/opt/papad-test/writer.py"
ENDED = "/run/writer-ended"
UNKNOWN = 256

LAG = 0.5  # seconds that papad may be behind with reading pipes

counts: Counter[str] = Counter()
faults: list[str] = []
blows: list[str] = []
"""What was done to papad, and when: to find out what led to a fault."""
nursery_kills: list[float] = []
"""When the nursery was killed."""
both_gone: list[tuple[float, float]] = []
"""From when to when neither papad nor a nursery was whole."""


class Gone(Exception):
    """The connection ended: papad was killed."""


class Session:
    """One connection to papad."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.data = b""
        try:
            self.sock.connect(WHERE)
        except OSError as error:  # papad.socket is stopped as well
            self.sock.close()
            time.sleep(0.01)
            raise Gone from error
        self.until(b"> ")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def until(self, end: bytes) -> bytes:
        while end not in self.data:
            self.data += self._more()
        found, _, self.data = self.data.partition(end)
        return found

    def take(self, size: int) -> bytes:
        while len(self.data) < size:
            self.data += self._more()
        found, self.data = self.data[:size], self.data[size:]
        return found

    def _more(self) -> bytes:
        try:
            more = self.sock.recv(1 << 16)
        except TimeoutError:
            faults.append(f"no answer in 30 s; so far {self.data[-200:]!r}")
            raise Gone from None
        except OSError as error:
            raise Gone from error
        if not more:
            raise Gone
        return more

    def send(self, line: str) -> None:
        try:
            self.sock.sendall(line.encode() + b"\n")
        except OSError as error:
            raise Gone from error

    def ask(self, line: str) -> str:
        self.send(line)
        return self.until(b"\n> ").decode()


def insist(line: str) -> str:
    """The answer to a command that may be said again, from whichever papad lives to give it."""
    while True:
        try:
            with Session() as session:
                return session.ask(line)
        except Gone:
            counts["asked again"] += 1


class Output:
    """What has come of one process's stream: every byte once, in order, is what it checks."""

    def __init__(self, name: str, stream: str) -> None:
        self.head = f"{name}:{stream}:"
        self.length = len(self.head) + 9
        self.sure = 0  # bytes whose acknowledgement papad is known to have
        self.sent = 0  # bytes whose acknowledgement was sent

    def matches(self, position: int, data: bytes) -> bool:
        first, skip = divmod(position, self.length)
        count = (skip + len(data)) // self.length + 1
        text = "".join(f"{self.head}{first + i:08d}\n" for i in range(count)).encode()
        return text[skip : skip + len(data)] == data


class Life:
    """One process, from its making to its acknowledged end."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self.name = name
        self.lines = chance.choice((1, 50, 400, 2000))
        self.code = chance.choice((0, 0, 1, 7, 255, -9, -15))
        self.streams = {"out": Output(name, "out"), "err": Output(name, "err")}
        self.command = (
            f"make process {name} /usr/bin/python3 -S {WRITER} {name} {self.lines} {self.code} {chance.random()}"
        )

    def live(self) -> None:
        self.began = time.time()
        line = insist(self.command)
        if not line.startswith(f"{self.name} pid="):
            faults.append(f"{self.command}: {line}")
            return
        self.identity = line.partition(" running=")[0]
        while True:
            try:
                with Session() as session:
                    if self.follow(session):
                        break
            except Gone:
                counts["watched again"] += 1
        counts["processes"] += 1

    def follow(self, session: Session) -> bool:
        """Watch until the end; whether it is reached."""
        listed = session.ask(f"list processes {self.name}")
        if listed and not listed.startswith(self.identity):
            faults.append(f"{self.identity} became {listed}")
        session.send(f"watch processes {self.name}")
        if session.until(b"\n") != b"Watching 1":
            return self.acknowledged_end()
        first, closed = True, False
        while True:
            closed = self.batch(session, first=first) or closed
            first = False
            session.send("-")
            if closed:
                self.end_sent = True
                return session.until(b"\n> ") == b"Nothing left to watch" or not faults.append(
                    f"{self.name}: after its end"
                )

    end_sent = False

    def acknowledged_end(self) -> bool:
        """papad does not know the process any more: right only if we have acknowledged its end."""
        if not self.end_sent:
            faults.append(f"{self.name} is forgotten before its end was acknowledged")
        return True

    def batch(self, session: Session, *, first: bool) -> bool:
        """Read one batch and check it; whether the end was in it."""
        records: list[tuple[str, bytes]] = []
        code = None
        while (head := session.take(2)) != b"] ":
            kind, _, _, number = (head + session.until(b"\n")).decode().split(":")
            if kind == "closed":
                code = int(number)
            else:
                records.append((kind, session.take(int(number) + 1)[:-1]))
        self.place(first=first, starts=dict(reversed(records)))
        for kind, data in records:
            counts["bytes"] += len(data)
            output = self.streams[kind]
            if not output.matches(output.sent, data):
                faults.append(f"{self.name} {kind} at {output.sent}: {data[:80]!r}")
            output.sent += len(data)
        if code is not None:
            self.check_end(code)
        return code is not None

    def place(self, *, first: bool, starts: dict[str, bytes]) -> None:
        """Where a batch begins. The first of a connection shows whether our last acknowledgement arrived."""
        arrived = all(self.streams[kind].matches(self.streams[kind].sent, data) for kind, data in starts.items())
        for output in self.streams.values():
            if first and not arrived:
                output.sent = output.sure
            else:
                output.sure = output.sent

    def check_end(self, code: int) -> None:
        ended_unseen = self.ended_unseen()
        if code == UNKNOWN and self.ended() and any(when > self.began for when in nursery_kills):
            counts["unknown codes"] += 1
        elif code != self.code:
            faults.append(f"{self.name} ended with {code}, not {self.code}{self.circumstances()}")
        expected = {stream: self.lines * output.length for stream, output in self.streams.items()}
        missing = {stream: size - self.streams[stream].sent for stream, size in expected.items()}
        if ended_unseen and any(missing.values()) and min(missing.values()) >= 0:
            counts["unknown tails"] += 1
            counts["bytes of unknown tails"] += sum(missing.values())
        elif any(missing.values()):
            faults.append(f"{self.name}: {missing} bytes of {expected} are missing{self.circumstances()}")

    def circumstances(self) -> str:
        """What may explain a fault."""
        return f" (from {self.began:.3f} to {self.ended():.3f}, told {time.time():.3f}; {', '.join(blows[-5:])})"

    def ended(self) -> float:
        """When it ended by itself; 0 if it did not."""
        try:
            return Path(ENDED, self.name).stat().st_mtime
        except FileNotFoundError:
            return 0

    def ended_unseen(self) -> bool:
        """Whether it ended by itself while neither papad nor the nursery was there."""
        return any(since - LAG <= self.ended() <= until for since, until in both_gone)
