"""The Debian packages, with the real apt and dpkg: installed on a fresh Debian, upgraded, rolled back, removed, purged."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator

import pytest

from tests.support.waiting import wait_until
from tests.system import packages
from tests.system.machine import Machine
from tests.system.packages import NEXT, NEXT_VERSION, NOW, Built, install
from tests.system.papad import CHECKOUT, TOOLS, UNIX, USER, Papad, pid_of, serve

APT = {"DEBIAN_FRONTEND": "noninteractive"}
NUMBERED = f"make process numbered bufsize=100m /usr/bin/python3 {TOOLS}/numbered.py"
Reports = dict[str, dict[str, object]]


@contextlib.contextmanager
def beside(machine: Machine, name: str, reports: Reports, script: str, *args: str) -> Iterator[None]:
    """A script of ours that runs for as long as the block does, and reports then."""
    with machine.running("/usr/bin/python3", f"{TOOLS}/{script}", *args) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield
        process.stdin.close()
        reports[name] = json.loads(process.stdout.read())


def installed(machine: Machine, folder: str, *options: str) -> None:
    """Install, and be told of no trouble."""
    said = install(machine, folder, *options)
    assert not [line for line in said.splitlines() if "warning" in line.lower() and "downgrading" not in line], said


def version_of(papad: Papad) -> str:
    version: str = json.loads(papad.ask("describe server"))["version"]
    return version


def numbered_to_its_end(papad: Papad) -> None:
    """Every line that the process has numbered is there, once, and its exit code."""
    papad.machine.write("/run/numbered.stop", "")
    watched = papad.machine.run(
        "/usr/bin/python3", f"{TOOLS}/watch.py", "numbered", papad.where, user=papad.user, seconds=120
    )
    records = json.loads(watched.stdout)
    lines = "".join(data for kind, _, data in records if kind == "out").split()
    assert lines == [f"{number:08d}" for number in range(len(lines))]
    assert len(lines) > 100
    assert records[-1][::2] == ["closed", "7"]


def papads(machine: Machine) -> str:
    """The daemons and nurseries that run."""
    return machine.run("sh", "-c", "grep -l ^papad /proc/[0-9]*/comm 2>/dev/null", check=False).stdout


# Installation


def test_what_an_installation_starts_and_what_not(packaged: Papad) -> None:
    assert packaged.show("ActiveState", "papad.socket") == "active"
    assert packaged.systemctl("is-enabled", "papad.socket") == "enabled"
    assert packaged.show("ActiveState") == "inactive"
    assert packaged.machine.out("getent", "group", "papad")
    assert packaged.systemctl("--global", "is-enabled", "papad.socket", check=False) == "disabled"
    assert papads(packaged.machine) == ""
    assert packaged.ask("set a b") == ""
    assert packaged.show("ActiveState") == "active"
    for path in (
        "bash-completion/completions/papactl",
        "zsh/vendor-completions/_papactl",
        "fish/vendor_completions.d/papactl.fish",
    ):
        assert packaged.machine.root(f"/usr/share/{path}").exists()


def test_readme_word_for_word(fresh: Machine) -> None:
    """Its way to install the packages, its first session, and the kill that it proposes."""
    page = (CHECKOUT / "README.md").read_text()
    (command,) = re.findall(r"^    (apt-get install \./.*)$", page, re.MULTILINE)
    fresh.run("sh", "-c", f"cd {NOW} && {command} -y", env=APT, seconds=240)
    session = page[page.index("<!-- transcript begin -->") : page.index("<!-- transcript end -->")]
    typed = [each.partition("\n") for each in session.split("    $ ")[1:]]
    assert len(typed) > 5
    for command, _, answer in typed:
        done = fresh.run("bash", "-c", command, check=False)  # no entries is an exit status, too
        assert _timeless(done.stdout + done.stderr) == _timeless(re.sub("^    ", "", answer, flags=re.MULTILINE)), (
            command
        )
        if "make process job" in command:
            wait_until(lambda: "running=False" in fresh.out("papactl", "list", "processes", "job"), "it has ended")
    (kill,) = re.findall(r"^    \$ (systemctl kill .* && .*)$", page, re.MULTILINE)
    survivors = fresh.out("bash", "-c", kill).splitlines()
    assert survivors[0].startswith("web.1 pid=")
    assert survivors[1:] == ["2026-11-23"]


def _timeless(text: str) -> str:
    """Without what differs from run to run: numbers, names of months, how long it has been up, and widths of columns."""
    text = re.sub(r"; up .*", "; up", text)
    text = re.sub(r"\d+(\.\d+)?", "N", text)
    text = re.sub(r"\b[A-Z][a-z]{2} N N:N:N", "T", text)
    return re.sub(r" +", " ", text).replace(" \n", "\n").strip()


def test_the_client_library_needs_nothing_but_python(fresh: Machine) -> None:
    fresh.run("sh", "-c", f"apt-get install -y --no-install-recommends {NOW}/python3-papad_*.deb", env=APT, seconds=240)
    assert fresh.run("/usr/bin/python3", "-c", "import systemd", check=False).returncode
    script = "import papad, papad.aio; papad.Papa, papad.aio.Papa; papad.Papa('/run/none.sock')"
    done = fresh.run("/usr/bin/python3", "-c", script, check=False)
    assert done.stderr.splitlines()[-1] == (
        "papad.errors.Error: cannot start papad: it needs the Python module systemd; on Debian, apt-get install papad"
    )
    assert fresh.run("papactl", "status", check=False).returncode == 127  # that is in papad


# Upgrade and downgrade


def test_upgrade_downgrade_and_reinstallation_under_load(packaged: Papad) -> None:
    """No connection is refused, no request fails, nothing is lost."""
    papad, machine = packaged, packaged.machine
    port = serve(papad, "web")
    papad.talk("set kept 1", NUMBERED)
    look = ("list sockets web", "list processes numbered web", "get kept")
    before, listening = papad.talk(*look), papad.show("InvocationID", "papad.socket")
    nursery = papad.nursery_pid()
    reports: Reports = {}
    pids, versions = [papad.main_pid()], []
    with contextlib.ExitStack() as load:
        load.enter_context(beside(machine, "connections", reports, "load.py", port, "200"))
        load.enter_context(beside(machine, "unix", reports, "asking.py", UNIX))
        load.enter_context(beside(machine, "tcp", reports, "asking.py", "tcp"))
        load.enter_context(beside(machine, "library", reports, "asking.py", UNIX, "library"))
        for folder, option in ((NEXT, ""), (NOW, "--allow-downgrades"), (NOW, "--reinstall"), (NEXT, "")):
            installed(machine, folder, *option.split())
            pids.append(papad.main_pid())
            versions.append(version_of(papad))
            assert papad.talk(*look) == before
            # The version in between knows neither the option nor what is recorded of it.
            if len(versions) == 1:
                papad.ask("make process noted note=hello /bin/sleep 600")
            assert "noted pid=" in papad.ask("list processes noted")
        again = papad.talk(*(f"make process noted note={note} /bin/sleep 600" for note in ("other", "hello")))
    assert versions == [NEXT_VERSION, packages.version(), packages.version(), NEXT_VERSION]
    assert len(set(pids)) == len(pids)
    assert "Error: Process for noted has already been created" in again[0]
    assert again[1] == papad.ask("list processes noted")
    assert [(name, report["failures"]) for name, report in reports.items() if report["failures"]] == []
    assert reports["connections"]["answers"] == [str(pid_of(papad, "web"))]
    assert min(int(str(report["count"])) for report in reports.values()) > 100
    assert papad.show("InvocationID", "papad.socket") == listening
    assert papad.nursery_pid() == nursery
    assert "the nursery was renewed" in machine.out("journalctl", "-u", "papad.service")
    numbered_to_its_end(papad)


def test_upgrade_while_papad_is_killed_every_50_ms(packaged: Papad) -> None:
    """While dpkg unpacks, files of two versions are mixed; whatever papad makes of them, it starts again until they fit."""
    papad, machine = packaged, packaged.machine
    port = serve(papad, "web")
    papad.talk("set kept 1", NUMBERED)
    look = ("list sockets web", "list processes numbered web", "get kept")
    before, pid = papad.talk(*look), papad.main_pid()
    reports: Reports = {}
    with contextlib.ExitStack() as load:
        load.enter_context(beside(machine, "connections", reports, "load.py", port, "200"))
        load.enter_context(beside(machine, "library", reports, "asking.py", UNIX, "library"))
        for folder, option in ((NEXT, ""), (NOW, "--allow-downgrades"), (NEXT, "")):
            with beside(machine, f"kills in {folder} {option}", reports, "killing.py"):
                install(machine, folder, *option.split())
            papad.wait_for_new(pid)
            pid = papad.main_pid()
            assert version_of(papad) == (NEXT_VERSION if folder == NEXT else packages.version())
            assert papad.talk(*look) == before
    assert [(name, report["failures"]) for name, report in reports.items() if report["failures"]] == []
    assert min(int(str(report["count"])) for report in reports.values()) > 3
    assert machine.out("dpkg", "--audit") == ""
    numbered_to_its_end(papad)


@pytest.fixture
def users(packaged: Papad) -> Papad:
    """A user's own papad, enabled as README says, with a process that numbers its lines."""
    machine = packaged.machine
    machine.run("loginctl", "enable-linger", USER)
    own = Papad(machine, USER)
    ready = machine.root(f"/run/user/{machine.out('id', '-u', USER)}/systemd/private")
    wait_until(ready.exists, "the user manager listens")
    own.systemctl("enable", "--now", "papad.socket")
    assert "running=True" in own.ask(NUMBERED)
    return own


def test_an_upgrade_is_users_too_and_loses_nothing_of_theirs(users: Papad) -> None:
    before, pid = users.ask("list processes"), users.main_pid()
    installed(users.machine, NEXT)
    wait_until(lambda: users.main_pid() not in (0, pid), "it was restarted")
    assert version_of(users) == NEXT_VERSION
    assert users.ask("list processes") == before
    # Nobody else has got one.
    assert Papad(users.machine).main_pid() == 0
    installed(users.machine, NOW, "--allow-downgrades")
    wait_until(lambda: version_of(users) == packages.version(), "it was restarted")
    numbered_to_its_end(users)


@pytest.mark.parametrize("version", packages.releases())
def test_every_release_can_be_upgraded_from_and_gone_back_to(
    machine: Machine, built: Built, packaged: Papad, version: str
) -> None:
    papad = packaged
    folder = f"/root/{version}"
    packages.put(papad.machine, packages.build_release(machine, version), folder)
    installed(papad.machine, folder, "--allow-downgrades", "--reinstall")
    port = serve(papad, "web")
    papad.talk("set kept 1", NUMBERED, "make process ended /bin/sh -c exit\\ 3")
    look = ("list sockets web", "list processes numbered web", "get kept")
    before = papad.talk(*look)
    reports: Reports = {}
    with beside(papad.machine, "connections", reports, "load.py", port, "200"):
        for target in (NOW, folder, NOW):
            installed(papad.machine, target, "--allow-downgrades", "--reinstall")
            assert papad.talk(*look) == before
    assert reports["connections"]["failures"] == []
    assert "running=False" in papad.ask("list processes ended")
    numbered_to_its_end(papad)


# Removal


def remove(machine: Machine, *options: str, check: bool = True, **env: str) -> str:
    """apt-get remove, or with --purge; what is said."""
    done = machine.run(
        "apt-get", "remove", "-y", *options, "papad", "python3-papad", env=APT | env, check=check, seconds=120
    )
    return f"{done.stdout}{done.stderr}{done.returncode}"


def everything(machine: Machine) -> set[str]:
    """All files, but what apt and dpkg note of their own work, and the groups."""
    apart = "^/(proc|sys|dev|tmp|root|run/(systemd|udev|user|log|lock|dbus|utmp)|var/(log|cache|tmp|lib/(apt|dpkg|systemd|private)))(/|$)"
    found = set(
        machine.out("find", "/", "-xdev", "-regextype", "egrep", "-regex", apart, "-prune", "-o", "-print").splitlines()
    )
    found |= set(machine.out("find", "/run", "-name", "*papad*").splitlines())
    return found | set(machine.out("getent", "group").splitlines())


def test_a_removal_waits_for_processes_and_says_how_to_end_them(packaged: Papad) -> None:
    papad, machine = packaged, packaged.machine
    papad.talk(
        "make socket web port=8080", "set release 1", "make process web.1 /bin/sleep 600", "make process done /bin/true"
    )
    pid, serving = pid_of(papad, "web.1"), papad.show("InvocationID", "papad.socket")
    before = papad.talk("list sockets", "list values", "list processes web.1"), papad.main_pid()
    said = remove(machine, check=False)
    assert "papad has processes running" in said
    assert f"    web.1 (pid {pid}): /bin/sleep 600\n" in said
    assert "(pid" not in said.replace(f"(pid {pid})", "")  # no other
    assert said.endswith("100")
    assert papad.show("InvocationID", "papad.socket") == serving
    assert (papad.talk("list sockets", "list values", "list processes web.1"), papad.main_pid()) == before
    (command,) = re.findall(r"^    (systemctl .*)$", said, re.MULTILINE)
    machine.run("sh", "-c", command)
    said = remove(machine)
    assert said.endswith("0")
    assert "papad forgets: socket web\npapad forgets: value release\n" in said
    assert machine.run("test", "-e", f"/proc/{pid}", check=False).returncode
    assert papad.show("LoadState") == "not-found"
    assert ":1F90 " not in machine.out("cat", "/proc/net/tcp")  # 8080
    since = machine.cursor()
    installed(machine, NOW)
    assert papad.talk("list sockets", "list values", "list processes") == ["", "", ""]
    journal = machine.journal(since)
    assert "lost over the stop of papad: socket web" in journal
    assert "lost over the stop of papad: value release" in journal


def test_a_removal_ends_processes_if_it_is_told_to(users: Papad) -> None:
    machine, system = users.machine, Papad(users.machine)
    system.ask("make process web.1 /bin/sleep 600")
    pids = [pid_of(system, "web.1"), pid_of(users, "numbered")]
    said = remove(machine, check=False)
    uid = machine.out("id", "-u", USER)
    assert f"    web.1 (pid {pids[0]}): /bin/sleep 600\n" in said
    assert f"    (pid {pids[1]}, of user {uid}): /usr/bin/python3 {TOOLS}/numbered.py\n" in said
    assert len(re.findall(r"^    systemctl", said, re.MULTILINE)) == 2
    said = remove(machine, PAPAD_REMOVE="end-processes")
    assert said.endswith("0")
    for pid in pids:
        assert machine.run("test", "-e", f"/proc/{pid}", check=False).returncode
    assert papads(machine) == ""
    link = f"/home/{USER}/.config/systemd/user/sockets.target.wants/papad.socket"
    assert f"This link of a user stays, and points to nothing now: {link}\n" in remove(machine, "--purge")


@pytest.mark.parametrize("told", [True, False], ids=["by the removal", "by the command that it says"])
def test_a_removal_and_processes_that_could_have_no_scope(packaged: Papad, told: bool) -> None:
    """They are in papad's own control group, and KillMode=process leaves them there. One goes by the name of papad."""
    papad, machine = packaged, packaged.machine
    machine.run("cp", "/bin/sleep", "/usr/local/bin/papad")
    machine.run("mv", "/usr/bin/systemd-run", "/usr/bin/systemd-run.off")
    papad.talk("make process web.1 /bin/sleep 600", "make process odd /usr/local/bin/papad 600")
    machine.run("mv", "/usr/bin/systemd-run.off", "/usr/bin/systemd-run")
    pids = [pid_of(papad, "web.1"), pid_of(papad, "odd")]
    said = remove(machine, check=False)
    assert f"    web.1 (pid {pids[0]}): /bin/sleep 600\n" in said
    assert f"    odd (pid {pids[1]}): /usr/local/bin/papad 600\n" in said
    for command in [] if told else re.findall(r"^    (kill .*)$", said, re.MULTILINE):
        machine.run("sh", "-c", command)
    assert remove(machine, **({"PAPAD_REMOVE": "end-processes"} if told else {})).endswith("0")
    for pid in pids:
        assert machine.run("test", "-e", f"/proc/{pid}", check=False).returncode


def test_a_removal_lets_processes_end_in_order_and_papad_hears_them(packaged: Papad) -> None:
    machine = packaged.machine
    script = "trap 'echo ending; echo ended >/root/ended; exit 0' TERM; while :; do sleep 0.1; done"
    packaged.talk(f"make process web.1 /bin/bash -c {script.replace(' ', chr(92) + ' ')}")
    assert remove(machine, PAPAD_REMOVE="end-processes").endswith("0")
    assert machine.out("cat", "/root/ended") == "ended"


def test_what_users_do_with_what_is_theirs_does_not_hold_up_a_removal_nor_fool_it(packaged: Papad) -> None:
    machine = packaged.machine
    uid = machine.out("id", "-u", USER)
    folder = f"/run/user/{uid}"
    machine.run("mkdir", "-p", f"{folder}/papad")
    machine.run("mkfifo", f"{folder}/papad/held", f"{folder}/papad.sock")
    machine.run("chown", "-R", USER, folder)
    assert remove(machine).endswith("0")


def test_containers_papads_are_not_the_systems(packaged: Papad) -> None:
    """What is in their control groups is theirs, though it is named alike."""
    machine = packaged.machine
    group = "/sys/fs/cgroup/machine.slice/box.scope/payload/system.slice/papad-processes.scope"
    machine.run("mkdir", "-p", group)
    with machine.running("sh", "-c", f"echo $$ >{group}/cgroup.procs; echo started; read x") as inside:
        assert inside.stdout is not None
        assert inside.stdout.readline() == "started\n"
        assert remove(machine, PAPAD_REMOVE="end-processes").endswith("0")
        assert inside.poll() is None


def test_policy_rc_d_is_heeded(users: Papad) -> None:
    pid = users.main_pid()
    users.machine.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
    install(users.machine, NEXT)
    assert users.main_pid() == pid


@pytest.mark.parametrize("members", [False, True])
def test_a_purge_leaves_nothing(fresh: Machine, members: bool) -> None:
    fresh.run("apt-get", "install", "-y", "python3-systemd", env=APT, seconds=240)
    before = everything(fresh)
    install(fresh, NOW)
    # Enabled for all users by an administrator, disabled and enabled anew for the system.
    fresh.run("systemctl", "--global", "enable", "papad.socket")
    fresh.run("systemctl", "disable", "papad.socket")
    fresh.run("systemctl", "enable", "papad.socket")
    if members:
        fresh.run("useradd", "--no-create-home", "--groups=papad", "carol")
    fresh.run("papactl", "set", "a", "b")
    assert everything(fresh) > before
    said = remove(fresh, "--purge")
    left = everything(fresh) - before
    if members:
        assert "The group papad stays, for it has members (carol). To remove it: groupdel papad\n" in said
        left = {each for each in left if "carol" not in each and not each.startswith("/etc/sub")}  # what useradd made
    assert sorted(left) == []
    assert fresh.out("systemctl", "--failed", "--no-legend", "--plain") == ""


# Beside `make install`


def test_packages_take_the_place_of_make_install_and_do_not_let_it_back(built: Built) -> None:
    from tests.system.papad import install as make_install
    from tests.system.trees import tree

    with Machine(tree(built.release), f"{built.release}-made") as machine:
        packages.put(machine, built.next, NEXT)
        make_install(machine)
        papad = Papad(machine)
        papad.systemctl("enable", "--now", "papad.socket")
        port = serve(papad, "web")
        papad.talk("set kept 1", NUMBERED)
        # What an earlier version left.
        listed = machine.out("cat", "/usr/share/papad/installed").splitlines()
        (folder,) = (path for path in listed if path.endswith("/dist-packages/papad"))
        machine.write(f"{folder}/of_an_earlier_version.py", "")
        machine.write(f"{folder}/old/__pycache__/module.cpython-311.pyc", "")
        machine.write("/usr/bin/papad-of-an-earlier-version", "")
        machine.write("/usr/share/papad/installed", "\n".join([*listed, "/usr/bin/papad-of-an-earlier-version", ""]))
        look = ("list sockets web", "list processes numbered web", "get kept")
        before, pid = papad.talk(*look), papad.main_pid()
        reports: Reports = {}
        with beside(machine, "connections", reports, "load.py", port, "200"):
            installed(machine, NEXT)
        assert papad.main_pid() not in (0, pid)
        assert (version_of(papad), papad.talk(*look)) == (NEXT_VERSION, before)
        assert reports["connections"]["failures"] == []
        found = machine.out(
            "find", "/usr", "/etc", "-name", "*papa[dc]*", "-not", "-path", "*/__pycache__/*"
        ).splitlines()
        unknown = [path for path in found if machine.run("dpkg", "-S", path, check=False).returncode]
        assert {path for path in unknown if "/systemd/" not in path} <= {"/etc/systemd/system/papad.service.d"}
        assert machine.run("test", "-e", f"{folder}/old", check=False).returncode
        assert machine.run("test", "-e", f"{folder}/of_an_earlier_version.py", check=False).returncode
        refused = machine.run("make", "-C", "/root/papad", "install", check=False)
        assert refused.returncode
        assert "make install: papad is here as a Debian package" in refused.stderr
        assert "make uninstall" not in refused.stderr
        assert (version_of(papad), papad.talk(*look)) == (NEXT_VERSION, before)
        nothing = machine.run("make", "-C", "/root/papad", "uninstall", check=False)
        assert "Nothing to uninstall" in nothing.stderr
        # And back, by way of a removal.
        numbered_to_its_end(papad)
        assert remove(machine, PAPAD_REMOVE="end-processes").endswith("0")
        refused = machine.run("make", "-C", "/root/papad", "install", check=False)
        assert "was removed here, but not purged: apt-get purge papad\n" in refused.stderr
        machine.run("dpkg", "--purge", "papad", "python3-papad")
        machine.run("make", "-C", "/root/papad", "install", seconds=120)
        papad.systemctl("start", "papad.socket")
        assert version_of(papad) == packages.version()
        # The library alone, over it, is said to be trouble.
        done = machine.run("sh", "-c", f"dpkg -i {NEXT}/python3-papad_*.deb")
        assert "papad was installed here with 'make install'" in done.stderr
