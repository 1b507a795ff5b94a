"""What is in the Debian packages, and what lintian and autopkgtest say of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.system import packages
from tests.system.machine import Machine
from tests.system.packages import NOW, Built
from tests.system.papad import CHECKOUT
from tests.system.trees import tree

SOURCE = "/root/now"


def test_the_build_makes_source_and_binaries(built: Built) -> None:
    version = packages.version()
    kinds = {"papad": ["_all.deb", ".dsc", ".debian.tar.xz"], "python3-papad": ["_all.deb"]}
    wanted = {f"{name}_{version}-1{kind}" for name, each in kinds.items() for kind in each}
    assert wanted | {f"papad_{version}.orig.tar.gz"} <= {path.name for path in built.now.iterdir()}


def test_the_packages_hold_what_they_should(machine: Machine, built: Built) -> None:
    held = {
        name: machine.out("sh", "-c", f"dpkg-deb --fsys-tarfile {SOURCE}/dist/{name}_*.deb | tar -t").split()
        for name in ("papad", "python3-papad")
    }
    documents = "./usr/share/doc/papad/"
    examples = {each for each in held["papad"] if each.startswith(f"{documents}examples/")}
    assert {path for path in held["papad"] if path.endswith(".py")} <= examples
    for link in re.findall(r"\]\((examples/[^)]+)\)", (CHECKOUT / "README.md").read_text()):
        assert documents + link in examples
    assert "./usr/lib/python3/dist-packages/papad/aio/papa.py" in held["python3-papad"]
    assert not [path for path in held["python3-papad"] if re.match(r"\./(usr/bin|.*/systemd/(system|user))/", path)]
    assert not [path for paths in held.values() for path in paths if "tests/" in path or "__pycache__" in path]


def test_lintian_and_blhc_find_nothing(machine: Machine, built: Built) -> None:
    changes = f"{SOURCE}/dist/papad_{packages.version()}-1_*.changes"
    done = machine.run(
        "sh", "-c", f"exec lintian --allow-root --fail-on=error,warning {changes}", seconds=240, check=False
    )
    assert (done.returncode, re.findall(r"^[EW]: .*", done.stdout, re.MULTILINE)) == (0, []), done.stdout + done.stderr
    assert not list((CHECKOUT / "packaging").rglob("*lintian-overrides*"))
    done = machine.run("sh", "-c", f"exec blhc {SOURCE}/dist/*.build", check=False)
    assert done.returncode in (0, 1), done.stdout  # 1: there is nothing to compile


@pytest.fixture(scope="module")
def testbed(built: Built) -> Machine:
    """A machine for autopkgtest, in which it finds what it is to test, and an sshd to come in by."""
    with Machine(tree(built.release), f"{built.release}-testbed") as testbed:
        packages.put(testbed, built.now, NOW)
        for path in built.now.iterdir():
            if path.suffix in (".dsc", ".xz", ".gz"):
                testbed.root(f"{NOW}/{path.name}").write_bytes(path.read_bytes())
        testbed.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/id_ed25519")
        testbed.run("cp", "/root/.ssh/id_ed25519.pub", "/root/.ssh/authorized_keys")
        testbed.run("systemctl", "start", "ssh.service")
        yield testbed


TESTS = re.findall(r"^Tests: (\S+)", (CHECKOUT / "packaging/debian/tests/control").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", TESTS)
def test_autopkgtest_passes(testbed: Machine, name: str) -> None:
    """By ssh to the booted machine itself, which is the container that the tests ask for."""
    ssh = "ssh --hostname 127.0.0.1 --login root --identity /root/.ssh/id_ed25519 --capability isolation-container"
    options = f"--test-name={name} --no-built-binaries --output-dir=/tmp/{name} --timeout-test=300"
    command = f"cd {NOW} && exec autopkgtest {options} ./*.deb ./*.dsc -- {ssh}"
    done = testbed.run("sh", "-c", command, seconds=400, check=False)
    summary = Path(testbed.root(f"/tmp/{name}/summary")).read_text()
    assert re.fullmatch(rf"{name} +PASS\n", summary), f"{summary}{done.stdout[-4000:]}{done.stderr[-4000:]}"


def test_a_build_made_again_is_the_same_to_the_bit(machine: Machine, built: Built) -> None:
    machine.run("mv", f"{SOURCE}/dist", f"{SOURCE}/dist.first")
    machine.run("make", "-C", SOURCE, "deb", seconds=240)
    sums = [machine.out("sh", "-c", f"cd {SOURCE}/{folder} && sha256sum *.deb") for folder in ("dist", "dist.first")]
    assert sums[0] == sums[1]
    machine.run("rm", "-r", f"{SOURCE}/dist.first")
