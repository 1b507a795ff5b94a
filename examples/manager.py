#!/usr/bin/python3
"""A process manager on papad's client library: manager.py FOLDER

FOLDER/manager.json says what to run:

    {"name": "web", "workers": 3, "release": "1", "port": 8080, "command": ["/usr/bin/python3", "serve.py"]}

The workers share a socket that papad holds, which is their descriptor 3. One that ends is replaced, at
once or, if it has not lived for a second, after a pause that doubles. SIGHUP reads the file again: for
another release, workers of it are started one by one, and each, once it has lived for a while, takes the
place of an old one. Their output is in FOLDER/log.N, each line once, whatever is killed and when.

The manager itself keeps nothing that it could lose. Kill it at any time, and start it again: papad tells it
what runs, of which release, and the number of the newest; FOLDER/shipped.json, what the files have.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from papad import STDOUT, ConnectionLost, Frame, NotFound, StartFailed, aio

PROVEN = 1.0  # seconds that a worker must live: then there is no pause before the next, and it may replace an old one
PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds before a worker that did not live so long is replaced
PATIENCE = 10.0  # seconds from SIGTERM to SIGKILL
GATHER = 0.05  # seconds of output that are written at once
FILES = 100  # how many are kept
LONGEST_LINE = 1 << 16  # bytes; a longer one is cut in pieces


class Log:
    """Files of whole lines, and a record of what is in them, which is replaced after they are on the disk.

    After a crash, what the files have beyond the record is cut off; papad sends it again from there.
    """

    def __init__(self, folder: Path, most: int) -> None:
        """Go on with what is in the folder. After `most` bytes the next file begins."""
        self._folder, self._most = folder, most
        self._record = folder / "shipped.json"
        found = json.loads(self._record.read_text()) if self._record.exists() else {}
        self._number, size = found.get("file", 1), found.get("size", 0)
        self.positions = {int(id): position for id, position in found.get("positions", {}).items()}
        """Process id to how much of its output is in the files."""
        self._begun: dict[int, bytes] = {}  # the beginning of a line that has not ended
        self._path(self._number + 1).unlink(missing_ok=True)
        self._file = open(self._path(self._number), "ab", buffering=0)  # noqa: SIM115
        self._file.truncate(size)

    def write(self, frames: list[Frame]) -> None:
        """Add what the frames have to the files; it is on the disk when this returns."""
        data = bytearray()
        for frame in frames:
            if frame.kind == "exited":  # a child of it has its output, and may go on in the middle of a line
                continue
            rest = self._begun.pop(frame.id, b"")
            if isinstance(frame.data, bytes):
                *lines, rest = (rest + frame.data).split(b"\n")
                if len(rest) > LONGEST_LINE:
                    lines, rest = [*lines, rest], b""
                self._begun[frame.id] = rest
            else:  # closed, or lost
                lines = [rest] if rest else []
                lines += [f"({frame.data} bytes are lost)".encode()] if frame.kind == "lost" else []
            data += b"".join(b"%s: %s\n" % (frame.name.encode(), line) for line in lines)
            self.positions[frame.id] = frame.end - len(self._begun.get(frame.id, b""))
        self._file.write(data)
        os.fsync(self._file.fileno())
        if self._file.tell() > self._most:
            self.close()
            self._number += 1
            self._file = open(self._path(self._number), "ab", buffering=0)  # noqa: SIM115
            self._path(self._number - FILES).unlink(missing_ok=True)
        self._save()

    def forget(self, id: int) -> None:
        """Forget a process that papad has forgotten; the next `write` records that."""
        self.positions.pop(id, None)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _path(self, number: int) -> Path:
        return self._folder / f"log.{number}"

    def _save(self) -> None:
        new = self._record.with_suffix(".new")
        with open(new, "w") as file:
            json.dump({"file": self._number, "size": self._file.tell(), "positions": self.positions}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._record)
        folder = os.open(self._folder, os.O_RDONLY)
        os.fsync(folder)  # the new name is on the disk, too
        os.close(folder)


class Manager:
    """Keeps as many workers as it is told, and ships what they write."""

    def __init__(self, folder: Path, papa: aio.Papa) -> None:
        self._folder, self._papa = folder, papa
        self._changed = asyncio.Event()
        self._config: dict[str, Any] = {}
        self._configure()
        self._log = Log(folder, self._config.get("log_size", 1 << 20))
        self._workers: dict[str, tuple[int, float]] = {}  # name -> pidfd, when it started (time.monotonic)
        self._ending: set[str] = set()  # those that were sent SIGTERM
        self._number = 0  # of the newest worker; papad holds it, too
        self._pause = 0.0

    async def run(self) -> None:
        """Manage, until it is killed."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._configure)
        await self._papa.make_socket(self._config["name"], port=self._config["port"], backlog=100)
        self._number = int(await self._papa.get(f"{self._config['name']}.number") or 0)
        for name, process in (await self._papa.list_processes(f"{self._config['name']}.*")).items():
            if process["running"]:
                await self._adopt(name, process["pid"], time.time() - process["started"])
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ship())
            while True:
                self._changed.clear()
                wait = await self._keep()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), wait)

    def _configure(self) -> None:
        self._config = json.loads((self._folder / "manager.json").read_text())
        self._changed.set()

    # Workers

    async def _keep(self) -> float | None:
        """Start and stop what is needed; return for how many seconds to wait, if nothing happens."""
        wanted, now = self._config["workers"], time.monotonic()
        staying = {name: each for name, each in self._workers.items() if name not in self._ending}
        new = [
            name for name in staying if name.rpartition(".")[0] == f"{self._config['name']}.{self._config['release']}"
        ]
        old = [name for name in staying if name not in new]
        unproven = [
            PROVEN - now + begun for name, (_, begun) in staying.items() if name in new and now - begun < PROVEN
        ]
        for name in (old + new)[: max(0, len(staying) - wanted - min(len(old), len(unproven)))]:
            self._stop(name)  # the new one beside it has shown that it lives
        if len(new) < wanted and (len(staying) < wanted or not unproven):
            if self._pause:
                await asyncio.sleep(self._pause)
            await self._start()
            return 0
        return max(0.0, min(unproven)) if old and unproven else None

    async def _start(self) -> None:
        self._number += 1
        await self._papa.set(f"{self._config['name']}.number", self._number)  # before it is used: it is used once
        name = f"{self._config['name']}.{self._config['release']}.{self._number}"
        program, *args = self._config["command"]
        try:
            made = await self._papa.make_process(
                name, program, args, {"NAME": name}, self._folder, stderr=STDOUT, listen=self._config["name"]
            )
        except StartFailed as error:
            print(f"{name}: {error}", file=sys.stderr)
            self._lived(0.0)
        else:
            await self._adopt(name, made["pid"], 0.0)

    async def _adopt(self, name: str, pid: int, age: float) -> None:
        """Hear of the end of a process, and be able to signal it."""
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return self._lived(age)
        process = (await self._papa.list_processes(name)).get(name)
        if process is None or not process["running"]:  # the pid may be another's by now
            os.close(fd)
            return self._lived(age)
        self._workers[name] = fd, time.monotonic() - age
        asyncio.get_running_loop().add_reader(fd, self._ended, name)
        return None

    def _ended(self, name: str) -> None:
        fd, begun = self._workers.pop(name)
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
        if name not in self._ending:
            self._lived(time.monotonic() - begun)
        self._ending.discard(name)
        self._changed.set()

    def _lived(self, seconds: float) -> None:
        self._pause = 0.0 if seconds >= PROVEN else min(max(PAUSE, 2 * self._pause), LONGEST_PAUSE)

    def _stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        if name in self._workers:
            self._ending.add(name)
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                signal.pidfd_send_signal(self._workers[name][0], how)
            if how == signal.SIGTERM:
                asyncio.get_running_loop().call_later(PATIENCE, self._stop, name, signal.SIGKILL)

    # Output

    async def _ship(self) -> None:
        """Write what comes into the files; have papad forget a process whose end is there."""
        queue: asyncio.Queue[Frame] = asyncio.Queue(1000)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(queue))
            while True:
                frames = [await queue.get()]
                await asyncio.sleep(GATHER)
                while not queue.empty():
                    frames.append(queue.get_nowait())
                self._log.write(frames)
                for frame in frames:
                    if frame.kind == "closed":
                        await self._forget(frame.name)
                        self._log.forget(frame.id)

    async def _follow(self, queue: asyncio.Queue[Frame]) -> None:
        async with contextlib.aclosing(
            self._papa.follow(f"{self._config['name']}.*", after=self._log.positions)
        ) as frames:
            async for frame in frames:
                await queue.put(frame)

    async def _forget(self, name: str) -> None:
        while name in await self._papa.list_processes(name):
            with contextlib.suppress(NotFound, ConnectionLost):
                await self._papa.remove_processes(name)


async def main(folder: Path) -> None:
    async with aio.Papa() as papa:
        await Manager(folder, papa).run()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).resolve()))
