"""Mutated inputs to all that takes bytes from outside: no crash, no hang, and nothing but Error is said of them.

COUNT inputs for each; `make fuzz COUNT=1000000 SEED=…` tries more, or the same again.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from papad.daemon.commands.table import GRAMMAR
from papad.daemon.durable import parcel
from papad.daemon.durable.store import _PAGE, LaterFormat, Store
from papad.errors import Error
from papad.protocol import wire
from tests.support.nurseries import NOTHING
from tests.support.nurseries import Nursery as RealNursery
from tests.support.papad import Daemon, running_papad

COUNT = int(os.environ.get("PAPAD_FUZZ_COUNT", "2000"))
SEED = os.environ.get("PAPAD_FUZZ_SEED") or str(random.randrange(10**9))
LINES = [
    b"make socket web port=0 backlog=7 host=127.0.0.1 type=dgram reuseport=1",
    b"make socket x path=/nowhere/x umask=18 family=unix",
    b"%set a%20b c%0ad",
    b"set a b c\\ d",
    b"get a",
    b"list sockets web* 70",
    b"l p *",
    b"list values",
    b"remove sockets web",
    b"remove values a*",
    b"watch processes x",
    b"output last=3 stream=err since=1.5 until=2e9 after.7=0 before.7=9 bytes=10 x",
    b"describe server",
    b"d v a",
    b"help make process",
    b"GET / HTTP/1.1",
    b"Host: x",
    b"\x16\x03\x01",
]
PROCESS = b"make process x uid=0 gid=0 env.A=b rlimit.nofile=7 working_dir=/ bufsize=1m listen=web shell=1 /bin/true a"
NUMBERS = [b"0", b"-1", b"1e400", b"nan", b"4294967296", b"99999999999999999999999", b"0x10", b"\xd9\xa3", b""]


class Mutator:
    def __init__(self, name: str, corpus: list[bytes]) -> None:
        self.chance = random.Random(f"{SEED}-{name}")
        self.corpus = corpus
        print(f"seed {SEED}")

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(COUNT):
            yield self.one()

    def one(self) -> bytes:
        chance, data = self.chance, bytearray(self.chance.choice(self.corpus))
        for _ in range(chance.choice((0, 1, 1, 2, 3, 6))):
            at = chance.randrange(len(data) + 1)
            to = min(len(data), at + chance.choice((1, 1, 2, 4, 16)))
            match chance.randrange(6):
                case 0:
                    data[at:to] = b""
                case 1:
                    data[at:at] = chance.randbytes(chance.choice((1, 2, 8)))
                case 2:
                    data[at:at] = data[at:to] * chance.choice((1, 3, 100))
                case 3:
                    data[at:to] = chance.choice(self.corpus)[at : to + 8]
                case 4:
                    data[at:to] = chance.choice(NUMBERS)
                case _:
                    data[at:at] = chance.choice((b" ", b"\\", b"\n", b"\r", b"=", b"%", b"*", b"\0", b"."))
        return bytes(data)


def test_lines_and_words() -> None:
    reader = wire.LineReader(5000)
    for data in Mutator("wire", LINES):
        for line in reader.feed(data + b"\n"):
            assert isinstance(line, bytes | wire.LineTooLong)
            if isinstance(line, bytes):
                wire.looks_like_http(line)
                wire.looks_like_http(line, command=True)
                words = wire.split_words(wire.decode(line))
                wire.split_options(words)
                with contextlib.suppress(Error):
                    wire.exact_words(line)


def test_the_grammar() -> None:
    for data in Mutator("grammar", [*LINES, PROCESS]):
        words = wire.split_words(wire.decode(data))
        with contextlib.suppress(Error):
            command, rest = GRAMMAR.find(words or [""])
            command.arguments(rest)
        with contextlib.suppress(Error):
            GRAMMAR.help(words)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_papad(tmp_path_factory.mktemp("fuzz"), tcp=True) as daemon:
        yield daemon


def test_a_conversation(daemon: Daemon) -> None:
    """Many on one connection, which some of them end; papad answers the next one, and has run nothing."""
    pid = daemon.pid
    inputs = iter(Mutator("conversation", LINES))
    while some := [data for _, data in zip(range(50), inputs, strict=False)]:
        with daemon.connect() as talk, contextlib.suppress(OSError, EOFError):
            talk.sock.settimeout(20)
            talk.send(b"\n".join(some) + b"\n\nq\nquit\n")
            talk.sock.shutdown(socket.SHUT_WR)
            while talk.sock.recv(1 << 18):
                pass
        assert daemon.ask("get surely-not-set") == ""
    assert daemon.pid == pid
    assert "internal error" not in daemon.log
    assert daemon.ask("list processes") == ""
    daemon.ask("remove sockets")


def test_the_recovery_of_a_damaged_store() -> None:
    """Whatever is in it, it is read, or refused as of a later format; what is understood has the fields that it needs."""
    store = Store.create()
    for number in range(5):
        start = store.allocate(8192)
        store.write(
            f"process:{number}", {"name": f"p{number}", "pid": number, "range": [start, 8192], "fds": ["out-1"]}
        )
        store.write(f"value:v{number}", {"value": "x" * number * 10})
    store.erase("value:v3")
    image = os.pread(store.fd, store._start + store._length, 0)
    log = image[_PAGE:]
    store.close()
    for data in Mutator("store", [log]):
        fd = os.memfd_create("fuzz")
        whole = bytearray(image[:_PAGE] + data.ljust(len(log), b"\n"))
        if random.Random(data).random() < 0.1:
            whole[random.Random(data).randrange(40)] ^= 0xFF
        os.pwrite(fd, whole, 0)
        try:
            damaged = Store(fd)
        except LaterFormat:
            os.close(fd)
            continue
        assert all(isinstance(entry, dict) for entry in damaged.entries.values())
        assert damaged.names is not None
        damaged.write("value:new", {"value": "1"})
        damaged.sweep()
        damaged.close()


MESSAGES = [
    {"do": "hello", "number": 7},
    {"do": "spawn", "id": 7, "targets": [0, 1, 2], "hold": [], "args": ["/no/such"], **NOTHING},
    {"do": "ack", "id": 7, "what": "forked"},
    {"do": "cancel", "id": 7},
    {"do": "hold", "name": "a"},
    {"do": "drop", "name": "a"},
    {"do": "barrier", "number": 3},
    {"do": "descriptors"},
]


def test_the_channel_of_the_nursery() -> None:
    """Only papad has it, of whatever version; a message that makes no sense is left out."""
    nursery = RealNursery()
    try:
        for data in Mutator("nursery", [json.dumps(each).encode() for each in MESSAGES]):
            if b"renew" not in data and data:
                with contextlib.suppress(OSError):
                    nursery.channel.send(data[:16000])
                nursery.channel.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        said, fds = parcel.receive(nursery.channel)
                        parcel.close_all(fds)
                        assert said, "the nursery is gone"
                nursery.channel.setblocking(True)
        assert nursery.popen.poll() is None
    finally:
        nursery.popen.kill()
        nursery.popen.wait()
        nursery.channel.close()


def test_parcels() -> None:
    for data in Mutator(
        "parcels", [b'{"a":1}', b'#{"do":"spawn","id":3}', b"#", b"[]", json.dumps(MESSAGES[1]).encode()]
    ):
        with contextlib.suppress(ValueError, RecursionError):
            assert isinstance(parcel.unpack(data, []), dict)


def test_the_seed_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert [*Mutator("a", LINES)][:5] == [*Mutator("a", LINES)][:5]
    assert f"seed {SEED}" in capsys.readouterr().out
