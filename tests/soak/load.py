"""What is done to a papad all the time, and checked: each line once, each exit code, each value, each socket."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import random
import re
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from papad.client.papa import Papa
from papad.protocol.watching import WatchBatch
from tests.soak.papads import PATIENCE, Papad, surely

LIVES = 2  # that go on at the same time
PAUSE = 0.1  # seconds between two things that one thread does
BLOCK = "".join(f"line {number} of a block\n" for number in range(10_000))  # 230 KB
SMALL = 16384  # bytes of a buffer, all of which is used before the second quarter
NUMBERS = "i=0; while :; do i=$((i+1)); echo $i; /bin/sleep 0.05; done"
SCRIPT = """
i=0
while [ $i -lt {lines} ]; do
    i=$((i + 1)); echo {name} out $i
    [ $((i % 3)) = 0 ] && echo {name} err $i >&2
done
{end}
"""


class Load:
    """The threads that use one papad until `end`."""

    def __init__(self, papad: Papad, folder: Path) -> None:
        self.papad = papad
        self.faults: list[str] = []
        """What went wrong."""
        self.counts: collections.Counter[str] = collections.Counter()
        self.over = threading.Event()
        self._unfollowed = threading.Event()  # nobody follows any more
        self._block = folder / f"block-{papad.name}"
        self._block.write_text(BLOCK)
        tasks = [*(lambda number=number: self._lives(number) for number in range(LIVES))]
        tasks += [self._numbers, self._tables, self._clients, self._followers]
        self._threads = [threading.Thread(target=self._guarded, args=[task]) for task in tasks]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Have all of it come to its end, which is checked, too."""
        self.over.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)
            if thread.is_alive():
                self.faults.append("a thread does not come to its end")

    def _guarded(self, task: Callable[[], None]) -> None:
        try:
            task()
        except Exception:
            self.faults.append(traceback.format_exc())

    def _expect(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            self.faults.append(f"{self.papad.name}: {what}: {found!r:.300} instead of {expected!r:.300}")

    def _lives(self, number: int) -> None:
        chance = random.Random(number)
        with self.papad.client() as papa:
            for serial in itertools.count():
                if self.over.wait(PAUSE):
                    break
                self._life(papa, f"life{number}.{serial}", chance)

    def _life(self, papa: Papa, name: str, chance: random.Random) -> None:
        """A process from its start to its end: what it writes, and its exit code."""
        if chance.random() < 0.1:
            script, out, err, code = f"exec /bin/cat '{self._block}'", BLOCK, "", 0
        else:
            lines, code = chance.choice((1, 5, 30)), chance.choice((0, 1, 77, -9))
            end = "kill -9 $$" if code < 0 else f"exit {code}"
            script = SCRIPT.format(name=name, lines=lines, end=end)
            out = "".join(f"{name} out {each}\n" for each in range(1, lines + 1))
            err = "".join(f"{name} err {each}\n" for each in range(3, lines + 1, 3))
        if chance.random() < 0.5:
            watcher = papa.make_process(name, "/bin/sh", ["-c", script], watch_immediately=True)
        else:
            papa.make_process(name, "/bin/sh", ["-c", script])
            watcher = papa.watch_processes(name)
        got: list[WatchBatch] = list(watcher)
        for stream, expected in (("out", out), ("err", err)):
            data = b"".join(piece.data for batch in got for piece in getattr(batch, stream))
            self._expect(f"{stream} of {name}", data.decode(), expected)
        self._expect(f"exits of {name}", [piece.data for batch in got for piece in batch.closed], [code])
        self.counts["processes"] += 1
        self.counts["bytes"] += len(out) + len(err)

    def _numbers(self) -> None:
        """One process that writes all the time, watched without a break."""
        with self.papad.client() as papa:
            pid = papa.make_process("numbers", "/bin/sh", ["-c", NUMBERS], bufsize=SMALL)["pid"]
            rest, next_one, code = b"", 1, None
            for batch in papa.watch_processes("numbers"):
                *lines, rest = (rest + b"".join(piece.data for piece in batch.out)).split(b"\n")
                numbers = list(map(int, lines))
                self._expect("numbers", numbers, list(range(next_one, next_one + len(numbers))))
                next_one += len(numbers)
                self.counts["numbers"] += len(numbers)
                code = batch.closed[0].data if batch.closed else code
                if self._unfollowed.is_set() and code is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
            self._expect("exit of numbers", code, -signal.SIGTERM)

    def _tables(self) -> None:
        """Values and sockets come and go; those that stay are what they were."""
        chance = random.Random()
        values: dict[str, str] = {}
        sockets: dict[str, int] = {}
        with self.papad.client() as papa:
            for serial in itertools.count():
                if self.over.wait(PAUSE / 2):
                    break
                name, value = f"v{chance.randrange(50)}", f"{serial} " + "x" * chance.choice((0, 10, 2000))
                values[name] = value if chance.random() < 0.8 else ""
                papa.set(name, values[name])
                name = chance.choice(list(values))
                self._expect(f"value {name}", papa.get(name) or "", values[name])
                name = f"s{chance.randrange(10)}"
                if name not in sockets:
                    sockets[name] = papa.make_socket(name)["port"]
                else:
                    found = papa.list_sockets(name)
                    self._expect(f"port of {name}", found[name]["port"], sockets[name])
                    with socket.create_connection(("127.0.0.1", sockets[name]), timeout=20):
                        pass
                    if chance.random() < 0.5:
                        surely(papa.remove_sockets, papa.list_sockets, name)
                        del sockets[name]
                self.counts["changes"] += 1
            for name in values:
                papa.set(name)
            for name in sockets:
                surely(papa.remove_sockets, papa.list_sockets, name)

    def _clients(self) -> None:
        """Clients come and go: some ask, some leave in the middle of a line, some say nothing."""
        for serial in itertools.count():
            if self.over.wait(PAUSE):
                break
            with self.papad.client(tcp=bool(serial % 2)) as papa:
                self._expect("no value", papa.get("none"), None)
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.papad.port), 20) as sock:
                sock.sendall((b"", b"list proc", b"set none \\")[serial % 3])
            self.counts["clients"] += 3

    def _followers(self) -> None:
        """Somebody looks at the process that writes all the time, and leaves again.

        What its watcher has acknowledged before the follower came to it is missing, but nothing is there twice.
        """
        with self.papad.client() as papa:
            while not self.over.wait(PAUSE):
                with contextlib.closing(papa.follow("numbers", last=5, timeout=PATIENCE)) as frames:
                    found = itertools.islice(frames, 10)
                    data = b"".join(frame.data for frame in found if isinstance(frame.data, bytes))
                numbers = list(map(int, re.findall(rb"(\d+)\n", data)))
                self._expect("followed", numbers, sorted(set(numbers)))
                self.counts["followed"] += len(numbers)
        self._unfollowed.set()
