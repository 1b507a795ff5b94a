"""The modes of a connection: as the docstring has them, and no others are taken."""

from __future__ import annotations

import asyncio
import socket

import pytest

from papad.daemon.commands.roles import Role
from papad.daemon.connection import Connection
from papad.daemon.delivery import channel as module
from papad.daemon.delivery.channel import TRANSITIONS, IllegalTransition, Mode
from papad.daemon.loop import Loop
from tests.support.machines import check_step, documented, entered, named, reachable

HEADER = ("mode", "the next line is", "next mode")


def test_the_table_of_the_docstring_is_the_one_that_holds() -> None:
    assert documented(module.__doc__ or "", HEADER) == named(TRANSITIONS)


def test_the_docstring_has_the_modes_in_the_order_in_which_they_are_declared() -> None:
    assert list(documented(module.__doc__ or "", HEADER)) == [each.name for each in Mode]


def test_every_mode_follows_from_the_first_and_the_first_from_every_mode() -> None:
    assert reachable(TRANSITIONS, Mode.COMMANDS) == set(Mode)
    assert [each for each in Mode if Mode.COMMANDS not in reachable(TRANSITIONS, each)] == []


def test_every_mode_is_entered_somewhere() -> None:
    assert entered(Mode, "mode") == {each.name for each in Mode}


@pytest.mark.parametrize("before", Mode)
@pytest.mark.parametrize("after", Mode)
def test_only_the_steps_of_the_table_are_taken(before: Mode, after: Mode) -> None:
    async def step() -> None:
        connection = Connection(None, ours, None, Role.MANAGE)  # type: ignore[arg-type]
        connection.mode = before
        refusal = IllegalTransition(f"a connection cannot become {after.value}: it is {before.value}")
        check_step(connection, "mode", TRANSITIONS, after, refusal)

    ours, theirs = socket.socketpair()
    with ours, theirs, asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(step())
