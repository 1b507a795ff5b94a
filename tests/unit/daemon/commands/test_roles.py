"""Roles: each includes those below it."""

from __future__ import annotations

from papad.daemon.commands.roles import Role


def test_manage_includes_view_and_none_is_no_role() -> None:
    assert Role.MANAGE > Role.VIEW > Role.NONE
    assert not Role.NONE


def test_a_role_is_written_as_the_help_of_a_command_has_it() -> None:
    assert [str(each) for each in Role] == ["none", "view", "manage"]
