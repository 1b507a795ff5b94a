"""Counts of system calls, by name, and of instructions."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.guard.operations import OPERATIONS
from tests.guard.place import Place, running
from tests.support.papad import REPOSITORY
from tests.support.waiting import wait_until

Calls = dict[str, int]
"""System calls by name, those of the nursery as `nursery: name`."""

WARM, TIMES, REPEATED = 3, 7, 20  # of each operation; REPEATED for instructions
RECOVERY = "recovery, of each process"
FEW, MANY = 20, 120  # processes that are recovered
STRACE = (shutil.which("strace") or "strace", "-qq", "-e", "signal=none", "-o")
CALLGRIND = (shutil.which("valgrind") or "valgrind", "--tool=callgrind", "-q")
ALLOCATOR = ("mmap", "munmap", "mremap", "brk", "madvise")
"""What it calls depends on what was allocated before."""
PAPACTL = (("--help",), ("status",))
START = "from papad.ctl import main; main()"
# papactl ends by os._exit.
LISTING = (
    "import os, sys; leave = os._exit; "
    "os._exit = lambda status: (print(chr(10) + ' '.join(sorted(sys.modules)), flush=True), leave(status)); "
)
RESUMED = re.compile(r"(?:<\.\.\. )?(\w+)(?:\(| resumed>)")


def missing() -> str:
    """Why nothing can be counted here; empty if it can."""
    for tool in ("strace", "valgrind", "vgdb"):
        if shutil.which(tool) is None:
            return f"there is no {tool} here (apt install {tool.replace('vgdb', 'valgrind')})"
    if not Path("/proc/self/schedstat").exists():
        return "this kernel does not say how long a process has run (/proc/PID/schedstat)"
    with subprocess.Popen(["/bin/sleep", "0.2"]) as child:  # it must be possible to trace what runs already
        tracer = subprocess.run([*STRACE, "/dev/null", "-p", str(child.pid)], capture_output=True, text=True)
    return f"ptrace(2) is not permitted here: {tracer.stderr.strip()}" if tracer.returncode else ""


class Trace:
    """What strace has written of one process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = 0

    def new(self) -> collections.Counter[str]:
        """The calls that have returned since the last time."""
        text = self._path.read_text()
        whole = text.rfind("\n") + 1
        lines, self._seen = text[self._seen : whole].splitlines(), whole
        return collections.Counter(found[1] for line in lines if (found := RESUMED.match(line)))


class Tracing:
    """Both traces of a place: that of the daemon from its start, that of the nursery from now on."""

    def __init__(self, daemon: Path, nursery: Path) -> None:
        self._daemon, self._nursery = Trace(daemon), Trace(nursery)

    def new(self) -> collections.Counter[str]:
        found = self._daemon.new()
        found.update({f"nursery: {name}": count for name, count in self._nursery.new().items()})
        return found


@contextlib.contextmanager
def tracing(folder: Path) -> Iterator[tuple[Place, Tracing]]:
    """A papad that is traced."""
    folder.mkdir()
    daemon, nursery = folder / "daemon", folder / "nursery"
    # -D: the process that is traced keeps its pid and its parent.
    with running(folder / "place", [*STRACE, str(daemon), "-D"]) as place:
        tracer = subprocess.Popen([*STRACE, str(nursery), "-p", str(place.nursery)])
        try:
            wait_until(lambda: traced(place.nursery), "the nursery is traced")
            yield place, Tracing(daemon, nursery)
        finally:
            tracer.terminate()
            tracer.wait(10)


def traced(pid: int) -> bool:
    return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


def system_calls(folder: Path) -> dict[str, Calls]:
    """Of each operation, once: for each name the median of TIMES, so what a timer adds now and then does not count."""
    found = {}
    with tracing(folder) as (place, traces):
        for operation in OPERATIONS:
            with operation.ready(place) as once:
                counts = []
                for _ in range(WARM + TIMES):
                    place.quiet()
                    traces.new()
                    once()
                    place.quiet()
                    counts.append(traces.new())
            found[operation.name] = medians(counts[WARM:])
        totals = []
        for count in (FEW, MANY):
            place.hold(count)
            place.quiet()
            place.replace()
            with place.at_gate():
                pass
            place.ask("get x")
            place.quiet()
            totals.append(Trace(folder / "daemon").new())
    each = {name: round(count / (MANY - FEW)) for name, count in (totals[1] - totals[0]).items()}
    found[RECOVERY] = medians([each])
    return {name: {call: count for call, count in calls.items() if count} for name, calls in found.items()}


def medians(counts: Sequence[Mapping[str, int]]) -> Calls:
    """By name, without those of ALLOCATOR."""
    names = sorted(name for name in set().union(*counts) if name.removeprefix("nursery: ") not in ALLOCATOR)
    return {name: int(statistics.median(each.get(name, 0) for each in counts)) for name in names}


class Callgrind:
    """Counts the instructions of a process under callgrind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.command = [*CALLGRIND, "--instr-atstart=no", f"--callgrind-out-file={folder}/callgrind.%p"]

    def begin(self, pid: int) -> None:
        """Count from now on."""
        self._tell(pid, "instrumentation on")
        self.count(pid)

    def count(self, pid: int) -> int:
        """Those since the last time."""
        before = set(self._folder.glob("callgrind.*"))
        self._tell(pid, "dump")
        (dump,) = set(self._folder.glob("callgrind.*")) - before
        return total(dump)

    def _tell(self, pid: int, what: str) -> None:
        subprocess.run(
            ["vgdb", f"--pid={pid}", "--wait=60", *what.split()], check=True, capture_output=True, timeout=120
        )


def total(dump: Path) -> int:
    """The instructions of a file that callgrind has written."""
    (line,) = (line for line in dump.read_text().splitlines() if line.startswith("totals: "))
    return int(line.split()[1])


def instructions(folder: Path) -> dict[str, int]:
    """Of the daemon, of each operation, and of papactl."""
    found = {}
    folder.mkdir()
    callgrind = Callgrind(folder)
    with running(folder / "place", callgrind.command) as place:
        callgrind.begin(place.daemon)
        for operation in OPERATIONS:
            with operation.ready(place) as once:
                for _ in range(WARM):
                    once()
                place.quiet()
                callgrind.count(place.daemon)
                for _ in range(REPEATED):
                    once()
                    place.quiet()
                found[operation.name] = callgrind.count(place.daemon) // REPEATED
        totals = []
        for count in (FEW, MANY):
            place.hold(count)
            place.quiet()
            place.replace()
            with place.at_gate():
                callgrind.begin(place.daemon)
            place.ask("get x")
            place.quiet()
            totals.append(callgrind.count(place.daemon))
        found[RECOVERY] = (totals[1] - totals[0]) // (MANY - FEW)
        for words in PAPACTL:
            papactl([], START, words, place.path)  # so that all is compiled
            dump = folder / "papactl"
            papactl([*CALLGRIND, f"--callgrind-out-file={dump}"], START, words, place.path)
            found[" ".join(["papactl", *words])] = total(dump)
    return found


def modules(folder: Path) -> dict[str, list[str]]:
    """Those that papactl imports, by its words."""
    found = {}
    with running(folder, []) as place:
        for words in PAPACTL:
            text = papactl([], LISTING + START, words, place.path)
            found[" ".join(["papactl", *words])] = text.splitlines()[-1].split()
    return found


def papactl(tool: Sequence[str], program: str, words: Sequence[str], socket: str) -> str:
    """Run papactl without what is installed beside Python (-S), and with Python's own hashes; what it prints."""
    environ = {"PYTHONHASHSEED": "0", "PYTHONPATH": str(REPOSITORY), "PAPAD_SOCKET": socket, "PATH": os.defpath}
    command = [*tool, sys.executable, "-S", "-c", program, *words]
    return subprocess.run(
        command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=120
    ).stdout
