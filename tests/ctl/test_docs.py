"""docs/papactl.md and README.md say what papactl does. PAPAD_WRITE_DOCS=1 brings the transcript in README.md up to date."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
from pathlib import Path

from papad.ctl.declared import COMMANDS
from papad.ctl.help import STATUSES
from tests.ctl.support import COMMAND, Papactl, environment
from tests.support.papad import REPOSITORY
from tests.support.waiting import wait_until

PAGE = REPOSITORY / "docs/papactl.md"
README = REPOSITORY / "README.md"
BEGIN, END = "<!-- transcript begin -->\n", "<!-- transcript end -->\n"

TYPED = (
    "papactl make socket web --port 8080",
    "papactl make process web.1 --env PATH=/usr/bin -- sh -c 'echo listening on $(socket.web.port); exec sleep 600'",
    "papactl make process job -- /bin/sh -c 'echo working; echo disk full >&2; exit 3'",
    "papactl status",
    "papactl output -o short-iso",
    "papactl output job -g FULL",
    "papactl output job -g full -o cat",
    "papactl set release 2026-11-23",
    "papactl list values",
    "papactl watch job -o cat",
    "papactl list processes job",
)


def test_the_transcript_is_what_papactl_says(ctl: Papactl) -> None:
    said, port = [], _free_port()
    for command in TYPED:
        done = ctl(*(str(port) if word == "8080" else word for word in shlex.split(command)[1:]))
        answer = _timeless(ctl, done.out + done.err, port)
        said.append(f"    $ {command}\n" + "".join(f"    {line}\n" for line in answer.splitlines()))
        if "make process job" in command:
            ctl.ends("job")
            wait_until(lambda: ctl.described("web.1")["captured"], "web.1 has said something")
    made = BEGIN + "\n" + "\n".join(re.sub(r" +\n", "\n", each) for each in said) + "\n" + END
    page = README.read_text()
    new = page[: page.index(BEGIN)] + made + page[page.index(END) + len(END) :]
    if os.environ.get("PAPAD_WRITE_DOCS"):
        README.write_text(new)
    assert new == page


def _free_port() -> int:
    """One with as many digits as that in the transcript: bytes are counted there."""
    for port in range(8080, 9999):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def _timeless(ctl: Papactl, text: str, port: int) -> str:
    """What differs from run to run, made the same."""
    text = (
        text.replace(str(port), "8080")
        .replace(ctl.daemon.path, "/run/papad/papad.sock")
        .replace("$PAPAD_SOCKET", "the system's")
    )
    for name, pid, started in (("web.1", 4437, "39.1524343"), ("job", 4441, "40.0390625")):
        text = re.sub(rf"^{name} pid=\d+ (.*) started=[\d.]+", rf"{name} pid={pid} \1 started=17954542{started}", text)
    text = re.sub(r"pid \d+, nursery \d+; up .*", "pid 812, nursery 815; up 3 d 4 h", text)
    text = re.sub(r"    no service manager.*\n", "", text)
    if "PROCESS " in text:
        text = text[: text.index("PROCESS ")] + _table(text[text.index("PROCESS ") :])
    text = re.sub(r"[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d ", "Nov 23 17:17:20 ", text)
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", "2026-11-23T17:17:20", text)


def _table(text: str) -> str:
    """The rows of processes with the same numbers in every run; which columns there are, and all else, is as it is."""
    rows = text.splitlines()
    made = [rows[0].split()]
    for row in rows[1:]:
        found = re.fullmatch(r"(\S+) +(\d+ +running|ended with exit code 3) .*", row)
        assert found
        name, running = found[1], found[2].endswith("running")
        state = "running" if running else found[2]
        sizes = re.findall(r"[\d.]+ k?M?B", row)
        made.append([name, "4437" if running else "", state, "2 s" if running else "2 s ago", "0.0 s" * running])
        made[-1] += ["1.6 MB" if running else "", *sizes[-2:]]
    from papad.ctl.render import table

    return "\n".join(table(made[0], made[1:])) + "\n"


def test_what_takes_the_place_of_settings_of_supervisor_are_options_that_there_are() -> None:
    page = PAGE.read_text()
    section = page[page.index("## From supervisor") : page.index("## Completion")]
    words = " ".join(re.findall(r"`([^`]+)`", section)).split()
    known = {f"--{option.long}" for command in COMMANDS for option in command.options} | {"--now"}
    named = {word.partition("=")[0] for word in words if word.startswith("--") and word != "--"}
    assert len(named) > 10
    assert named <= known


def test_the_page_has_every_option_of_output_and_every_status() -> None:
    page = PAGE.read_text()
    (output,) = (command for command in COMMANDS if command.words == ("output",))
    for option in output.options:
        assert f"`-{option.short}" in page if option.short else f"`--{option.long}" in page
    for status, _ in STATUSES:
        assert f"| {status} |" in page


def _section(name: str) -> str:
    page = PAGE.read_text()
    return page[page.index(f"## {name}\n") :].partition("\n## ")[0]


def _typed(ctl: Papactl, line: str) -> str:
    """What a line prints in a shell in which papactl is a command."""
    line = f'papactl() {{ {shlex.join(COMMAND)} "$@"; }}; {line}'
    done = subprocess.run(
        ["bash", "-c", line], env=environment(**ctl.env), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    return done.stdout


def test_each_command_to_stop_a_process_stops_it(ctl: Papactl) -> None:
    lines = re.findall(r"^    ((?:papactl|kill) .*)$", _section("Stopping"), re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        ctl.out("make", "process", "web.1", "--again", "--", "/bin/sleep", "600")
        _typed(ctl, line)
        wait_until(lambda: not ctl.described("web.1")["running"], f"it has ended: {line}")


def test_who_ships_with_a_cursor_file_goes_on_where_the_last_one_was(ctl: Papactl, tmp_path: Path) -> None:
    found = re.search("`(papactl output .*)`", _section("Shipping"))
    assert found
    line = found[1].replace("FILE", str(tmp_path / "cursor")).replace("SHIPPER", "sed -u /last/q")
    for number in range(3):
        ctl.out("make", "process", "p", "--again", "--", "/bin/sh", "-c", f"echo first {number}; echo last {number}")
        shipped = _typed(ctl, line)
        assert [re.sub(".*: ", "", each) for each in shipped.splitlines() if "--" not in each] == [
            f"first {number}",
            f"last {number}",
        ]
