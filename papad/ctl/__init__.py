"""papactl, the command line of papad. main.py runs a command line."""

from __future__ import annotations


def main() -> None:
    """Run papactl."""
    from papad.ctl.main import main as run

    run()
