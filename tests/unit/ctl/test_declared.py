"""What is declared, and what does it: neither may drift from the other, nor from the protocol."""

from __future__ import annotations

from importlib import import_module

from papad.ctl.declared import COMMANDS, COMMON
from papad.daemon.commands.process_options import PROCESS_OPTIONS
from papad.daemon.commands.table import COMMANDS as PROTOCOL
from papad.protocol.options import SOCKET_OPTIONS


def test_every_command_is_done_by_something() -> None:
    for command in COMMANDS:
        module, name = command.run.split(":")
        assert callable(getattr(import_module(f"papad.ctl.{module}"), name))


def test_every_command_and_option_of_the_protocol_is_there() -> None:
    ours = {command.words for command in COMMANDS} | {("watch", "processes"), ("quit",)}
    missing = {command.words for command in PROTOCOL} - ours
    assert not missing, f"declare {missing} in papad/ctl/declared.py"
    for words, theirs in ((("make", "socket"), SOCKET_OPTIONS), (("make", "process"), PROCESS_OPTIONS)):
        (command,) = (each for each in COMMANDS if each.words == words)
        known = {option.protocol or option.key for option in command.options}
        assert {option.name for option in theirs} - {"output"} <= known


def test_no_letter_is_taken_twice() -> None:
    for command in COMMANDS:
        letters = [option.short for option in (*command.options, *COMMON) if option.short]
        assert len(letters) == len(set(letters))
