"""papad's Debian packages: built inside a machine from a source tree, whole or varied, and installed in another."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.machine import Machine
from tests.system.papad import CHECKOUT, copy_checkout

NEXT_VERSION = "99.1"
_RELEASES = CHECKOUT / "packaging/releases"
NOW, NEXT = "/root/now", "/root/next"


@dataclass(frozen=True)
class Built:
    """Where the packages are, of this checkout and of an imaginary next version."""

    release: str
    now: Path
    next: Path


def version() -> str:
    """This checkout's version."""
    found = re.search(r'^__version__ = "(.*)"', (CHECKOUT / "papad/version.py").read_text(), re.MULTILINE)
    assert found
    return found[1]


def build(machine: Machine, name: str, vary: Callable[[Path], None] = lambda source: None) -> Path:
    """Build the packages of this checkout in the machine, `vary` having changed the sources; where they are, seen from outside."""
    source = machine.root(f"/root/{name}")
    copy_checkout(source)
    vary(source)
    before = set(source.rglob("*"))
    machine.run("make", "-C", f"/root/{name}", "deb", seconds=240)
    made = set(source.rglob("*")) - before
    assert {path.relative_to(source).parts[0] for path in made} == {"dist"}
    return source / "dist"


def edit(path: Path, old: str, new: str) -> None:
    """Replace a piece of a file, which must be there once."""
    text = path.read_text()
    assert text.count(old) == 1, f"{path} has {text.count(old)} times {old!r}"
    path.write_text(text.replace(old, new))


def next_version(source: Path) -> None:
    """Make of the sources an imaginary next release: an option more, which is a field more in what is stored, and a module more."""
    now, then = version(), NEXT_VERSION
    edit(source / "papad/version.py", f'__version__ = "{now}"', f'__version__ = "{then}"')
    edit(source / "CHANGELOG.md", f"## {now},", f"## {then},")
    edit(source / "packaging/debian/changelog", f"papad ({now}-1)", f"papad ({then}-1)")
    launch = source / "papad/daemon/tables/launch.py"
    field, given = "    listen: list[str] | None = None", '        listen=options.get("listen"),'
    edit(launch, field, f"    note: str | None = None\n{field}")
    edit(launch, given, f'        note=options.get("note"),\n{given}')
    option = '    Option("journal"'
    edit(
        source / "papad/daemon/commands/process_options.py",
        option,
        f'    Option("note", str, "what it is for"),\n{option}',
    )
    # Another program of the nursery, so that it is renewed.
    edit(source / "papad/daemon/nursery/main.py", "PROTOCOL = 2\n", "PROTOCOL = 2\n_NEXT = True\n")
    (source / "papad/of_the_next_version.py").write_text("")


def releases() -> list[str]:
    """The versions that packaging/releases lists."""
    return [line.split()[0] for line in _RELEASES.read_text().splitlines() if not line.startswith("#")]


def build_release(machine: Machine, version: str) -> Path:
    """Build the packages of an earlier release, from its commit; where they are. Skips where the history does not reach so far."""
    (commit,) = (line.split()[1] for line in _RELEASES.read_text().splitlines() if line.startswith(f"{version} "))
    archive = subprocess.run(["git", "-C", str(CHECKOUT), "archive", commit], capture_output=True)
    if archive.returncode:
        pytest.skip(f"this clone does not have the commit of {version}: {archive.stderr.decode().strip()}")
    source = machine.root(f"/root/release-{version}")
    if not source.exists():
        source.mkdir()
        subprocess.run(["tar", "-x", "-C", str(source)], input=archive.stdout, check=True)
        machine.run("make", "-C", f"/root/release-{version}", "deb", seconds=240)
    return source / "dist"


def put(machine: Machine, dist: Path, folder: str) -> None:
    """Copy packages into a machine."""
    target = machine.root(folder)
    target.mkdir(parents=True)
    for package in dist.glob("*.deb"):
        shutil.copy(package, target)


def install(machine: Machine, folder: str, *options: str, check: bool = True) -> str:
    """Install what is in a folder of the machine, as README says; what apt-get says of it."""
    command = f"cd {folder} && exec apt-get install -y {' '.join(options)} ./papad_*.deb ./python3-papad_*.deb"
    done = machine.run("sh", "-c", command, env={"DEBIAN_FRONTEND": "noninteractive"}, check=check, seconds=240)
    return done.stdout + done.stderr
