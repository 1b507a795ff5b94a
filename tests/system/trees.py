"""Debian trees to boot: made once with debootstrap, kept in a cache, never written to afterwards."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

CACHE = Path(os.environ.get("PAPAD_TEST_CACHE", "/var/cache/papad-test"))
RELEASES = ("trixie", "bookworm")
PACKAGES = (
    "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,"
    "python3,python3-systemd,python3-pyroute2,python3-pip,python3-setuptools,python3-venv,"
    "make,strace,procps,iproute2,"
    # what papad is used with and from: other machines, shells, programs that take sockets
    "openssh-server,openssh-client,bash-completion,zsh,fish,less,nginx-light,gunicorn,python3-uvicorn"
)
MASKED = ("nginx.service",)  # served by papad, not at boot


def selected_releases() -> list[str]:
    """The releases to test: all, or those that PAPAD_TEST_RELEASES names."""
    return re.findall(r"[\w-]+", os.environ.get("PAPAD_TEST_RELEASES", "")) or list(RELEASES)


def debian_mirror() -> str:
    """The mirror that this machine's own apt uses."""
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    one_line = Path("/etc/apt/sources.list")
    for path, pattern in (
        (sources, r"^URIs:\s*(\S+)"),
        (one_line, r"^deb\s+(?:\[.*?\]\s+)?(\S+)"),
    ):
        if path.exists() and (found := re.search(pattern, path.read_text(), re.MULTILINE)):
            return found.group(1)
    raise RuntimeError(f"no Debian mirror named in {sources} or {one_line}")


def tree(release: str) -> Path:
    """The root directory of a minimal Debian of that release; makes it (about a minute) where there is none."""
    made_of = hashlib.sha256(PACKAGES.encode()).hexdigest()[:8]
    target = CACHE / f"{release}-{made_of}"
    if target.is_dir():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    # Built aside and renamed, so that a half-made tree is never taken for a whole one.
    making = CACHE / f"{target.name}.{os.getpid()}.tmp"
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", release, str(making), debian_mirror()]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1200)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        subprocess.run(["systemctl", f"--root={making}", "mask", *MASKED], check=True, capture_output=True)
        try:
            making.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another run was faster, and its tree is as good
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return target
