"""Virtual environments for papa 1.0.6 with circus 0.17.2, circus 0.19.0 and supervisor 4.3.0, each built once and cached.

The wheel of papa installs a top-level package named `tests`, so it never goes into the environment that runs pytest.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

SYSTEM_PYTHON = "/usr/bin/python3"


def cache_folder() -> Path:
    """The first of the known places that can be written to."""
    given = os.environ.get("PAPAD_TEST_CACHE")
    places = [Path(given)] if given else [Path("/var/cache/papad-test"), Path.home() / ".cache" / "papad-test"]
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(place, os.W_OK):
            return place
    raise RuntimeError(f"cannot write to any of {places}; set PAPAD_TEST_CACHE")


def original_venv() -> Path:
    """That of papa, and of the last circus with `use_papa`."""
    return _venv("original-1.0.6", "papa==1.0.6", "circus==0.17.2")


def circus_venv() -> Path:
    """That of today's circus."""
    return _venv("circus-0.19.0", "circus==0.19.0")


def supervisor_venv() -> Path:
    """That of supervisor, a peer in benchmarks/ only."""
    return _venv("supervisor-4.3.0", "supervisor==4.3.0")


def _venv(name: str, *packages: str) -> Path:
    """The environment's folder. Scripts in its bin name the folder it was built in, so run modules with bin/python."""
    cache = cache_folder()
    ready = cache / name
    with open(cache / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (ready / "bin" / "python").exists():
            building = cache / f"{name}.tmp"
            shutil.rmtree(building, ignore_errors=True)
            shutil.rmtree(ready, ignore_errors=True)
            base = SYSTEM_PYTHON if os.path.exists(SYSTEM_PYTHON) else sys.executable
            subprocess.run([base, "-m", "venv", str(building)], check=True, timeout=120)
            pip = [str(building / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages]
            subprocess.run(pip, check=True, timeout=300)
            building.rename(ready)
    return ready


def site_packages(venv: Path) -> Path:
    return next(venv.glob("lib/python3*/site-packages"))
