"""How much output a second does a process get rid of, while nobody watches?

The writer takes the time. With papad and the original, the newest megabyte is kept in memory. `cat` keeps nothing. The
loggers of Debian's packages keep ten files of a megabyte, supervisor and circus ten of 50, on a file system in memory.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import SECONDS, Sample, leave_out, take_turns
from benchmarks.manager import Manager, Program
from benchmarks.managers import managers
from benchmarks.output import MIB, arguments, command, written
from benchmarks.servers import Address, ask, both, clear, unix_path, welcomed
from tests.original.venv import cache_folder
from tests.support.waiting import wait_until

SIZES = {1 << 16: "writes of 64 KiB", 100: "lines of 100 bytes"}
LOGGERS = {
    ("s6", "s6-log"): ["n10", "s1000000", "./log"],
    ("runit", "svlogd"): ["./log"],
    ("daemontools", "multilog"): ["n10", "s1000000", "./log"],
}


def sample(size: int, report: Path) -> Sample:
    count, seconds = written(report)
    return {(f"captured, {SIZES.get(size, 'lines')}", "MiB/s"): count / seconds / MIB}


def captured(address: Address, size: int, report: Path, seconds: float = SECONDS) -> Callable[[], Sample]:
    def taken() -> Sample:
        with welcomed(address) as sock:
            ask(sock, f"make process flood {command('flood', seconds, report, size)}")
            found = sample(size, report)
            wait_until(lambda: "running=True" not in ask(sock, "list processes"), "it has ended", 120)
            clear(sock)
        return found

    return taken


def managed(manager: Manager, size: int, report: Path) -> Callable[[], Sample]:
    def taken() -> Sample:
        manager.start(f"flood-{size}")
        found = sample(size, report)
        manager.clear(f"flood-{size}")
        return found

    return taken


def piped(reader: list[str], size: int, report: Path, env: dict[str, str] | None = None) -> Callable[[], Sample]:
    """The same writer, whose output goes to this command."""

    def taken() -> Sample:
        with (
            subprocess.Popen(arguments("flood", SECONDS, report, size), stdout=subprocess.PIPE) as writer,
            subprocess.Popen(
                reader,
                stdin=writer.stdout,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=report.parent,
                env=env,
            ),
        ):
            assert writer.stdout
            writer.stdout.close()
            return sample(size, report)

    return taken


def unpacked(package: str, program: str) -> tuple[str, dict[str, str]] | None:
    """Debian's program and its environment, as it is installed, or unpacked once and cached; None if that fails, which is said."""
    if found := shutil.which(program):
        return found, dict(os.environ)
    folder = cache_folder() / f"bench-{package}"
    try:
        if not folder.exists():
            new = Path(tempfile.mkdtemp(dir=cache_folder(), prefix=folder.name))
            depends = subprocess.run(
                ["apt-cache", "depends", package], capture_output=True, text=True, check=True
            ).stdout
            own = re.findall(r"Depends: (libs6-\S+|libskarnet\S+|libexecline\S+)", depends)
            subprocess.run(
                ["apt-get", "download", package, *own], cwd=new, check=True, capture_output=True, timeout=120
            )
            for archive in new.glob("*.deb"):
                subprocess.run(["dpkg", "-x", archive, new], check=True)
            new.rename(folder)
    except (OSError, subprocess.SubprocessError):
        leave_out(program, f"apt-get cannot download {package}")
        return None
    libraries = ":".join(str(each) for each in folder.glob("usr/lib/*-linux-gnu"))
    return str(next(folder.glob(f"usr/bin/{program}"))), dict(os.environ) | {"LD_LIBRARY_PATH": libraries}


def main() -> None:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        both() as servers,
        tempfile.TemporaryDirectory(prefix="papad-bench-", dir=memory) as place,
        contextlib.ExitStack() as stack,
    ):
        report = Path(place) / "report"
        floods = [Program(f"flood-{size}", command("flood", SECONDS, report, size)) for size in SIZES]
        peers = {
            name: stack.enter_context(running(Path(place) / name, *floods)) for name, running in managers().items()
        }
        loggers = {key: found for key in LOGGERS if (found := unpacked(*key))}
        for size in SIZES:
            turns = {each: captured(unix_path(server), size, report) for each, server in servers.items()}
            turns |= {each: managed(peer, size, report) for each, peer in peers.items()}
            turns["cat >/dev/null"] = piped(["cat"], size, report)
            for key, (program, env) in loggers.items():
                with contextlib.suppress(FileExistsError):
                    (report.parent / "log").mkdir()
                turns[key[1]] = piped([program, *LOGGERS[key]], size, report, env)
            take_turns(turns)


if __name__ == "__main__":
    main()
