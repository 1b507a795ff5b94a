"""`papactl archive`: writes the output of processes to files, each line exactly once, and rotates them."""

from __future__ import annotations

import fcntl
import os
import re
import signal
from collections import OrderedDict
from collections.abc import Container, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from papad.client.connection import connect, read
from papad.ctl.acknowledge import Acknowledger
from papad.ctl.connect import Session
from papad.ctl.cursor import Cursor, Reached
from papad.ctl.lines import STREAMS, Assembler, Look
from papad.ctl.logfile import STATE, LogFile, Rotation, file_name
from papad.ctl.output import beginning_with
from papad.ctl.parser import Call, Usage
from papad.ctl.render import safe_text
from papad.ctl.run import complain
from papad.ctl.times import duration
from papad.errors import Error
from papad.protocol.reading import Reading
from papad.protocol.responses import Frame

_OPEN = 200  # log files that are kept open


def run(call: Call, session: Session) -> int:
    """Run `archive` until it is told to end by SIGTERM or SIGINT, or with --once, until all there is is written."""
    if call.flag("json"):
        raise Usage("archive has no --json; use -o json")
    folder, *patterns = call.words
    rotation, style = _rotation(call), call.text("output") or "short-iso"
    look = Look(style, call.flag("utc"), style == "cat" or call.flag("all"), host=session.host)
    if call.flag("acknowledge"):
        session.check_acknowledges()
    client = session.client()
    session.keep()  # `read` closes it
    with _alone(folder), _ending_in_order():
        found = {each["id"]: each["name"] for each in client.describe("processes")}
        acknowledger = Acknowledger(lambda: connect(client.address)) if call.flag("acknowledge") else None
        logs = _Logs(folder, found, rotation, acknowledger)
        try:
            cursor = logs.recovered()
            follow = not call.flag("once")
            if acknowledger:
                acknowledger.written |= {found[id]: (id, at) for id, at in cursor.reached.items() if id in found}
                if follow:
                    acknowledger.start()
            reading = Reading(tuple(patterns), stream=call.text("stream"), follow=follow, after=cursor.after)
            _write(read(reading, beginning_with(client), None), cursor, look, logs)
            if acknowledger:
                acknowledger.turn()
        finally:
            logs.close()
    return 0


def _write(frames: Iterator[Frame], cursor: Cursor, look: Look, logs: _Logs) -> None:
    """Write the lines of all frames, and where they end, to the logs."""
    assembler = Assembler()
    for frame in frames:
        rest = cursor.rest(frame)
        if rest is None:
            continue
        data = _text(rest, assembler, look)
        cursor.advance(rest, assembler)
        if isinstance(rest.data, int) and rest.kind == "lost" and not data:
            complain(f"{safe_text(rest.name)}: {rest.data} bytes lost")
        if data or rest.kind not in STREAMS:
            logs.write(rest, data, cursor.reached[rest.id])
        if rest.kind == "closed":
            del cursor.reached[rest.id]  # `read` does not deliver it again


def _text(frame: Frame, assembler: Assembler, look: Look) -> bytes:
    """Return the lines that a frame completes. Without time and name, they are as they came: many times as fast."""
    data = frame.data
    if look.style == "cat" and isinstance(data, bytes) and assembler.begun(frame.id, frame.kind) is None:
        size = data.rfind(b"\n") + 1
        for _ in assembler.feed(frame._replace(data=data[size:], position=frame.position + size)):
            pass
        return data[:size]
    return b"".join(map(look.format, assembler.feed(frame)))


class _Logs:
    """The log files in a folder, by process name. Those that were used last are open."""

    def __init__(
        self, folder: str, live: Container[int], rotation: Rotation, acknowledger: Acknowledger | None
    ) -> None:
        self._folder, self._live, self._rotation = folder, live, rotation
        self._acknowledger = acknowledger
        self._open: OrderedDict[str, LogFile] = OrderedDict()

    def recovered(self) -> Cursor:
        """Bring in order what was left here, and return how far it had got."""
        cursor = Cursor()
        for each in os.listdir(self._folder):
            if found := STATE.fullmatch(each):
                log = LogFile(self._folder, found[1], self._live, self._rotation)
                cursor.reached |= log.at.reached
                log.close()
        return cursor

    def write(self, frame: Frame, data: bytes, reached: Reached) -> None:
        """Write a piece of output of a process, which ends where `reached` says."""
        name = file_name(frame.name)
        if name not in self._open:
            if len(self._open) >= _OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[name] = LogFile(self._folder, name, self._live, self._rotation)
        self._open.move_to_end(name)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))  # each piece is whole
        try:
            self._open[name].write(data, frame.id, reached)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self._acknowledger:
            self._acknowledger.written[frame.name] = frame.id, reached

    def close(self) -> None:
        """Close all files; what was written is on the disk then."""
        if self._acknowledger:
            self._acknowledger.close()
        for log in self._open.values():
            log.close(sync=True)


def _rotation(call: Call) -> Rotation:
    size, age, keep = (call.text(key) for key in ("rotate_size", "rotate_time", "keep"))
    if keep is not None and not re.fullmatch(r"[1-9]\d{0,8}", keep, re.ASCII):
        raise Usage(f"--keep must be a number from 1 on, not {keep!r}")
    if keep is not None and size is None and age is None:
        raise Usage("--keep needs --rotate-size or --rotate-time")
    seconds = None if age is None else duration(age)
    if seconds is not None and seconds <= 0:
        raise Usage(f"--rotate-time must be more than nothing, not {age!r}")
    return Rotation(None if size is None else _bytes(size), seconds, None if keep is None else int(keep))


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d{1,12})([kmg]?)", text.lower(), re.ASCII)
    if found is None or not int(found[1]):
        raise Usage(f"--rotate-size must be a number of bytes, perhaps with k, m or g, not {text!r}")
    return int(found[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[found[2]]


@contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Make the folder where it is missing, and keep other archives out of it. Raises Error."""
    try:
        os.makedirs(folder, 0o750, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Error(f"cannot use the directory {folder}: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Error(f"another papactl archives to {folder}; give each a directory of its own") from None
    finally:
        os.close(fd)


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Leave the body, and papactl with status 0, at SIGTERM."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
