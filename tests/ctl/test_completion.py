"""Completion: what is offered, and the real bash with it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from papad.ctl.declared import COMMANDS, COMMON
from tests.ctl.support import COMMAND, Papactl, environment, papactl
from tests.unit.support import REPOSITORY

FILES = {"bash": "papactl.bash", "zsh": "_papactl", "fish": "papactl.fish"}


@pytest.mark.parametrize("shell", FILES)
def test_the_files_are_what_papactl_prints(shell: str) -> None:
    assert (REPOSITORY / "completions" / FILES[shell]).read_text() == papactl("completion", shell).out


def offered(ctl: Papactl, *words: str) -> list[str]:
    return ctl.out("complete-words", "--", *words).splitlines()


def test_words_options_and_values(ctl: Papactl) -> None:
    assert offered(ctl, "") == sorted({each.words[0] for each in COMMANDS if not each.hidden})
    assert offered(ctl, "re") == ["remove"]
    assert offered(ctl, "list", "") == ["processes", "sockets", "values"]
    assert offered(ctl, "--json", "l", "s") == ["sockets"]
    assert offered(ctl, "output", "-o", "s") == ["short", "short-iso", "short-precise"]
    assert offered(ctl, "output", "--st") == ["--stream"]
    assert offered(ctl, "make", "socket", "x", "--type", "d") == ["dgram"]
    assert offered(ctl, "--socket", "") == ["<files>"]
    assert offered(ctl, "make", "process", "x", "/bin/e") == ["<files>"]
    assert offered(ctl, "nonsense", "") == []
    common = {f"--{option.long}" for option in COMMON}
    assert common == {*offered(ctl, "status", "--")}


def test_live_names(ctl: Papactl) -> None:
    ctl.out("make", "socket", "web")
    ctl.out("make", "process", "web.1", "/bin/true")
    ctl.out("set", "release", "1")
    assert offered(ctl, "output", "-f", "") == ["web.1"]
    assert offered(ctl, "remove", "sockets", "w") == ["web"]
    assert offered(ctl, "get", "") == ["release"]
    assert offered(ctl, "make", "process", "x", "--listen", "") == ["web"]
    assert papactl("complete-words", "--", "get", "", PAPAD_SOCKET="/nonexistent") == (0, "", "")
    assert offered(ctl, "--socket", "/nonexistent", "get", "") == []
    words = ("--socket", ctl.daemon.path, "get", "")
    assert papactl("complete-words", "--", *words, PAPAD_SOCKET="/nonexistent").out == "release\n"


def test_in_a_real_bash(ctl: Papactl, tmp_path: Path) -> None:
    ctl.out("make", "process", "web.1", "/bin/true")
    script = f"""
        papactl() {{ {COMMAND[0]} -c '{COMMAND[2]}' "$@"; }}
        source {REPOSITORY}/completions/papactl.bash
        try() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _papactl; echo "${{COMPREPLY[*]}}"; }}
        try papactl li
        try papactl output w
        try papactl --socket {REPOSITORY}/pyproject.t
    """
    done = subprocess.run(
        ["bash", "-c", script], env=environment(**ctl.env), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["list", "web.1", f"{REPOSITORY}/pyproject.toml"]
