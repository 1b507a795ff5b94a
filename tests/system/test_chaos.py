"""papad and its nursery are killed at random instants, papad at each of its system calls in turn, and nothing is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator

import pytest

from tests.system import packages
from tests.system.papad import TOOLS, Papad, copy_checkout

SECONDS = int(os.environ.get("PAPAD_CHAOS_SECONDS", "30"))
CALLS = [
    "splice",
    "pwrite64",
    "sendmsg",
    "recvmsg",
    "ftruncate",
    "memfd_create",
    "pipe2",
    "socketpair",
    "bind",
    "listen",
]
CALLS += ["unlink", "setsockopt", "sendto", "fcntl", "epoll_ctl"]
BLOWS = ("restarts", "daemon-reexecs", "stops", "FD stores dropped")
BLOWS += ("nursery kills", "nursery kills, then papad", "kills of both", "version changes", "renewals")
NTH_SECONDS = int(os.environ.get("PAPAD_NTH_SECONDS", "60"))


@pytest.fixture
def injecting(papad: Papad) -> Iterator[Papad]:
    """A papad that can be told at which system call it is killed."""
    drop_in = "/etc/systemd/system/papad.service.d/injecting.conf"
    papad.machine.write(drop_in, f"[Service]\nExecStart=\nExecStart={TOOLS}/maybe-killed\n")
    papad.systemctl("daemon-reload")
    yield papad
    papad.machine.root(drop_in).unlink()
    papad.systemctl("daemon-reload")


@pytest.fixture
def changing(papad: Papad) -> Iterator[Papad]:
    """A papad whose version is what a symlink says: this one, or an imaginary next one."""
    root, drop_in = papad.machine.root, "/etc/systemd/system/papad.service.d/version.conf"
    for name, vary in (("now", lambda source: None), ("next", packages.next_version)):
        copy_checkout(root(f"{TOOLS}/{name}"))
        vary(root(f"{TOOLS}/{name}"))
    root(f"{TOOLS}/version").symlink_to("now")
    papad.machine.write(drop_in, f"[Service]\nEnvironment=PYTHONPATH={TOOLS}/version\n")
    papad.systemctl("daemon-reload")
    yield papad
    papad.machine.root(drop_in).unlink()
    papad.systemctl("daemon-reload")
    papad.systemctl("restart", "papad.service")
    root(f"{TOOLS}/version").unlink()
    for name in ("now", "next"):
        shutil.rmtree(root(f"{TOOLS}/{name}"))


def test_random_kills(changing: Papad) -> None:
    seed = os.environ.get("PAPAD_CHAOS_SEED") or str(random.randrange(10**9))
    print(f"\nseed {seed}, {SECONDS} s; again with: make chaos SECONDS={SECONDS} SEED={seed}")
    command = ("/usr/bin/python3", f"{TOOLS}/chaos.py", str(SECONDS), seed)
    report = json.loads(changing.machine.run(*command, seconds=SECONDS + 120).stdout)
    counts = report["counts"]
    print(json.dumps(counts))
    assert not report["faults"], "\n".join(report["faults"])
    assert not report["stuck"]
    kills = ("kills", "version changes", "nursery kills, then papad", "kills of both")  # of papad
    assert sum(counts[what] for what in kills) >= SECONDS / 2
    assert min(counts[what] for what in BLOWS) >= 1
    # Only processes that end in the moments in which neither is there may lose anything.
    assert counts.get("unknown tails", 0) <= counts["processes"] / 10
    assert min(counts[what] for what in ("processes", "bytes", "values", "sockets", "requests")) > SECONDS / 4


def test_killed_at_every_system_call(injecting: Papad) -> None:
    """As many of them as the time allows, those that change something first."""
    script = ("/usr/bin/python3", f"{TOOLS}/nth.py", str(NTH_SECONDS), *CALLS)
    report = json.loads(injecting.machine.run(*script, seconds=NTH_SECONDS + 60).stdout)
    print(json.dumps(report))
    assert not report["faults"]
    assert report["counts"]["killed"] >= 30
    assert report["reached"]["splice"].startswith("all")
