"""`make run`: what it says before it starts papad can be done as it stands, and papad survives it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.papad import REPOSITORY, Talk
from tests.support.ports import free_port
from tests.support.waiting import wait_until


@pytest.mark.parametrize("at", ["port", "path"])
def test_what_make_run_says_is_true(tmp_path: Path, at: str) -> None:
    where: int | str = free_port() if at == "port" else str(tmp_path / "s")
    args = f"-p {where}" if at == "port" else f"-u {where}"
    said = tmp_path / "said"
    with (
        said.open("wb") as output,
        subprocess.Popen(
            ["make", "--silent", "run", f"ARGS={args}"],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        ) as make,
    ):  # fmt: skip
        try:
            wait_until(lambda: "is home" in said.read_text(), "papad is home", 60)
            assert "WARNING" not in said.read_text()
            connect, *commands = re.findall(r"^    (.*)$", said.read_text(), re.MULTILINE)
            assert connect.startswith(f"nc -U {where}" if at == "path" else f"nc 127.0.0.1 {where} ")
            with Talk(where) as talk:
                assert talk.ask("help")
            outputs = [run(commands[number]) for number in range(3)]
            pid = re.search(r"\(pid (\d+)\)|pid[ =:]+(\d+)", outputs[2])
            assert pid is not None, outputs[2]
            run(commands[3].replace("PID", next(filter(None, pid.groups()))))
            wait_until(lambda: said.read_text().count("is home") == 2, "papad is home again")
            assert run(commands[4]).startswith("hello\n")
            wait_until(lambda: re.search(r"\d\d:\d\d:\d\d", run(commands[4])), "the process goes on")
        finally:
            with Talk(where) as talk:
                count = json.loads(talk.ask("describe processes count"))["pid"]
            os.killpg(make.pid, signal.SIGINT)
            make.wait(20)
            os.kill(count, signal.SIGKILL)


def run(command: str) -> str:
    done = subprocess.run(
        ["sh", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
