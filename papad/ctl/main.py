"""The program papactl: runs one command line and returns its exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module

from papad.ctl.advice import for_answer
from papad.ctl.connect import ONLY_HOST, CannotConnect, Session, session_of
from papad.ctl.declared import COMMANDS, COMMON
from papad.ctl.parser import Call, Usage, parse
from papad.errors import Error, Unreachable
from papad.version import __version__

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130
_OFFLINE = ("help", "completion")


def main() -> None:
    """Run papactl."""
    try:
        status = _guarded(lambda: _command_line(sys.argv[1:]))
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has closed it. Python flushes again at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 0
    except OSError as error:
        complain(f"cannot write: {error.strerror}")
        os._exit(FAILED)
    sys.exit(status)


def _guarded(run: Callable[[], int]) -> int:
    """Call `run`. Report an exception on standard error, and turn it into an exit status."""
    try:
        return run()
    except Usage as error:
        complain(f"error: {error}", error.hint)
        return USAGE
    except CannotConnect as error:
        complain(str(error), error.hint)
        return UNREACHABLE
    except Unreachable as error:
        complain(str(error))
        return UNREACHABLE
    except Error as error:
        message = str(error)
        complain(message.replace('Type "help ', 'Type "papactl help '), for_answer(message))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def complain(message: str, hint: str = "") -> None:
    """Print an error, and below it the hint, on standard error."""
    if sys.stderr is not None:
        lines = [f"papactl: {message}", *hint.splitlines()]
        sys.stderr.write("".join(line + "\n" for line in lines))


def _command_line(argv: list[str]) -> int:
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    if sys.stdout is None:
        raise Error("standard output is closed; to discard it: >/dev/null")
    call = parse(argv, COMMANDS, COMMON)
    if call.flag("version"):
        print(f"papactl {__version__}")
        return 0
    if call.flag("help") or call.command.words[0] in _OFFLINE:
        return execute(call, None)
    if len(call.texts("host")) > 1 and not os.environ.get(ONLY_HOST):
        from papad.ctl.remote import on_each

        return on_each(argv, call)
    with session_of(call) as session:
        return execute(call, session)


def execute(call: Call, session: Session | None) -> int:
    """Run a parsed command line. Only help and completion need no session."""
    if call.flag("help"):
        from papad.ctl.help import about

        sys.stdout.write(about(call.words if call.command.words == ("help",) else list(call.command.words)))
        return 0
    module, name = call.command.run.split(":")
    function = getattr(import_module(f"papad.ctl.{module}"), name)
    if module == "shell":
        return int(function(call, session, interpret))
    return int(function(call, session))


def interpret(words: list[str], session: Session) -> int:
    """Run one line of the shell like a command line, in the existing session."""

    def run() -> int:
        call = parse(words, COMMANDS, COMMON)
        if call.command.words in (("shell",), ("stdio-bridge",)) or set(call.options) & {"socket", "host"}:
            raise Usage("not available in the shell, which is already connected")
        return execute(call, session)

    status = _guarded(run)
    sys.stdout.flush()
    return status
