"""The program papactl: runs one command line and returns its exit status."""

from __future__ import annotations

import os
import sys

from papad.ctl.declared import COMMANDS, COMMON
from papad.ctl.parser import parse
from papad.ctl.run import FAILED, complain, execute, guarded
from papad.errors import Error


def main() -> None:
    """Run papactl. This ends the process."""
    try:
        status = guarded(lambda: _command_line(sys.argv[1:]))
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has closed it. Python flushes again at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 0
    except OSError as error:
        complain(f"cannot write: {error.strerror}")
        os._exit(FAILED)
    # Nothing is left to be done, and the kernel takes all back faster than Python does at its own end.
    os._exit(status)


def _command_line(argv: list[str]) -> int:
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    if sys.stdout is None:
        raise Error("standard output is closed; to discard it: >/dev/null")
    call = parse(argv, COMMANDS, COMMON)
    if call.flag("version") or call.command.offline:
        return execute(call, None)
    # From here on papad is needed; for the rest, the client is not imported, which takes longer than all of it.
    from papad.ctl.connect import ONLY_HOST, session_of

    if len(call.texts("host")) > 1 and not os.environ.get(ONLY_HOST):
        from papad.ctl.remote import on_each

        return on_each(argv, call)
    with session_of(call) as session:
        return execute(call, session)
