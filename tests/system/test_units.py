"""What `make install` puts in place, and the same papad for a user's own manager."""

from __future__ import annotations

import pytest

from tests.system.machine import Failed, Machine
from tests.system.papad import STRANGER, USER, Papad, pid_of, systemd_version

UNITS = ("papad.socket", "papad.service")


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
