"""papad measured beside its peers: `python -m benchmarks [NAME ...]`, or `make bench`.

Each question is a program of its own, which starts papad and its peers, has them take turns, and prints each figure as
a line of JSON. ROUNDS= says how many turns each takes, SECONDS= how long one of them is.
"""

import compileall
import os

import papad

# What is measured has its bytecode beside it, as an installed papad has.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
compileall.compile_dir(os.path.dirname(papad.__file__), quiet=1)
