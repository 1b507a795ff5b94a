"""Runs a parsed command line, or a line of the shell, and reports what goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import TextIO

from papad.ctl.advice import for_answer
from papad.ctl.declared import COMMANDS, COMMON
from papad.ctl.parser import Call, Usage, parse
from papad.errors import Error, Unreachable
from papad.version import __version__

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130


class CannotConnect(Exception):
    """papad cannot be reached. `hint` says what to do; it may have several lines."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def guarded(run: Callable[[], int]) -> int:
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


def standard_input() -> TextIO:
    """Return standard input. Raises Error if it is closed."""
    if sys.stdin is None:
        raise Error("standard input is closed; to read nothing from it: </dev/null")
    return sys.stdin


def execute(call: Call, session: object) -> int:
    """Run a parsed command line. Only --version and an offline command need no session."""
    if call.flag("version"):
        print(f"papactl {__version__}")
        return 0
    module, name = call.command.run.split(":")
    return int(getattr(import_module(f"papad.ctl.{module}"), name)(call, session))


def interpret(words: list[str], session: object) -> int:
    """Run one line of the shell like a command line, in the existing session."""

    def run() -> int:
        call = parse(words, COMMANDS, COMMON)
        if not call.command.in_shell or set(call.options) & {"socket", "port", "host"}:
            raise Usage("not available in the shell, which is already connected")
        return execute(call, session)

    status = guarded(run)
    sys.stdout.flush()
    return status
