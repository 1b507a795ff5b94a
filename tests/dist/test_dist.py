"""What is built for PyPI: complete, fit for its checks, and of use in a virtual environment that has nothing of Debian's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from papad import __version__
from tests.support.papad import REPOSITORY
from tests.support.waiting import wait_until


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout in which git knows every file."""
    source = tmp_path_factory.mktemp("dist") / "papad"
    run(REPOSITORY / "scripts/copy", source)
    run("git", "init", "--quiet", cwd=source)
    run("git", "add", "--all", cwd=source)
    return source


@pytest.fixture(scope="module")
def dist(source: Path) -> Path:
    """sdist and wheel, as `make dist` leaves them, by the tools that `pip install .[release]` brings."""
    run("make", "-C", source, "dist")
    return source / "dist"


def test_the_sdist_has_what_a_checkout_has(source: Path, dist: Path) -> None:
    with tarfile.open(dist / f"papad-{__version__}.tar.gz") as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    tracked = set(run("git", "ls-files", cwd=source).splitlines())
    assert len(tracked) > 100
    assert tracked - packed == set()


def test_what_is_not_in_git_or_missing_from_the_manifest_is_refused(source: Path, dist: Path, tmp_path: Path) -> None:
    other = tmp_path / "papad"
    shutil.copytree(source, other, symlinks=True)
    (other / "forgotten.txt").write_text("")
    run("git", "add", "forgotten.txt", cwd=other)
    done = subprocess.run(["make", "-C", other, "dist"], capture_output=True, text=True)
    assert done.returncode
    assert "forgotten.txt" in done.stderr


def test_a_version_of_its_own_anywhere_is_refused(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "papad"
    shutil.copytree(source, other, ignore=shutil.ignore_patterns(".venv", "dist"), symlinks=True)
    for page, text in {
        "packaging/debian/changelog": "papad (0.0.1-1) unstable; urgency=medium\n",
        "CHANGELOG.md": "## 0.0.1, never\n",
    }.items():
        before = (other / page).read_text()
        (other / page).write_text(text)
        done = subprocess.run([sys.executable, "scripts/version", "--check"], cwd=other, capture_output=True, text=True)
        assert f"papad.__version__ is {__version__}, but {page} says 0.0.1" in done.stderr
        (other / page).write_text(before)
    assert run(sys.executable, "scripts/version", "--check", cwd=other) == ""


@pytest.mark.skipif(
    subprocess.run(["pkg-config", "--exists", "libsystemd"]).returncode != 0 if shutil.which("pkg-config") else True,
    reason="systemd-python cannot be built: pkg-config or libsystemd-dev is missing",
)
def test_the_wheel_in_a_fresh_venv(dist: Path, tmp_path: Path) -> None:
    run("/usr/bin/python3", "-m", "venv", tmp_path / "venv")
    bin = tmp_path / "venv/bin"
    run(bin / "pip", "install", "--quiet", dist / f"papad-{__version__}-py3-none-any.whl")
    assert run(bin / "papad", "--version") == f"papad {__version__}\n"
    assert run(bin / "papactl", "--version").startswith(f"papactl {__version__}")
    place = tmp_path / "papad.sock"
    with subprocess.Popen([bin / "papad", "-u", place], stderr=subprocess.DEVNULL, cwd=tmp_path) as papad:
        try:
            wait_until(place.exists, "papad listens", 60)
            assert run(bin / "papactl", "--socket", place, "set", "a", "b") == ""
            script = f"from papad import Papa; print(Papa({os.fspath(place)!r}).get('a'))"
            assert run(bin / "python", "-P", "-c", script, cwd=tmp_path) == "b\n"
        finally:
            papad.terminate()
