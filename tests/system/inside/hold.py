"""Writes `before` and `error`, waits until it is told to go on, writes `after`, ends: hold.py CODE [grandchild].

A grandchild keeps the pipes open, and writes `after` in its parent's stead, when that has ended.
"""

import os
import sys
import time
from pathlib import Path

GO = Path("/run/hold.go")


def write(fd: int, text: str) -> None:
    try:
        os.write(fd, text.encode())
    except BrokenPipeError:
        os._exit(99)


def wait() -> None:
    deadline = time.monotonic() + 1200  # a dist-upgrade may go on meanwhile
    while not GO.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


write(1, "before\n")
write(2, "error\n")
Path("/run/hold.started").touch()
parent = os.getpid()
if sys.argv[2:] == ["grandchild"] and os.fork() == 0:
    while os.getppid() == parent:
        time.sleep(0.01)
    write(1, "after\n")
    os._exit(0)
wait()
if not sys.argv[2:]:
    write(1, "after\n")
os._exit(int(sys.argv[1]))
