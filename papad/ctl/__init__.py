"""papactl, the command line of papad. main.py runs a command line."""

from __future__ import annotations


def main() -> None:
    """Run papactl."""
    import gc

    # What is imported and made here is no garbage, so that is looked for seldom, which takes a twentieth of a short command.
    gc.set_threshold(10_000)
    from papad.ctl.main import main as run

    run()
