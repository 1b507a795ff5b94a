"""Debian trees to boot: made once with debootstrap and apt, kept in a cache, never written to afterwards."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.system.machine import why_not

CACHE = Path(os.environ.get("PAPAD_TEST_CACHE", "/var/cache/papad-test"))
RELEASES = ("trixie", "bookworm")
BASE = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd"
DEPENDENCIES = "python3 python3-systemd"
INSTALL = "apt-get -q install -y --no-install-recommends"
KINDS = {
    # everything that the tests use, installed
    "full": (
        f"{INSTALL} {DEPENDENCIES} python3-pip python3-setuptools python3-venv make strace procps iproute2",
        # what papad is used with and from: other machines, shells, programs that take sockets
        f"{INSTALL} openssh-server openssh-client bash-completion zsh fish less nginx-light gunicorn python3-uvicorn",
        "systemctl mask nginx.service",  # served by papad, not at boot
        # what builds papad's packages and judges them
        f"{INSTALL} build-essential debhelper dh-python pybuild-plugin-pyproject python3-all python3-wheel",
        f"{INSTALL} lintian blhc autopkgtest dpkg-repack",
    ),
    # what a web page or a URL can make send bytes to papad
    "browser": (
        f"{INSTALL} {DEPENDENCIES} python3-pip python3-setuptools make curl chromium-headless-shell",
        "apt-get clean",
    ),
    # a Debian that knows nothing of papad yet; what papad depends on waits in apt's cache, as the machine has no network
    "fresh": (f"apt-get -q install -y --download-only {DEPENDENCIES}",),
    # one that is about to become the next release, whose packages wait likewise
    "last": (
        f"apt-get -q install -y {DEPENDENCIES}",
        "sed -i s/bookworm/trixie/g /etc/apt/sources.list",
        "apt-get -q update",
        "apt-get -q dist-upgrade -y --download-only",
    ),
}


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


def tree(release: str, kind: str = "full") -> Path:
    """The root directory of a Debian of that release, of one of KINDS; makes it (a minute or two) where there is none."""
    base = _made(f"{release}-base", BASE, lambda making: _debootstrap(release, making))
    return _made(f"{release}-{kind}", BASE + "\n".join(KINDS[kind]), lambda making: _extend(base, making, KINDS[kind]))


def _made(name: str, made_of: str, make: Callable[[Path], None]) -> Path:
    """What `make` makes once and for all. It is built aside and renamed, so that a half-made tree is never taken for a whole one."""
    target = CACHE / f"{name}-{hashlib.sha256(made_of.encode()).hexdigest()[:8]}"
    if target.is_dir():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    making = CACHE / f"{target.name}.{os.getpid()}.tmp"
    try:
        make(making)
        try:
            making.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another run was faster, and its tree is as good
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return target


def _debootstrap(release: str, making: Path) -> None:
    # What it mounts, it mounts for itself: whatever becomes of it, the tree can be removed.
    command = ("debootstrap", "--variant=minbase", f"--include={BASE}", release, str(making), debian_mirror())
    _run("unshare", "--mount", *command)


def _extend(base: Path, making: Path, steps: tuple[str, ...]) -> None:
    """A copy of `base` after these commands in it. apt gets the packages: it resolves what debootstrap cannot."""
    _run("cp", "-a", "--reflink=auto", str(base), str(making))
    policy = making / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")  # nothing is started while the tree is being made
    policy.chmod(0o755)
    # The host knows how to reach the mirror, by name too.
    shutil.copy("/etc/resolv.conf", making / "etc/resolv.conf")
    for step in ("apt-get -q update", *steps):
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--root={making}", "--mount-proc"]
        _run(*apart, "env", "-i", "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin", "sh", "-c", step)
    policy.unlink()


def _run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1200)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def main() -> None:
    """Make all trees that the tests will want, the releases at once: it can take longer than a test may."""
    if reason := why_not():
        sys.exit(f"no Debian can be booted here: {reason}")
    releases = selected_releases()
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda release: [tree(release, kind) for kind in _kinds(release)], releases):
            pass


def _kinds(release: str) -> list[str]:
    return [kind for kind in KINDS if kind != "last" or release == "bookworm"]


if __name__ == "__main__":
    main()
