"""papactl: papad from a shell. main.py takes a command line from its words to its exit status."""

from __future__ import annotations


def main() -> None:
    """Run papactl."""
    from papad.ctl.main import main as run

    run()
