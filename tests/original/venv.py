"""A virtual environment of its own for papa 1.0.6 and circus 0.17.2, built once and cached.

The wheel of papa installs a top-level package named `tests`, so it never goes into the environment that runs pytest.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

NAME = "original-1.0.6"
PACKAGES = ("papa==1.0.6", "circus==0.17.2")
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
    """The environment's folder. Scripts in its bin name the folder it was built in, so run modules with bin/python."""
    cache = cache_folder()
    ready = cache / NAME
    with open(cache / f"{NAME}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (ready / "bin" / "python").exists():
            building = cache / f"{NAME}.tmp"
            shutil.rmtree(building, ignore_errors=True)
            shutil.rmtree(ready, ignore_errors=True)
            base = SYSTEM_PYTHON if os.path.exists(SYSTEM_PYTHON) else sys.executable
            subprocess.run([base, "-m", "venv", str(building)], check=True, timeout=120)
            pip = [str(building / "bin" / "python"), "-m", "pip", "install", "--quiet", *PACKAGES]
            subprocess.run(pip, check=True, timeout=300)
            building.rename(ready)
    return ready


def site_packages(venv: Path) -> Path:
    return next(venv.glob("lib/python3*/site-packages"))
