"""Completion with names that there are. Without: tests/unit/ctl; in the shells themselves: tests/system/test_completion.py."""

from __future__ import annotations

import subprocess

import pytest

from tests.ctl.support import COMMAND, Papactl, environment, papactl


def offered(ctl: Papactl, *words: str) -> list[str]:
    """What fish gets, without the descriptions. It chooses itself what begins like the last word."""
    lines = [line.partition("\t")[0] for line in ctl.out("complete-words", "--", "fish", *words).splitlines()]
    return [word for word in lines if word.startswith(words[-1])]


def test_live_names(ctl: Papactl) -> None:
    ctl.out("make", "socket", "web")
    ctl.out("make", "process", "web.1", "/bin/true")
    ctl.out("set", "release", "1")
    assert offered(ctl, "output", "-f", "") == ["web.1"]
    assert offered(ctl, "output", "-n", "") == offered(ctl, "output", "-n", "5", "") == ["web.1"]
    assert offered(ctl, "remove", "sockets", "w") == ["web"]
    assert offered(ctl, "get", "") == ["release"]
    assert offered(ctl, "get", "release", "") == offered(ctl, "set", "release", "") == []
    assert offered(ctl, "list", "values", "x", "") == offered(ctl, "set", "") == ["release"]
    assert offered(ctl, "make", "process", "x", "--listen", "") == ["web"]
    assert offered(ctl, "make", "process", "x", "--listen=") == ["--listen=web"]
    assert offered(ctl, "--socket", "/nonexistent", "get", "") == []
    assert offered(ctl, "-H", "elsewhere", "get", "") == []
    nowhere = {"PAPAD_SOCKET": "/nonexistent"}
    assert papactl("complete-words", "--", "fish", "get", "", **nowhere) == (0, "", "")
    for given in (["--socket", ctl.daemon.path], [f"--socket={ctl.daemon.path}"]):
        assert papactl("complete-words", "--", "fish", *given, "get", "", **nowhere).out == "release\t\n"


def test_a_name_that_cannot_be_shown_is_not_offered(ctl: Papactl) -> None:
    ctl.out("set", "a\tb", "1")
    ctl.out("set", "a\x1b[2Jb", "1")
    assert offered(ctl, "get", "") == []


def test_descriptions_where_the_shell_shows_them(ctl: Papactl) -> None:
    ctl.out("set", "a:b", "1")
    assert "get\tPrint a named value\n" in ctl.out("complete-words", "--", "fish", "")
    assert "get:Print a named value\n" in ctl.out("complete-words", "--", "zsh", "")
    assert "list:sockets, processes, values\n" in ctl.out("complete-words", "--", "zsh", "")
    assert ctl.out("complete-words", "--", "zsh", "get", "") == "a\\:b\n"


# Typed so far; how much of its end bash replaces; by what.
BASH = (
    ("get ", "", r"a:\ \$\'\"\!"),
    ("get a", "a", r"a:\ \$\'\"\!"),
    ("get a:", "", r"\ \$\'\"\!"),
    (r"get a:\ ", r"\ ", r"\ \$\'\"\!"),
    ("get 'a: ", " ", r""" $'\''"!"""),
    ('get "a: ', " ", ' \\$\'\\""\\!"'),
    ("get b", "b", ""),
)


@pytest.mark.parametrize(("line", "typed", "replacement"), BASH)
def test_bash_gets_what_it_is_to_put_in_place(ctl: Papactl, line: str, typed: str, replacement: str) -> None:
    ctl.out("set", "a: $'\"!", "1")
    assert ctl.out("complete-words", "--", "bash", f"papactl {line}", typed).rstrip("\n") == replacement


def test_what_is_printed_works_in_a_real_bash(ctl: Papactl) -> None:
    ctl.out("make", "process", "web.1", "/bin/true")
    script = f"""
        papactl() {{ {COMMAND[0]} -c '{COMMAND[2]}' "$@"; }}
        source <(papactl completion bash)
        try() {{ COMP_LINE=$1; COMP_POINT=${{#1}}; COMPREPLY=(); _papactl papactl "$2"; echo "${{COMPREPLY[*]}}"; }}
        try "papactl li" li
        try "papactl output w" w
        try "papactl output --output=js" js
    """
    done = subprocess.run(
        ["bash", "-c", script], env=environment(**ctl.env), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["list", "web.1", "json"]
