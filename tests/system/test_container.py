"""papad as PID 1 of a container that boots nothing, as examples/container makes it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.support.papad import REPOSITORY
from tests.support.waiting import wait_until
from tests.system.machine import HERE, Machine
from tests.system.packages import Built
from tests.system.papad import TOOLS, Papad
from tests.system.trees import tree

PATH = "/run/papad/papad.sock"
numbers = count()


def example(instruction: str) -> str:
    """What an instruction of the example's Containerfile says."""
    text = (REPOSITORY / "examples/container/Containerfile").read_text().replace("\\\n", "")
    (found,) = re.findall(rf"^{instruction} (.*)$", text, re.MULTILINE)
    return " ".join(found.split())


class Container(Machine):
    """A container as the example makes it: a Debian where the packages are installed, papad as PID 1."""

    first = "papad-nursery"

    def __init__(self, built: Built, dist: Path) -> None:
        super().__init__(tree(built.release, "fresh"), f"{built.release}-container-{next(numbers)}")
        # The machine has no network: what papad depends on is in apt's cache already.
        update, install, clean = example("RUN").split(" && ")
        assert (update, clean.split()[0]) == ("apt-get update", "rm")
        run = f"{install} >&2 && exec {shlex.join(json.loads(example('ENTRYPOINT')))}"
        self.options = (
            f"--bind={shutil.copytree(built.now, dist)}:/tmp",
            f"--tmpfs={example('VOLUME')}",
            "--",
            "/bin/sh",
            "-c",
            run,
        )

    def _is_up(self) -> bool:
        return self.root(PATH).exists()


@pytest.fixture(scope="module")
def container(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    with Container(built, tmp_path_factory.mktemp("container") / "dist") as container:
        shutil.copytree(HERE / "inside", container.root(TOOLS))
        yield container


def ask(container: Container, *lines: str) -> list[str]:
    return Papad(container).talk(*lines, where=PATH)


def inside(container: Container, command: str) -> str:
    """What a command says in the container, run by its papad."""
    ask(container, f"make process inside shell=1 env.PATH=/usr/bin:/bin {command}")
    wait_until(lambda: "running=False" in ask(container, "list processes inside")[0], "it has ended")
    said = container.out("papactl", "--socket", PATH, "output", "-o", "cat", "inside")
    ask(container, "remove processes inside")
    return said


def server(container: Container) -> dict[str, int]:
    (line,) = ask(container, "describe server")
    facts: dict[str, int] = json.loads(line)
    return facts


def test_it_survives_a_kill_of_its_daemon(container: Container) -> None:
    assert server(container)["nursery"] == 1
    (made, *_) = ask(container, "make socket web", "set kept 1", "make process x /bin/sleep 600")
    for _ in range(3):
        pid = server(container)["pid"]
        ask(container, f"make process killer /bin/sh -c kill\\ -9\\ {pid}")
        wait_until(lambda pid=pid: server(container)["pid"] != pid, "another daemon answers")  # type: ignore[misc]
        assert ask(container, "list sockets", "get kept")[:2] == [made, "1"]
        assert "running=True" in ask(container, "list processes x")[0]
        ask(container, "remove processes killer")
    assert server(container)["starts"] == 4


def test_it_reaps_orphans(container: Container) -> None:
    ask(container, "make process parent /bin/sh -c (/bin/sleep\\ 0.1\\ &);(/bin/sleep\\ 0.1\\ &);exit\\ 0")
    wait_until(lambda: "running=False" in ask(container, "list processes parent")[0], "the parent has ended")

    def zombies() -> list[str]:
        states = inside(container, "cat\\ /proc/[0-9]*/stat")
        return [line for line in states.splitlines() if line.rpartition(")")[2].split()[0] == "Z"]

    wait_until(lambda: not zombies(), "no zombie is left")


def test_it_ends_in_order(built: Built, tmp_path: Path) -> None:
    with Container(built, tmp_path / "dist") as container:
        container.run("papactl", "--socket", PATH, "set", "kept", "1")
        os.kill(container.init, signal.SIGTERM)
        assert container.process.wait(20) == 0
        assert "leaving, with 0 sockets, 0 processes (0 running), 1 value" in container.console()
