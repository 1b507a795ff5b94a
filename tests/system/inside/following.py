"""Follow and watch processes while papad is killed again and again: following.py KILLS SEED. Prints a JSON report.

Copied into the machine; uses the client library that is installed there.
"""

import asyncio
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from papad import Papa, aio

STOP = Path("/run/following.stop")
WRITER = f"""
import os, sys, time
i = 0
while not os.path.exists("{STOP}") or i < 2000:
    for _ in range(5):
        os.write(1 + i % 7 // 6, b"%d\\n" % i)
        i += 1
    time.sleep(.002)
sys.exit(3)
"""
NAMES = ("followed.1", "followed.2", "watched.1", "watched.2")

output: dict[str, dict[str, list[int]]] = {}
faults: list[str] = []


class Reader:
    """What came of some processes to one reader, and whether it is right."""

    def __init__(self, reader: str) -> None:
        self.reader = reader
        self.data: dict[tuple[str, str], bytes] = {}
        self.codes: dict[str, int] = {}

    def take(self, kind: str, name: str, data: bytes | int) -> None:
        if isinstance(data, bytes):
            self.data[name, kind] = self.data.get((name, kind), b"") + data
        elif kind == "closed" and name not in self.codes:
            self.codes[name] = data
        else:
            faults.append(f"{self.reader}: {kind} of {name} with {data}")

    def check(self) -> int:
        """The number of lines, each of which has to be there once and in order."""
        lines = 0
        for name, code in self.codes.items():
            out = [int(line) for line in self.data[name, "out"].split()]
            err = [int(line) for line in self.data[name, "err"].split()]
            count = len(out) + len(err)
            if (
                out != [i for i in range(count) if i % 7 < 6]
                or err != [i for i in range(count) if i % 7 == 6]
                or code != 3
            ):
                faults.append(f"{self.reader}: {name} ended with {code} after {len(out)} + {len(err)} lines")
            lines += count
        if len(self.codes) != 2:
            faults.append(f"{self.reader}: ends of {sorted(self.codes)}")
        return lines


def follow(reader: Reader) -> None:
    with Papa() as papa:
        for frame in papa.follow("followed.*", timeout=60):
            reader.take(frame.kind, frame.name, frame.data)
            if len(reader.codes) == 2:
                break


def follow_with_asyncio(reader: Reader) -> None:
    async def run() -> None:
        async with asyncio.timeout(300), aio.Papa() as papa:
            async for frame in papa.follow("followed.*"):
                reader.take(frame.kind, frame.name, frame.data)
                if len(reader.codes) == 2:
                    break

    asyncio.run(run())


def watch(reader: Reader) -> None:
    with Papa() as papa, papa.watch_processes("watched.*") as watcher:
        while (batch := watcher.read()) is not None:
            for kind in ("out", "err", "closed"):
                for item in getattr(batch, kind):
                    reader.take(kind, item.name, item.data)


def guarded(body, reader: Reader) -> None:
    try:
        body(reader)
    except BaseException as error:
        faults.append(f"{reader.reader}: {error!r}")


def main() -> None:
    kills, chance = int(sys.argv[1]), random.Random(sys.argv[2])
    STOP.unlink(missing_ok=True)
    with Papa() as papa:
        made = {
            name: papa.make_process(name, "/usr/bin/python3", ["-S", "-c", WRITER], bufsize="32m") for name in NAMES
        }
        readers = [Reader(body.__name__) for body in (follow, follow_with_asyncio, watch)]
        bodies = zip((follow, follow_with_asyncio, watch), readers, strict=True)
        threads = [threading.Thread(target=guarded, args=pair) for pair in bodies]
        for thread in threads:
            thread.start()
        pids = {papa.describe("server")[0]["pid"]}
        for _ in range(kills):
            time.sleep(chance.random() * 0.1)
            os.kill(papa.describe("server")[0]["pid"], signal.SIGKILL)
            pids.add(papa.describe("server")[0]["pid"])
        STOP.touch()
        for thread in threads:
            thread.join(120)
        lines = {reader.reader: reader.check() for reader in readers}
        listed = papa.list_processes()
    if set(listed) != {"followed.1", "followed.2"} or any(listed[name]["pid"] != made[name]["pid"] for name in listed):
        faults.append(f"left: {listed}")
    print(json.dumps({"kills": len(pids) - 1, "lines": lines, "faults": faults}))


main()
