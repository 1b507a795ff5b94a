"""README's way to run a web application, deploy its next version and stop the old one, line by line."""

from __future__ import annotations

import re

from tests.support.waiting import wait_until
from tests.system.machine import Machine
from tests.system.papad import CHECKOUT, Papad
from tests.system.test_listen import answer

SHOP = """def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"{}"]
"""


def test_run_deploy_stop(machine: Machine, papad: Papad) -> None:
    page = (CHECKOUT / "README.md").read_text()
    section = page[page.index("## Run, deploy, stop") : page.index("## Keep it running")]
    make, run, deploy, end, follow, archive, forget = re.findall(r"^    (.*)$", section, re.MULTILINE)
    for number in ("", "2"):
        machine.write(f"/srv/shop{number}/shop.py", SHOP.format(f"version {number or 1}"))
    for command in (make, run):
        machine.run("bash", "-c", command)
    wait_until(lambda: answer(machine, "127.0.0.1:8080") == "version 1", "the shop is open")
    machine.run("bash", "-c", deploy)
    assert answer(machine, "127.0.0.1:8080") in ("version 1", "version 2")
    machine.run("bash", "-c", end)
    assert "running=False" in papad.ask("list processes web.1")
    wait_until(lambda: answer(machine, "127.0.0.1:8080") == "version 2", "the next version serves alone")
    with machine.running("sh", "-c", f"{follow} & read x; kill $!") as following:
        assert following.stdout is not None
        assert "web.2" in following.stdout.readline()
    logs = machine.root("/var/log/web")
    with machine.running("sh", "-c", f"{archive} & read x; kill $!"):
        wait_until(lambda: all((logs / name).exists() for name in ("web.1.log", "web.2.log")), "each has a file")
        wait_until(lambda: "Listening at" in (logs / "web.2.log").read_text(), "with what it printed")
    machine.run("bash", "-c", forget)
    assert papad.ask("list processes web.1") == ""
