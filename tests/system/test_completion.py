"""Tab in the shells that people use, at a terminal, with what `make install` has put where they look by themselves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.machine import Machine
from tests.system.papad import MEMBER, STRANGER, Papad

SHELLS = ("bash", "zsh", "fish")
COMPLETIONS = {
    "bash": "/usr/share/bash-completion/completions/papactl",
    "zsh": "/usr/share/zsh/vendor-completions/_papactl",
    "fish": "/usr/share/fish/vendor_completions.d/papactl.fish",
}
WORDS = """#!/usr/bin/python3
import json, os, sys
print("WO" "RDS", json.dumps({"words": sys.argv[1:], "stdin": os.readlink("/proc/self/fd/0")}), flush=True)
"""
PROMPT = {
    "bash": "PS1='REA''DY'",
    "zsh": "PROMPT='REA''DY'",
    "fish": "function fish_prompt; echo -n 'REA''DY'; end",
}
COLOUR = re.compile(r"\x1b(\[[\d;]*m|\(B)")
HOME, ENTER, DROP = "\x01", "\r", "\x15"
PATIENCE = 2  # seconds, as in papad/ctl/completion.py


class Terminal:
    """A shell at a terminal in the machine."""

    def __init__(self, process: subprocess.Popen[str], shell: str) -> None:
        self.shell = shell
        self._process = process
        self._seen = ""
        self.type(PROMPT[shell.split()[0]] + ENTER)
        self.until("READY")

    def type(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def shows(self, *texts: str) -> None:
        """Return once it has shown all these, in any order."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + 20
        while missing := [text for text in texts if text not in self._seen]:
            assert time.monotonic() < deadline, f"{self.shell}: no {missing} in {self._seen!r}"
            if select.select([self._process.stdout], [], [], 1)[0]:
                data = os.read(self._process.stdout.fileno(), 65536).decode("utf-8", "replace")
                assert data, f"{self.shell} ended without {missing}: {self._seen!r}"
                self._seen = COLOUR.sub("", self._seen + data)

    def until(self, text: str) -> str:
        """What it shows up to some text, which is taken."""
        self.shows(text)
        shown, _, self._seen = self._seen.partition(text)
        return shown

    def run(self, line: str) -> None:
        self.type(f"{line} && echo 'DO''NE'{ENTER}")
        self.until("DONE")
        self.until("READY")

    def read(self, typed: str) -> dict[str, Any]:
        """The line that these keys make, as the shell understands it: it becomes the words of another command."""
        self.type(f"{typed}{HOME}words {ENTER}")
        shown = self.until("WORDS ")
        for noise in ("papactl: ", "Error", "Traceback", "bash: ", "zsh: ", "fish: "):
            assert noise not in shown
        found: dict[str, Any] = json.loads(self.until("\r\n"))
        self.until("READY")
        return found

    def words(self, typed: str) -> list[str]:
        words: list[str] = self.read(typed)["words"]
        return words


@contextlib.contextmanager
def terminal(machine: Machine, shell: str, user: str = MEMBER) -> Iterator[Terminal]:
    """An interactive shell as a user of it has it: bash with the .bashrc of a new account, zsh with compinit, fish as it is."""
    machine.write("/run/test/zsh/.zshrc", "autoload -U compinit\ncompinit -d ~/.zcompdump\n")
    machine.write("/usr/local/bin/words", WORDS, 0o755)
    env = (f"HOME=/home/{user}", "ZDOTDIR=/run/test/zsh", "TERM=xterm")
    at_terminal = ("script", "--quiet", "--command", f"stty cols 250 rows 60; exec {shell}", "/dev/null")
    with machine.running("env", "--chdir=/", *env, *at_terminal, user=user) as process:
        try:
            found = Terminal(process, shell)
            yield found
        finally:
            process.stdin.write(f"{DROP}exit{ENTER}")  # type: ignore[union-attr]


@pytest.fixture
def things(papad: Papad) -> Papad:
    """Something of each kind."""
    papad.machine.run("papactl", "make", "socket", "web")
    papad.machine.run("papactl", "make", "process", "web.1", "--", "/bin/sleep", "600")
    papad.machine.run("papactl", "set", "release", "1")
    return papad


LINES = (
    # typed before Tab, and the words that are there afterwards
    ("li", "list"),
    ("l p", "l processes"),
    ("l p w", "l p web.1"),
    ("--json st", "--json status"),
    ("make s", "make socket"),
    ("output -f ", "output -f web.1"),
    ("output -fn 5 ", "output -fn 5 web.1"),
    ("output -n ", "output -n web.1"),
    ("output --out", "output --output"),
    ("output --output=s", "output --output=short"),
    ("output --output j", "output --output json"),
    ("output -o c", "output -o cat"),
    ("output -oc", "output -ocat"),
    ("output --since=", "output --since="),
    ("make socket x --type d", "make socket x --type dgram"),
    ("make process x --listen=w", "make process x --listen=web"),
    ("make process x --listen w", "make process x --listen web"),
    ("make process x /bin/ech", "make process x /bin/echo"),
    ("make process x uid=0 /bin/ech", "make process x uid=0 /bin/echo"),
    ("make process x -- /bin/ech", "make process x -- /bin/echo"),
    ("remove sockets w", "remove sockets web"),
    ("get re", "get release"),
    ("get release re", "get release re"),
    ("help make pr", "help make process"),
    ("completion f", "completion fish"),
    ("--socket /run/papad/papad.s", "--socket /run/papad/papad.sock"),
    ("--socket=/run/papad/papad.s", "--socket=/run/papad/papad.sock"),
    ("--socket /run/papad/papad.sock get re", "--socket /run/papad/papad.sock get release"),
    ("--port 1 get re", "--port 1 get re"),
    ("-H elsewhere get re", "-H elsewhere get re"),
    ("nonsense ", "nonsense"),
)


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_options_values_names_and_files_complete(machine: Machine, things: Papad, shell: str) -> None:
    with terminal(machine, shell) as tty:
        got = [(typed, " ".join(tty.words(f"papactl {typed}\t"))) for typed, _ in LINES]
    assert got == [(typed, f"papactl {completed}") for typed, completed in LINES]


# Each is the only value when its turn comes, so that nothing at all has to be typed of it.
NAMES = (
    "a b",
    "a:c",
    "a=b@c",
    'q:"$x',
    "it's",
    "*[g]{l}?",
    "\\back\\slash",
    "~t",
    "#h",
    "=e",
    "ü ö",
    "<files>",
    "(p)&;|",
    "$(echo no)",
    "`echo no`",
    "wow!x",
    "%p^",
    " blanks  ",
)


@pytest.mark.parametrize("shell", SHELLS)
def test_any_name_arrives_as_one_word(machine: Machine, papad: Papad, shell: str) -> None:
    got = {}
    with terminal(machine, shell) as tty:
        for name in NAMES:
            machine.run("papactl", "set", "--", name, "1")
            for typed in beginnings(name):
                got[typed, name] = tty.words(f"papactl get {typed}\t")
            machine.run("papactl", "remove", "values", "--", name)
    assert got == {(typed, name): ["papactl", "get", name] for name in NAMES for typed in beginnings(name)}


def beginnings(name: str) -> list[str]:
    """Nothing, or the first two characters, bare and within quotes."""
    begun = name[:2]
    bare = re.sub(r"([^\w:=@]|^=)", r"\\\1", begun)
    quoted = [f"'{begun}"] if "'" not in begun else []
    quoted += [f'"{begun}'] if not set('$`\\"') & set(begun) else []
    return ["", "'", '"', bare, *quoted]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_name_with_a_dash_comes_after_two_of_them(machine: Machine, papad: Papad, shell: str) -> None:
    machine.run("papactl", "set", "--", "-dash d", "1")
    with terminal(machine, shell) as tty:
        assert tty.words("papactl get -- \t") == ["papactl", "get", "--", "-dash d"]
        assert tty.words("papactl get -- -d\t") == ["papactl", "get", "--", "-dash d"]
        assert tty.words("papactl get \t") == ["papactl", "get"]  # it would be taken for options


@pytest.mark.parametrize("shell", SHELLS)
def test_candidates_are_shown_with_what_they_mean(machine: Machine, things: Papad, shell: str) -> None:
    machine.run("papactl", "make", "process", "web:2", "--", "/bin/sleep", "600")
    tab = "\t\t" if shell == "bash" else "\t"  # bash shows them at the second
    for typed, shown in (
        ("", ("describe", "sockets, processes, values", "exit-if-idle", "get", "Print a named value", "watch")),
        ("list ", ("processes", "List processes", "sockets", "values")),
        ("output --", ("--follow", "keep showing new output as it is written", "--port", "--since")),
        ("output -", ("--follow", "-f", "-H", "-o")),
        ("output -o", ("cat", "export", "json", "short-iso", "short-precise")),
        ("output web", ("web.1", "web:2")),
    ):
        with terminal(machine, shell) as tty:
            tty.type(f"papactl {typed}{tab}")
            tty.shows(*(text for text in shown if shell != "bash" or " " not in text))  # it shows words only


def test_bash_completes_the_target_of_a_redirection(machine: Machine, papad: Papad) -> None:
    with terminal(machine, "bash") as tty:
        for redirection in ("</etc/os-rel", "< /etc/os-rel", "0</etc/os-rel"):
            assert tty.read(f"papactl status {redirection}\t") == {
                "words": ["papactl", "status"],
                "stdin": "/usr/lib/os-release",
            }


@pytest.mark.parametrize("shell", SHELLS)
def test_a_stranger_gets_no_names_no_noise_and_no_delay(machine: Machine, things: Papad, shell: str) -> None:
    with terminal(machine, shell, STRANGER) as tty:
        assert tty.words("papactl outp\t") == ["papactl", "output"]
        begun = time.monotonic()
        for line in ("papactl get re", "papactl output we", "papactl output ", "papactl --port 20202 get re"):
            assert tty.words(f"{line}\t") == line.split()
        assert (time.monotonic() - begun) / 4 < PATIENCE


@pytest.mark.parametrize("shell", SHELLS)
def test_a_papad_that_does_not_answer_holds_the_prompt_for_two_seconds_only(
    machine: Machine, things: Papad, shell: str
) -> None:
    with terminal(machine, shell) as tty:
        assert tty.words("papactl get re\t") == ["papactl", "get", "release"]
        things.systemctl("kill", "--signal=STOP", "--kill-whom=main", "papad.service")
        try:
            begun = time.monotonic()
            assert tty.words("papactl get re\t") == ["papactl", "get", "re"]
            assert PATIENCE < time.monotonic() - begun < 3 * PATIENCE
        finally:
            things.systemctl("kill", "--signal=CONT", "--kill-whom=main", "papad.service")
        assert tty.words("papactl get re\t") == ["papactl", "get", "release"]


SOURCING = {
    "bash": "source <(papactl completion bash)",
    "zsh": "source <(papactl completion zsh)",
    "fish": "papactl completion fish | source",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_what_papactl_prints_can_be_sourced_where_nothing_is_installed(
    machine: Machine, things: Papad, shell: str
) -> None:
    installed = machine.root(COMPLETIONS[shell])
    aside = installed.rename(installed.parent / "aside")
    try:
        with terminal(machine, shell) as tty:
            assert tty.words("papactl output web\t") == ["papactl", "output", "web"]
            tty.run(SOURCING[shell])
            assert tty.words("papactl output web\t") == ["papactl", "output", "web.1"]
    finally:
        aside.rename(installed)


def test_bash_needs_nothing_but_what_papactl_prints(machine: Machine, things: Papad) -> None:
    with terminal(machine, "bash --norc") as tty:
        tty.run(SOURCING["bash"])
        assert tty.words("papactl output web\t") == ["papactl", "output", "web.1"]
