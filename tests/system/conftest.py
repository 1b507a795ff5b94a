"""The machines of the system tests: each release boots once a session and is installed from this checkout."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.waiting import wait_until
from tests.system import packages
from tests.system import papad as installed
from tests.system.machine import Machine, why_not
from tests.system.packages import Built
from tests.system.papad import USER, Papad, furnish
from tests.system.trees import selected_releases, tree


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "machine" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.system)


@pytest.fixture(scope="session")
def bootable() -> None:
    """Skip, and say so at the end, where no container can be booted."""
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture(scope="session", params=selected_releases())
def machine(request: pytest.FixtureRequest, bootable: None) -> Iterator[Machine]:
    """A booted Debian with papad installed."""
    with Machine(tree(request.param), request.param) as machine:
        installed.install(machine)
        yield machine


@pytest.fixture(scope="session")
def built(machine: Machine) -> Built:
    """The Debian packages, built offline in a machine that has what they need."""
    return Built(machine.name, packages.build(machine, "now"), packages.build(machine, "next", packages.next_version))


@pytest.fixture
def fresh(built: Built) -> Iterator[Machine]:
    """A booted Debian that has never seen papad, with the packages in two folders."""
    with Machine(tree(built.release, "fresh"), f"{built.release}-fresh") as fresh:
        packages.put(fresh, built.now, packages.NOW)
        packages.put(fresh, built.next, packages.NEXT)
        yield fresh


@pytest.fixture
def packaged(fresh: Machine) -> Papad:
    """papad, installed from its packages on a fresh Debian."""
    packages.install(fresh, packages.NOW)
    furnish(fresh)
    return Papad(fresh)


@pytest.fixture
def papad(machine: Machine) -> Papad:
    """The system's papad, as after a boot: not yet started, its socket listening."""
    papad = Papad(machine)
    papad.reset()
    return papad


@pytest.fixture
def own(machine: Machine) -> Iterator[Papad]:
    """A user's papad, under a user manager that lingers."""
    machine.run("loginctl", "enable-linger", USER)
    uid = machine.out("id", "-u", USER)
    ready = machine.root(f"/run/user/{uid}/systemd/private")
    wait_until(ready.exists, "the user manager listens")
    papad = Papad(machine, USER)
    papad.reset()
    yield papad
    machine.run("loginctl", "disable-linger", USER)
    wait_until(lambda: not ready.exists(), "the user manager has ended")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [report.nodeid for report in terminalreporter.stats.get("skipped", [])]
    if any(each.startswith("tests/system/") for each in skipped) and (reason := why_not()):
        terminalreporter.section("NOT TESTED")
        terminalreporter.line(f"Nothing was tested on a booted systemd: {reason}.")
