"""The managers that can be had here as peers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from benchmarks import circus, pm2, supervisor
from benchmarks.figures import leave_out
from benchmarks.manager import Running
from tests.original.venv import circus_venv, supervisor_venv

SUPERVISOR, CIRCUS, PM2 = "supervisor 4.3.0", "circus 0.19.0", f"pm2 {pm2.VERSION}"
ALL: dict[str, tuple[Callable[[], object], Running]] = {
    SUPERVISOR: (supervisor_venv, supervisor.running),
    CIRCUS: (circus_venv, circus.running),
    PM2: (pm2.installed, pm2.running),
}


def managers() -> dict[str, Running]:
    """By name what starts them. Those that cannot be installed are said to be left out."""
    found: dict[str, Running] = {}
    for name, (install, running) in ALL.items():
        try:
            install()
        except (OSError, subprocess.SubprocessError, RuntimeError):
            leave_out(name, "it cannot be installed")
        else:
            found[name] = running
    return found
