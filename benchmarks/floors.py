"""The floors in C (floors.c): compiled where there is a gcc, left out where there is none."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import leave_out
from benchmarks.servers import Address, welcomed
from tests.original.servers import REPOSITORY
from tests.support.ports import free_port
from tests.support.waiting import wait_until

ECHO, SPAWN = "C: echo server", "C: posix_spawn"


def compiled(who: str) -> str | None:
    """The program; None, and that is said, if it cannot be made here."""
    source, built = REPOSITORY / "benchmarks/floors.c", REPOSITORY / "build/benchmarks/floors"
    if not shutil.which("gcc"):
        leave_out(who, "there is no gcc")
        return None
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        built.parent.mkdir(parents=True, exist_ok=True)
        command = ["gcc", "-O2", "-Wall", "-D_GNU_SOURCE", "-o", f"{built}.tmp", str(source)]
        subprocess.run(command, check=True, timeout=60)
        os.replace(f"{built}.tmp", built)
    return str(built)


@contextlib.contextmanager
def echo_server(place: Path, *, tcp: bool) -> Iterator[Address | None]:
    """A server in C that welcomes like papad and sends back what it gets; its address, or None where it is left out."""
    program = compiled(ECHO)
    if program is None:
        yield None
        return
    address: Address = free_port() if tcp else str(place / "echo.sock")
    server = subprocess.Popen([program, "port" if tcp else "path", str(address)])
    try:
        wait_until(lambda: _answers(address), "the echo server answers")
        yield address
    finally:
        server.kill()
        server.wait(10)


def _answers(address: Address) -> bool:
    with contextlib.suppress(OSError):
        welcomed(address).close()
        return True
    return False
