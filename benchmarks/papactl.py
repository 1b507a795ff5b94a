"""How long does papactl take, beside a Python that does nothing?"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import PAPAD, Sample, repeated, take_turns
from benchmarks.servers import folder, fresh, unix_path

PAPACTL = str(Path(sys.executable).parent / "papactl")


def turn(measure: str, *command: str, env: dict[str, str]) -> Callable[[], Sample]:
    def once() -> None:
        subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)

    def taken() -> Sample:
        count, seconds = repeated(once)
        return {(measure, "ms"): seconds / count * 1e3}

    return taken


def main() -> None:
    with folder() as place, fresh(PAPAD, place / "papad") as server:
        env = dict(os.environ) | {"PAPAD_SOCKET": unix_path(server)}
        for word in ("--help", "status"):
            measure = f"papactl {word}"
            turns = {
                PAPAD: turn(measure, PAPACTL, word, env=env),
                "python3 -c pass": turn(measure, sys.executable, "-c", "pass", env=env),
            }
            take_turns(turns, warm=True)


if __name__ == "__main__":
    main()
