"""How long does papactl take, beside a Python that does nothing?

Both are run by the system's Python, as the packages do: that of .venv has a finder of modules in a checkout to import. And
with bytecode at hand, as the packages have it: without, most of the time would be that of the compiler.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from benchmarks.figures import PAPAD, Sample, repeated, take_turns
from benchmarks.servers import folder, fresh, unix_path
from tests.original.servers import REPOSITORY
from tests.original.venv import SYSTEM_PYTHON

PYTHON = SYSTEM_PYTHON if os.path.exists(SYSTEM_PYTHON) else sys.executable
PAPACTL = "import sys; from papad.ctl import main; sys.exit(main())"


def turn(measure: str, *command: str, env: dict[str, str]) -> Callable[[], Sample]:
    def once() -> None:
        subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)

    def taken() -> Sample:
        count, seconds = repeated(once)
        return {(measure, "ms"): seconds / count * 1e3}

    return taken


def main() -> None:
    with folder() as place, fresh(PAPAD, place / "papad") as server:
        env = dict(os.environ) | {"PAPAD_SOCKET": unix_path(server), "PYTHONPATH": str(REPOSITORY)}
        env |= {"PYTHONPYCACHEPREFIX": str(place / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
        for word in ("--help", "status"):
            measure = f"papactl {word}"
            turns = {
                PAPAD: turn(measure, PYTHON, "-c", PAPACTL, word, env=env),
                "python3 -c pass": turn(measure, PYTHON, "-c", "pass", env=env),
            }
            take_turns(turns, warm=True)


if __name__ == "__main__":
    main()
