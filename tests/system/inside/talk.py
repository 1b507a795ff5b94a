"""The text protocol, spoken by hand. Copied into the machine; needs nothing but Python.

    talk.py WHERE LINE…      send the lines on one connection, print the replies as a JSON list

WHERE is `tcp`, or the path of a Unix socket. A reply comes without its prompt and last newline.
"""

import json
import socket
import sys
from typing import NamedTuple, Self

CONTROL = ("127.0.0.1", 20202)


class Record(NamedTuple):
    """One delivered record: kind is `out`, `err` or `closed`; a closed one carries its exit code as data."""

    kind: str
    name: str
    data: bytes


class Talk:
    """A connection to papad, greeting read."""

    def __init__(self, where: str = "tcp") -> None:
        family, address = (socket.AF_INET, CONTROL) if where == "tcp" else (socket.AF_UNIX, where)
        self.socket = socket.socket(family)
        self.socket.settimeout(30)
        self.socket.connect(address)
        self._buffer = b""
        self.greeting = self._until_prompt()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, line: str) -> str:
        """Send a command, return the reply."""
        self.socket.sendall(line.encode() + b"\n")
        return self._until_prompt()

    def watch(self, patterns: str = "*") -> list[Record]:
        """Watch until nothing is left to watch, acknowledging each batch; what was delivered."""
        self.socket.sendall(f"watch processes {patterns}\n".encode())
        first = self._line()
        if not first.startswith(b"Watching "):
            return []
        records = []
        while True:
            while len(self._buffer) < 2:
                self._more()
            if self._buffer.startswith(b"] "):
                self._take(2)
                self.socket.sendall(b"\n")
                continue
            words = self._line().decode().split(":")
            if words == ["Nothing left to watch"]:
                self._take(2)
                return records
            kind, name, _, last = words
            data = last.encode() if kind == "closed" else self._take(int(last) + 1)[:-1]
            records.append(Record(kind, name, data))

    def _more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError(self._buffer.decode())
        self._buffer += data

    def _take(self, length: int) -> bytes:
        while len(self._buffer) < length:
            self._more()
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
        return taken

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            self._more()
        return self._take(self._buffer.index(b"\n") + 1)[:-1]

    def _until_prompt(self) -> str:
        try:
            while not (self._buffer == b"> " or self._buffer.endswith(b"\n> ")):
                self._more()
        except EOFError:
            pass  # a reply may be the last: `quit`, or a refusal
        reply, self._buffer = self._buffer.decode(), b""
        return reply.removesuffix("> ").rstrip("\n")


def main() -> None:
    with Talk(sys.argv[1]) as talk:
        print(json.dumps([talk.ask(line) for line in sys.argv[2:]] or [talk.greeting]))


if __name__ == "__main__":
    main()
