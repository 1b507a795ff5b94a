"""README's way to have systemd keep workers running in papad: examples/systemd/web@.service, as it stands."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from tests.support.waiting import wait_until
from tests.system.machine import Machine
from tests.system.papad import CHECKOUT, Papad, field, pid_of
from tests.system.test_listen import answer
from tests.system.test_readme import SHOP

UNIT = "web@.service"
WEB = "127.0.0.1:8080"


@pytest.fixture
def site(machine: Machine, papad: Papad) -> Iterator[Papad]:
    """Two workers of the shop, enabled as README says."""
    machine.write("/srv/shop/shop.py", SHOP.format("version 1"))
    install(papad, (CHECKOUT / "examples/systemd" / UNIT).read_text())
    papad.systemctl("enable", "--now", "web@1", "web@2")
    for name in ("web.1", "web.2"):
        wait_until(lambda name=name: "running=True" in papad.ask(f"list processes {name}"), f"{name} runs")
    wait_until(lambda: answer(machine, WEB) == "version 1", "the shop is open")
    yield papad
    papad.systemctl("disable", "--now", "web@1", "web@2")
    machine.root(f"/etc/systemd/system/{UNIT}").unlink()
    papad.systemctl("daemon-reload")
    papad.reset()


def install(papad: Papad, unit: str) -> None:
    papad.machine.write(f"/etc/systemd/system/{UNIT}", unit)
    papad.systemctl("daemon-reload")


def pids(papad: Papad) -> list[int]:
    return [pid_of(papad, name) for name in ("web.1", "web.2")]


def is_another(papad: Papad, name: str, pid: int) -> bool:
    """Whether the worker runs, with another pid."""
    line = papad.ask(f"list processes {name}")
    return "running=True" in line and int(field(line, "pid")) != pid


def watches(papad: Papad, name: str) -> bool:
    """Whether the unit's papactl watches the worker."""
    return '"watchers":1}' in papad.ask(f"describe processes {name}")


def test_readme_has_the_lines_of_the_unit() -> None:
    page, unit = (CHECKOUT / "README.md").read_text(), (CHECKOUT / "examples/systemd" / UNIT).read_text()
    section = page[page.index("## Keep it running") : page.index("## Day to day")]
    lines = re.findall(r"^    (.*)$", section, re.MULTILINE)
    assert len(lines) == 6
    for line in lines:
        assert line.partition(" ... ")[0] in unit


def test_the_worker_outlives_stop_restart_and_kill_of_the_unit_and_of_papad(site: Papad, machine: Machine) -> None:
    workers = pids(site)
    site.systemctl("stop", "web@1")
    assert site.show("ActiveState", "web@1") == "inactive"
    assert answer(machine, WEB) == "version 1"
    site.systemctl("start", "web@1")
    wait_until(lambda: watches(site, "web.1"), "the worker is taken back")
    site.systemctl("restart", "web@1", "web@2")
    main = site.show("MainPID", "web@1")
    site.systemctl("kill", "--signal=KILL", "web@1")
    wait_until(lambda: site.show("MainPID", "web@1") not in ("0", main), "systemd starts papactl anew")
    site.wait_for_new(site.sigkill())
    for name in ("web.1", "web.2"):
        wait_until(lambda name=name: watches(site, name), f"{name} is taken back")
    assert pids(site) == workers
    assert answer(machine, WEB) == "version 1"
    assert site.show("ActiveState", "web@1") == "active"


def test_a_worker_that_ends_is_started_anew_and_its_output_is_in_the_journal(site: Papad, machine: Machine) -> None:
    cursor = machine.cursor()
    worker = pid_of(site, "web.1")
    os.kill(site.outside_pid(worker), 9)
    wait_until(lambda: is_another(site, "web.1", worker), "a new one is there")
    wait_until(lambda: "Listening at" in machine.journal(cursor, "-u", "web@1"), "what gunicorn says is there")
    said = machine.journal(cursor, "-u", "web@1")
    assert "status=137" in said
    assert answer(machine, WEB) == "version 1"


def test_a_reload_deploys_what_is_there_now_while_the_shop_stays_open(site: Papad, machine: Machine) -> None:
    machine.write("/srv/shop2/shop.py", SHOP.format("version 2"))
    machine.write("/srv/shop/shop.py", SHOP.format("version 2"))
    before = pids(site)
    for unit, name, old in zip(("web@1", "web@2"), ("web.1", "web.2"), before, strict=True):
        site.systemctl("reload", unit)
        wait_until(lambda name=name, old=old: is_another(site, name, old), f"{name} is another")
        assert answer(machine, WEB) in ("version 1", "version 2")
    wait_until(lambda: answer(machine, WEB) == "version 2", "the new version serves")


def test_a_definition_that_was_edited_comes_with_the_reload_and_is_no_crash_loop_before(
    site: Papad, machine: Machine
) -> None:
    cursor = machine.cursor()
    worker = pid_of(site, "web.1")
    unit = machine.root(f"/etc/systemd/system/{UNIT}").read_text()
    install(site, unit.replace("--env PATH", "--env EDITED=yes --env PATH"))
    site.systemctl("restart", "web@1")
    wait_until(lambda: watches(site, "web.1"), "the worker is taken back as it is")
    restarts = site.show("NRestarts", "web@1")
    assert "env.EDITED" in machine.journal(cursor, "-u", "web@1")
    assert pid_of(site, "web.1") == worker
    site.systemctl("reload", "web@1")
    wait_until(lambda: '"EDITED":"yes"' in site.ask("describe processes web.1"), "the edited one runs")
    assert int(site.show("NRestarts", "web@1")) == int(restarts) + 1


def test_it_ends_for_good_when_it_is_told(site: Papad, machine: Machine) -> None:
    workers = [site.outside_pid(pid) for pid in pids(site)]
    site.systemctl("disable", "--now", "web@1", "web@2")
    machine.run("papactl", "signal", "--wait", "web.*")
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), "they have ended")
    machine.run("papactl", "remove", "processes", "web.*")
    machine.run("papactl", "remove", "sockets", "web")
    assert site.talk("l p", "l s") == ["", ""]
    assert site.show("ActiveState", "web@1") == "inactive"


def test_after_a_boot_all_is_there_again(site: Papad, machine: Machine) -> None:
    """As far as a boot can be had here: nothing of papad is left, and the targets are started."""
    site.systemctl("stop", "web@1", "web@2")
    site.reset()
    assert site.talk("l p", "l s") == ["", ""]
    site.systemctl("isolate", "multi-user.target")
    wait_until(lambda: answer(machine, WEB) == "version 1", "the shop is open")
