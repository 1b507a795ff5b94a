"""papactl: papad's commands from a shell. Each argument is one word of the command, blanks and all."""

from __future__ import annotations

import argparse
import sys

from papad import __version__
from papad.client import Client, find
from papad.errors import Error, Unreachable

FAILED, USAGE, UNREACHABLE = 1, 2, 3
"""Exit statuses: papad answered an error; the command line is wrong; nobody answers."""


def main() -> None:
    """Send one command and print its answer."""
    parser = argparse.ArgumentParser(
        "papactl",
        description="Send one command to papad and print its answer; `papactl help` lists them.",
        epilog="Exit status: 0, or 1 if papad answered an error, 2 for a wrong command line, 3 if nobody answers.",
    )
    parser.add_argument("--socket", metavar="PATH", help="talk to the papad at this Unix socket")
    parser.add_argument("--port", type=int, help="talk to the papad at this port of 127.0.0.1")
    parser.add_argument("--version", action="version", version=f"papactl {__version__}")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="for example: list sockets")
    options = parser.parse_args()
    if not any(options.words):
        parser.error("no command; `papactl help` lists them")
    if options.words[0].startswith("w") or any(word.startswith("watch=") for word in options.words):
        parser.error("watch needs a conversation; use telnet or the client library for it")
    try:
        with Client(options.socket or options.port or find()) as client:
            answer = client.command(*options.words)
    except Unreachable as error:
        print(f"papactl: {error}. Is it started? Try: systemctl start papad.socket", file=sys.stderr)
        sys.exit(UNREACHABLE)
    except Error as error:
        print(f"papactl: {error}", file=sys.stderr)
        sys.exit(FAILED)
    if answer:
        print(answer)
