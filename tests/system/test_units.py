"""What `make install` puts in place, and the same papad for a user's own manager."""

from __future__ import annotations

import pytest

from tests.system.machine import Failed, Machine
from tests.system.papad import STRANGER, USER, Papad, pid_of, systemd_version

UNITS = ("papad.socket", "papad.service")
LISTED = "/usr/share/papad/installed"


# A setting that older versions ignore, as they are meant to, and say so.
NEWER_SETTING = "Unknown key 'FileDescriptorStorePreserve' in section [Service], ignoring."


@pytest.mark.parametrize("kind", ["system", "user"])
def test_the_units_please_systemd(machine: Machine, kind: str) -> None:
    files = [f"/usr/lib/systemd/{kind}/{unit}" for unit in UNITS]
    env = {"XDG_RUNTIME_DIR": "/run"}
    done = machine.run("systemd-analyze", f"--{kind}", "verify", *files, env=env, check=False)
    said = (done.stdout + done.stderr).splitlines()
    if systemd_version(machine) < 254:
        said = [line for line in said if not line.endswith(NEWER_SETTING)]
    assert (said, done.returncode) == ([], 0)


def test_the_commands_are_the_systems_own(machine: Machine) -> None:
    for command in ("papad", "papactl"):
        assert machine.out("head", "-n1", f"/usr/bin/{command}") == "#!/usr/bin/python3"
        assert command in machine.out(command, "--help")
    assert machine.out("/usr/bin/python3", "-c", "import papad; print(papad.__file__)", user=STRANGER).startswith(
        "/usr/lib/python3/dist-packages/"
    )


def test_the_group_exists(machine: Machine) -> None:
    assert machine.out("getent", "group", "papad")


def test_install_again_and_with_destdir(machine: Machine) -> None:
    for extra in ([], ["DESTDIR=/tmp/image"]):
        machine.run("make", "-C", "/root/papad", "install", *extra, seconds=120)
    installed = machine.out("sh", "-c", "cd /tmp/image; find . -type f -o -type l | sort").splitlines()
    for path in (
        "./usr/bin/papad",
        "./usr/bin/papactl",
        "./usr/lib/python3/dist-packages/papad/__init__.py",
        "./usr/lib/systemd/system/papad.service",
        "./usr/lib/systemd/system/papad.socket",
        "./usr/lib/systemd/system/papad-view.socket",
        "./usr/lib/systemd/user/papad.service",
        "./usr/lib/systemd/user/papad.socket",
        "./usr/lib/sysusers.d/papad.conf",
        "./usr/share/man/man1/papactl.1",
        "./usr/share/man/man7/papad-protocol.7",
        "./usr/share/man/man8/papad.8",
        "./usr/share/bash-completion/completions/papactl",
        "./usr/share/zsh/vendor-completions/_papactl",
        "./usr/share/fish/vendor_completions.d/papactl.fish",
    ):
        assert path in installed
    assert all(path.startswith("./usr/") for path in installed)
    machine.run("make", "-C", "/root/papad", "uninstall", "DESTDIR=/tmp/image")
    assert machine.out("find", "/tmp/image", "!", "-type", "d") == ""


def test_install_and_uninstall_need_root_and_say_so_in_a_line(machine: Machine) -> None:
    before = _files(machine)
    for target in ("install", "uninstall"):
        stranger = f"setpriv --reuid={STRANGER} --regid={STRANGER} --init-groups make {target}"
        done = machine.run("sh", "-c", f"cd /root/papad && exec {stranger}", check=False)
        said, of_make, *more = done.stderr.splitlines()
        assert (said, more) == (f"make {target} needs root", [])
        assert of_make.startswith("make: ***")
    assert _files(machine) == before


def test_an_upgrade_leaves_papad_alone_and_nothing_of_the_old_version(machine: Machine, papad: Papad) -> None:
    made = papad.talk("set a b", "make process p /bin/sleep 600")[1]
    pid = papad.main_pid()
    listed = machine.out("cat", LISTED)
    (package,) = (path for path in listed.splitlines() if path.endswith("/dist-packages/papad"))
    modules = _files(machine, package)
    machine.write(f"{package}/of_the_old_version.py", "")
    machine.write("/usr/bin/papad-of-the-old-version", "")
    machine.write(LISTED, f"{listed}\n/usr/bin/papad-of-the-old-version\n")
    assert ": systemctl restart papad (nothing is lost)\n" in machine.run("make", "-C", "/root/papad", "install").stdout
    assert _files(machine, package) == modules
    assert machine.run("test", "-e", "/usr/bin/papad-of-the-old-version", check=False).returncode
    assert papad.main_pid() == pid
    papad.restart()
    assert papad.talk("get a", "list processes") == ["b", made]


def test_uninstall_waits_for_the_end_of_papad_and_removes_what_install_put_there(
    machine: Machine, papad: Papad
) -> None:
    papad.ask("make process p /bin/sleep 600")
    before, pid = _files(machine), pid_of(papad, "p")
    listed = machine.out("cat", LISTED).splitlines()
    refused = machine.run("make", "-C", "/root/papad", "uninstall", check=False)
    assert refused.returncode
    assert "papad is in use" in refused.stderr
    assert _files(machine) == before
    assert papad.talk("list processes p") != [""]
    for advice in (line for line in refused.stderr.splitlines() if line.startswith("    ")):
        assert machine.run("make", "-C", "/root/papad", "uninstall", check=False).returncode
        machine.run("sh", "-c", advice)
    try:
        assert machine.run("test", "-e", f"/proc/{pid}", check=False).returncode
        machine.run("make", "-C", "/root/papad", "uninstall")
        gone = before - _files(machine)
        assert {path for path in before if "papa" in path} <= gone
        assert all(path.startswith(tuple(listed)) for path in gone)
        assert papad.show("LoadState") == "not-found"
        assert machine.out("getent", "group", "papad")
    finally:
        machine.run("make", "-C", "/root/papad", "install", seconds=120)


def _files(machine: Machine, *where: str) -> set[str]:
    return set(machine.out("find", *(where or ("/usr", "/etc")), "!", "-type", "d").splitlines())


def test_a_user_has_a_papad_of_their_own(machine: Machine, own: Papad) -> None:
    machine.run("systemctl", "stop", "papad.socket", "papad.service")
    socket, before = own.talk("make socket web", "make process p /bin/sleep 600")
    assert own.show("ActiveState") == "active"
    assert machine.out("ps", "-o", "user=", "-p", str(pid_of(own, "p"))) == USER
    assert pid_of(own, "p") in own.scope_pids()
    assert ":20202" not in machine.out("ss", "-Hltn")
    own.restart()
    own.wait_for_new(own.sigkill())
    assert own.talk("list sockets", "list processes") == [socket, before]


def test_a_users_papad_is_for_that_user_and_root(machine: Machine, own: Papad) -> None:
    assert own.ask("set a b") == ""
    script = "/opt/papad-test/talk.py"
    assert machine.out("/usr/bin/python3", script, own.where, "get a") == '["b"]'
    with pytest.raises(Failed, match="PermissionError"):
        machine.run("/usr/bin/python3", script, own.where, user=STRANGER)
