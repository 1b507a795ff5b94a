"""papad beside systemd and its journal, as root on a booted systemd where papad is installed: systemd.py runs this there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from benchmarks import capture, kill, memory, spawn
from benchmarks.figures import PAPAD, SECONDS, Sample, repeated, take_turns
from benchmarks.memory import FEW, MANY, Sizes, sizes
from benchmarks.output import arguments
from benchmarks.running import IDLE, start_idle
from benchmarks.servers import ask, welcomed
from benchmarks.units import Units
from tests.support.waiting import wait_until

ADDRESS = "/run/papad/papad.sock"
REPORT = Path("/run/papad-bench-report")
FLOOD = max(2.0, SECONDS) if SECONDS >= 0.1 else SECONDS
"""Long enough that what a socket of journald holds, up to some MiB, does not matter."""


def out(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def on_systemd(taken: Callable[[], Sample]) -> Callable[[], Sample]:
    """Its figures under names of their own: the machine is another one than that of other questions."""
    return lambda: {(f"{measure}, in the container", unit): value for (measure, unit), value in taken().items()}


def gone(units: str) -> bool:
    return not out("systemctl", "list-units", "--quiet", "--no-legend", units)


def started(units: Units) -> Callable[[], Sample]:
    def taken() -> Sample:
        count, seconds = repeated(lambda: units.start("p", spawn.PROGRAM))
        wait_until(lambda: gone("p-*.service"), "all have ended")
        return {spawn.STARTED: count / seconds}

    return taken


def by_command(*words: str) -> Callable[[], Sample]:
    """The same by a program that is started for each, whose own start counts."""

    def taken() -> Sample:
        numbers = iter(range(1 << 30))
        count, seconds = repeated(lambda: out(*(word.format(next(numbers)) for word in words)))
        with welcomed(ADDRESS) as sock:
            wait_until(lambda: "running=True" not in ask(sock, "list processes"), "all have ended")
            ask(sock, "remove processes *")
        return {("a process started by a command", "ms"): seconds / count * 1e3}

    return taken


def to_journal(units: Units, size: int) -> Callable[[], Sample]:
    def taken() -> Sample:
        units.start("flood", *arguments("flood", FLOOD, REPORT, size))
        found = capture.sample(size, REPORT)
        wait_until(lambda: gone("flood-*.service"), "it has ended")
        out("journalctl", "--sync")
        out("journalctl", "--rotate")
        out("journalctl", "--vacuum-size=1")
        return found

    return taken


def killed(count: int) -> Callable[[], Sample]:
    """With so many processes that run; systemd starts the next daemon."""

    def taken() -> Sample:
        anew()
        pids = start_idle(ADDRESS, *range(count))
        with welcomed(ADDRESS) as sock:
            daemon = json.loads(ask(sock, "describe server"))["pid"]
        seconds = kill.until_answer(ADDRESS, daemon)
        with welcomed(ADDRESS) as sock:
            held = ask(sock, "list processes").count("running=True")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return kill.sample(f"{count:,} processes", seconds, held)

    return taken


def anew() -> None:
    """Have a daemon and a nursery that begin with nothing."""
    out("systemctl", "stop", "papad.socket", "papad.service")
    subprocess.run(["systemctl", "kill", "--signal=KILL", "papad-processes*.scope"], check=False)
    wait_until(lambda: gone("papad-processes*.scope"), "the nursery has ended")
    out("systemctl", "clean", "--what=fdstore", "papad.service")
    out("systemctl", "start", "papad.socket")


def held_by_papad() -> Sample:
    anew()
    pids = start_idle(ADDRESS, *range(FEW))
    with welcomed(ADDRESS) as sock:
        server = json.loads(ask(sock, "describe server"))

    def now() -> Sizes:
        found = sizes({"daemon": server["pid"], "nursery": server["nursery"]})
        found["files in memory", "used"] = sum(memory.files_in_memory(server["pid"])) / 1024
        return found

    few = now()
    pids += start_idle(ADDRESS, *range(FEW, MANY))
    many = now()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return together(memory.grown(few, many, MANY - FEW))


def held_by_systemd() -> Sample:
    """By a PID 1 and a journald that begin anew, too."""
    out("systemctl", "daemon-reexec")
    out("systemctl", "restart", "systemd-journald.service")
    journald = int(out("systemctl", "show", "--property=MainPID", "--value", "systemd-journald.service"))
    with Units() as units:

        def after(further: int) -> Sizes:
            for _ in range(further):
                units.start("idle", *IDLE.split())
            return sizes({"PID 1": 1, "journald": journald})

        found = memory.grown(after(FEW), after(MANY - FEW), MANY - FEW)
    out("systemctl", "stop", "idle-*.service")
    return together(found)


def together(found: Sample) -> Sample:
    """The sums of all parts: what several of them share is in Rss for each, and in Pss once. papad's files are in both."""
    sums: dict[tuple[str, str], float] = {}
    for (measure, unit), value in found.items():
        _, kind, rest = measure.split(", ", 2)
        for sort in ("Rss", "Pss"):
            if kind in (sort, "used"):
                key = f"all parts, {sort} and files in memory, {rest}", unit
                sums[key] = sums.get(key, 0.0) + value
    return sums


def main() -> None:
    systemd = f"systemd {out('systemctl', '--version').split()[1]}"
    with Units() as units:
        take_turns({PAPAD: on_systemd(spawn.turn(ADDRESS)), systemd: on_systemd(started(units))}, warm=True)
        commands = {
            PAPAD: by_command("papactl", "make", "process", "p.{}", "--", spawn.PROGRAM),
            "systemd-run": by_command("systemd-run", "--quiet", spawn.PROGRAM),
        }
        take_turns({name: on_systemd(taken) for name, taken in commands.items()}, warm=True)
        for size in capture.SIZES:
            take_turns(
                {
                    PAPAD: on_systemd(capture.captured(ADDRESS, size, REPORT, FLOOD)),
                    "journald": on_systemd(to_journal(units, size)),
                }
            )
    for count in (FEW, MANY):
        take_turns({PAPAD: on_systemd(killed(count))})
    take_turns({PAPAD: on_systemd(held_by_papad), systemd: on_systemd(held_by_systemd)})


if __name__ == "__main__":
    main()
