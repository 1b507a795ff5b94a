"""A site that moves here from supervisor: web workers, a queue worker and a noisy job, by README and examples alone.

The commands are those that an administrator types, and the answers those that count. What the recipe for web workers
promises by itself, test_recipe.py tests.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

import pytest

from tests.support.waiting import wait_until
from tests.system.machine import Machine
from tests.system.papad import CHECKOUT, STRANGER, Papad
from tests.system.test_listen import answer
from tests.system.test_recipe import WEB, is_another, pids, watches

EXAMPLES = CHECKOUT / "examples/systemd"
UNITS = ("web@1", "web@2", "queue", "papad-archive")
SHOP = """
import os
print("the shop is loaded", flush=True)
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [("version {} " + os.environ["GREETING"]).encode()]
"""
QUEUE = """
import time
for number in range(1, 51):
    print("job", number, "done", flush=True)
    time.sleep(0.02)
raise RuntimeError("job 50 is poisoned")
"""
NOISY = """
import time
for second in range(3):
    for number in range(5000):
        print("line", second * 5000 + number, "x" * 60)
    time.sleep(1)
raise SystemExit(3)
"""
LOAD = """
import collections, http.client, select, sys
seen = collections.Counter()
while not select.select([0], [], [], 0)[0]:
    client = http.client.HTTPConnection("127.0.0.1", 8080, timeout=20)
    client.request("GET", "/")
    seen[client.getresponse().read().decode()] += 1
    client.close()
print(dict(seen))
"""
"""Asks the shop without a pause until its standard input ends; what was answered, or a traceback."""


@pytest.fixture
def site(machine: Machine, papad: Papad) -> Iterator[Papad]:
    """The site, all of it enabled, under the units of the examples."""
    machine.write("/srv/shop/shop.py", SHOP.replace("{}", "1"))
    machine.write("/srv/queue.py", QUEUE)
    machine.write("/srv/noisy.py", NOISY)
    machine.write("/root/load.py", LOAD)
    machine.write("/etc/shop.env", "GREETING=hello\n")
    machine.run("useradd", "--system", "queue")
    machine.run("rm", "-rf", "/var/log/jobs")
    web = (EXAMPLES / "web@.service").read_text()
    units = {
        "web@.service": web.replace("--env PATH=/usr/bin:/bin", "--env-file /etc/shop.env"),
        "queue.service": queue_of(web),
        "papad-archive.service": (EXAMPLES / "papad-archive.service").read_text(),
    }
    for name, text in units.items():
        machine.write(f"/etc/systemd/system/{name}", text)
    papad.systemctl("daemon-reload")
    cursor = machine.cursor()
    papad.systemctl("enable", "--now", *UNITS)
    for name in ("web.1", "web.2"):
        wait_until(lambda name=name: watches(papad, name), f"{name} runs")
    loaded = "the shop is loaded"
    wait_until(lambda: machine.journal(cursor, "-u", "web@*").count(loaded) == 2, "both workers have this version")
    yield papad
    papad.systemctl("disable", "--now", *UNITS)
    for name in units:
        machine.root(f"/etc/systemd/system/{name}").unlink()
    papad.systemctl("daemon-reload")
    papad.reset()
    machine.run("userdel", "queue")


def queue_of(web: str) -> str:
    """README: a worker without a socket needs neither ExecStartPre= nor --listen."""
    unit = re.sub(r"(?m)^ExecStartPre=.*\n", "", web)
    for old, new in (
        (" --listen web --env PATH=/usr/bin:/bin", ""),
        ("--uid www-data", "--uid queue"),
        ("/usr/bin/gunicorn --chdir /srv/shop shop:app", "/usr/bin/python3 /srv/queue.py"),
        ("web.%i", "queue"),
        ("Web worker %i", "Queue worker"),
    ):
        assert old in unit
        unit = unit.replace(old, new)
    return unit


def typed(machine: Machine, transcript: str) -> None:
    """Run each line after a $, and compare what is printed with what follows; a last [N] is the status."""
    for turn in textwrap.dedent(transcript).strip().split("\n\n"):
        command, _, expected = turn.partition("\n")
        done = machine.run("sh", "-c", f"exec 2>&1; {command.removeprefix('$ ')}", check=False)
        status = f"[{done.returncode}]\n" if done.returncode else ""
        assert (done.stdout + status).rstrip("\n") == expected, command


def user_of(machine: Machine, name: str) -> str:
    """The user of a process, or nothing if there is none just now."""
    return machine.run(
        "sh", "-c", f"pid=$(papactl pid {name}) && stat --format=%U /proc/$pid", check=False
    ).stdout.strip()


def test_each_runs_as_its_user_and_comes_with_the_boot(site: Papad, machine: Machine) -> None:
    status = machine.out("papactl", "status", "web.*")
    assert re.search(r"(?m)^web\.1 +\d+  running ", status)
    for name, user in (("web.1", "www-data"), ("web.2", "www-data"), ("queue", "queue")):
        wait_until(lambda name=name: watches(site, name), f"{name} is watched")
        # The queue's worker ends every other second, so it may have to be looked for again.
        assert wait_until(lambda name=name: user_of(machine, name), f"{name} runs") == user
    assert site.systemctl("is-enabled", *UNITS).split() == ["enabled"] * 4


def test_a_deployment_a_changed_variable_and_a_killed_papad_fail_no_request(site: Papad, machine: Machine) -> None:
    cursor = machine.cursor()
    with machine.running("python3", "/root/load.py") as load:
        machine.write("/srv/shop/shop.py", SHOP.replace("{}", "2"))
        machine.write("/etc/shop.env", "GREETING=bonjour\n")
        before = pids(site)
        site.systemctl("reload", "web@1")
        site.wait_for_new(site.sigkill())
        wait_until(lambda: is_another(site, "web.1", before[0]), "the first is another")
        site.restart()
        site.systemctl("reload", "web@2")
        wait_until(lambda: is_another(site, "web.2", before[1]), "the second is another")
        wait_until(lambda: answer(machine, WEB) == "version 2 bonjour", "the new version serves")
        assert load.stdin is not None
        assert load.stdout is not None
        load.stdin.close()
        seen = load.stdout.read()
        assert load.wait(20) == 0
    assert set(re.findall(r"'(.*?)'", seen)) == {"version 1 hello", "version 2 bonjour"}
    started = "Starting gunicorn"
    wait_until(lambda: machine.journal(cursor, "-u", "web@*").count(started) == 2, "two new ones are in the journal")
    logs = machine.journal(cursor, "-u", "web@*")
    for pid in before:
        assert f"[{pid}] [INFO] Handling signal: term" in logs
    assert re.search(rf" web\.1\[\d+\]: .*{started}", logs), "the journal names the worker"


def test_a_worker_is_stopped_for_maintenance_and_started_again(site: Papad, machine: Machine) -> None:
    site.systemctl("stop", "web@1")
    machine.run("papactl", "signal", "--wait", "web.1")
    assert re.search(r"(?m)^web\.1 +ended with exit code 0 ", machine.out("papactl", "status", "web.1"))
    assert answer(machine, WEB) == "version 1 hello"
    site.systemctl("start", "web@1")
    wait_until(lambda: watches(site, "web.1"), "it runs again")


def test_the_journal_says_why_the_queue_worker_died_and_papactl_points_there(site: Papad, machine: Machine) -> None:
    wait_until(lambda: int(site.show("NRestarts", "queue")) > 1, "it has died twice, and is started again")
    logs = machine.out("journalctl", "-q", "-u", "queue", "--since=-1h", "-o", "cat")
    assert logs.count("RuntimeError: job 50 is poisoned") > 1
    assert "status=1/FAILURE" in logs
    typed(
        machine,
        """
        $ papactl output --since -1h -g listening.at web.1
        -- No entries --
        papactl: what a watcher has acknowledged is gone from here. Look where that writes: for a unit with --watch, journalctl -u UNIT
        [1]
        """,
    )
    assert "Listening at" in machine.out("journalctl", "-q", "-u", "web@1", "--since=-1h")


def test_the_noisy_job_is_in_rotated_files_though_the_archive_and_papad_are_killed(
    site: Papad, machine: Machine
) -> None:
    archive = site.show("MainPID", "papad-archive")
    machine.run("papactl", "make", "process", "job.noisy", "--again", "--", "/usr/bin/python3", "/srv/noisy.py")
    log = machine.root("/var/log/jobs/job.noisy.log")
    wait_until(lambda: log.exists() and log.stat().st_size > 100_000, "some of it is in the file")
    site.systemctl("kill", "--signal=KILL", "papad-archive")
    site.wait_for_new(site.sigkill())
    wait_until(lambda: site.ask("list processes job.noisy") == "", "all of it is in files", 30)
    wait_until(lambda: site.show("MainPID", "papad-archive") not in ("0", archive), "another archive is there")
    files = [*sorted(log.parent.glob("job.noisy.log.*")), log]
    assert len(files) == 2
    assert all(file.stat().st_size <= 1 << 20 for file in files)
    lines = "".join(file.read_text() for file in files).splitlines()
    assert [int(number) for number in re.findall(r": line (\d+) x{60}$", "\n".join(lines), re.MULTILINE)] == [
        *range(15000)
    ]
    assert lines[-1].endswith(" job.noisy: -- ended with exit code 3 --")
    assert len(lines) == 15001


def test_a_monitor_may_look_and_no_more(site: Papad, machine: Machine) -> None:
    def look(*args: str) -> tuple[int, str]:
        viewer = ("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--groups=papad-view")
        done = machine.run(*viewer, "papactl", *args, check=False)
        return done.returncode, done.stdout + done.stderr

    status, shown = look("status", "web.1")
    assert status == 0
    assert re.search(r"(?m)^web\.1 +\d+  running ", shown)
    assert look("signal", "web.1") == (
        1,
        f"papactl: no permission to signal web.1 (pid {pids(site)[0]})\n"
        "Run papactl as root or as the user of that process: sudo papactl signal ...\n",
    )
    assert look("remove", "processes", "web.1") == (
        1,
        'papactl: You may only look; "remove processes" is for root and members of the group papad\n',
    )
    assert pids(site)


def test_wrong_turns_harm_nothing_and_are_answered(site: Papad, machine: Machine) -> None:
    before = pids(site)
    typed(
        machine,
        """
        $ papactl signal --wait web.1 web2
        papactl: web2 not found
        Nothing was done. papactl status shows the names; a process that was watched to its end is forgotten
        [1]

        $ papactl make socket web --port 9090
        papactl: Socket for web has already been created - web family=inet type=stream backlog=4096 host=127.0.0.1 port=8080 fileno=64
        To replace it: papactl remove sockets web, then this again; processes that have it keep the old one
        [1]

        $ papactl make socket api --path /run/api/sock
        papactl: Bind failed: [Errno 2] No such file or directory
        The directory of --path must exist; mkdir -p makes it
        [1]

        $ papactl make process web.3 --listen web --env_file /etc/shop.env -- /usr/bin/gunicorn shop:app
        papactl: error: unknown option --env_file
        Did you mean: --env-file
        Put the command to run, with its own options, after --
        [2]

        $ papactl make process web.3 --env-file /etc/shop.evn -- /bin/true
        papactl: Cannot read env_file /etc/shop.evn: No such file or directory; if it may be missing: env_file=-/etc/shop.evn
        [1]
        """,
    )
    assert pids(site) == before


def test_it_is_stopped_for_good(site: Papad, machine: Machine) -> None:
    was_enabled = site.systemctl("is-enabled", "papad.socket", check=False) == "enabled"
    for command in (
        "systemctl disable --now web@1 web@2 queue papad-archive",
        "systemctl disable --now papad.socket",
        "systemctl stop 'papad-processes*'",
    ):
        machine.run("sh", "-c", command)
    assert machine.run("pgrep", "--uid=www-data,queue", check=False).stdout == ""
    done = machine.run("papactl", "status", check=False)
    assert done.returncode == 3
    assert done.stderr.endswith("To start it: sudo systemctl enable --now papad.socket\n")
    if was_enabled:
        machine.run("systemctl", "enable", "papad.socket")
