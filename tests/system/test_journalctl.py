"""`papactl output` beside the machine's journalctl: the same options on the same lines, which went to both.

What differs on purpose is told in docs/papactl.md, and taken out here by a function that says so.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from papad.ctl.declared import FORMATS
from tests.support.export import read_export
from tests.support.waiting import wait_until
from tests.system.machine import Machine
from tests.system.papad import Papad, systemd_version

NAMES = ("jc.a", "jc.b")
GAP = 3  # seconds between two groups of lines; times in the middle of it are told apart on a busy machine, too
GROUPS = 4
# Each group is written half a second after a whole one, by the two in turn; never two lines at one instant.
WRITER = f"""import os, sys, time
begin, turn = float(sys.argv[1]), int(sys.argv[2])
for group in range(turn, {GROUPS}, 2):
    time.sleep(max(0, begin + {GAP} * group + 0.5 - time.time()))
    for number, (fd, text) in enumerate([(1, "plain"), (2, "Error"), (1, "an error"), (2, "ERR")]):
        os.write(fd, f"{{text}} {{group}}.{{number}}\\n".encode())
        time.sleep(0.04)
"""
MESSAGES = [
    b"plain",
    b"tab\there",
    b"\x1b[31mred\x1b[0m \x07",
    b"",
    b"not UTF-8 \xff\xfe",
    "e\u0301 \U0001f600 \u200b \u00ad".encode(),
    "\u202e turned".encode(),
    b"  blanks   ",
    b"return at its end\r",
    b"return\rinside",
    b"nul \0 inside",
    "\u009b \x7f".encode(),
    b"[5B blob data]",
    b"x" * 5000,
    b"no newline at the end",
]
BINARY_WRITER = f"""import os, time
for message in {MESSAGES[:-1]!r}:
    os.write(1, message + b"\\n")
    time.sleep(0.02)
os.write(1, {MESSAGES[-1]!r})"""
# Runs inside, so that hundreds of commands take seconds. AGO is the time since the boundary that stands before it, in seconds.
RUNNER = """import json, os, re, subprocess, sys, time
def run(words, env):
    words = [re.sub("([0-9.]+)AGO", lambda m: format(time.time() - float(m[1]), ".3f"), word) for word in words]
    done = subprocess.run(words, env={**os.environ, **env}, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    return [done.returncode, done.stdout.decode("latin-1"), done.stderr.decode("latin-1")]
print(json.dumps([[run(words, env) for words in pair] for env, pair in json.load(open(sys.argv[1]))]))
"""


class Printed(NamedTuple):
    status: int
    out: bytes
    err: str


class Case(NamedTuple):
    """Options for both, and what is in the environment."""

    options: tuple[str, ...]
    env: dict[str, str] = {}  # noqa: RUF012 - nobody changes it


class Both:
    """journalctl and papactl on what some processes have written."""

    def __init__(self, machine: Machine, begin: int) -> None:
        self.machine = machine
        self.begin = begin
        """When the first group was begun."""
        self.version = systemd_version(machine)

    def boundary(self, group: int) -> int:
        """A whole second before a group of lines and after the one before it."""
        return self.begin + GAP * group - 1

    def run(self, *cases: Case, names: tuple[str, ...] = NAMES) -> list[tuple[Printed, Printed]]:
        """What journalctl prints for each case, and papactl."""
        matches = [f"SYSLOG_IDENTIFIER={name}" for name in names]  # PAPAD_NAME= would show what papad itself says of it
        self.machine.write(
            "/run/cases",
            json.dumps(
                [
                    (env, [["journalctl", *matches, *options], ["papactl", "output", *names, *options]])
                    for options, env in cases
                ]
            ),
        )
        self.machine.write("/run/runner.py", RUNNER)
        found = json.loads(self.machine.out("/usr/bin/python3", "/run/runner.py", "/run/cases"))
        pairs = [[Printed(status, out.encode("latin-1"), err) for status, out, err in pair] for pair in found]
        assert not any("Traceback" in each.err for pair in pairs for each in pair)
        return [(first, second) for first, second in pairs]

    def same(self, *options: str, names: tuple[str, ...] = NAMES) -> None:
        """Both print the same bytes, with the same exit status."""
        pairs = self.run(*(Case((*shlex.split(each), "-o", "cat")) for each in options), names=names)
        for each, (journalctl, papactl) in zip(options, pairs, strict=True):
            assert papactl[:2] == journalctl[:2], each
            assert not papactl.err, each

    def entries(self, name: str) -> list[tuple[dict[str, bytes], dict[str, bytes]]]:
        """What both export of a process, entry by entry, but for what papactl says itself."""
        ((journalctl, papactl),) = self.run(Case(("-o", "export")), names=(name,))
        ours = [entry for entry in read_export(papactl.out) if "PAPAD_STREAM" in entry]
        return list(zip(read_export(journalctl.out), ours, strict=True))


@pytest.fixture(scope="module")
def both(machine: Machine) -> Iterator[Both]:
    papad = Papad(machine)
    papad.reset()
    machine.write("/run/turns.py", WRITER)
    machine.write("/run/binary.py", BINARY_WRITER)
    begin = int(time.time()) + 2
    for turn, name in enumerate(NAMES):
        papad.ask(f"make process {name} journal=1 /usr/bin/python3 /run/turns.py {begin} {turn}")
    papad.ask("make process jc.binary journal=1 /usr/bin/python3 /run/binary.py")
    machine.write("/run/long", "x" * 102400 + "\nshort\n")
    papad.ask("make process jc.long journal=1 /bin/cat /run/long")
    papad.ask("make process jc.many journal=1 /usr/bin/seq 3000")
    wait_until(lambda: all_ended(papad), "all have ended", GAP * GROUPS + 20)
    machine.run("journalctl", "--sync")
    both = Both(machine, begin)
    wait_until(lambda: b"2999\n" in both.run(Case(("-n", "3")), names=("jc.many",))[0][0].out, "the journal has it")
    yield both
    papad.reset()


def all_ended(papad: Papad) -> bool:
    described = papad.ask("describe processes jc.*").splitlines()
    return len(described) == 5 and all(json.loads(line)["closed"] for line in described)


def test_lines_and_reverse(both: Both) -> None:
    both.same("", "-n 3", "-n3", "--lines=3", "--lines 3", "-n", "--lines", "-n all", "-n 0", "-n 1000")
    both.same("-r", "-r -n 3", "-n 3 -r", "-rn3", "-n all -r", "--reverse --no-pager")
    both.same("-e", "-e -n 3", "-q", "-q -U yesterday")
    if both.version >= 257:
        both.same("-n+3", "-n +3", "--lines=+3", "-n+1000")


def test_priorities(both: Both) -> None:
    both.same("-p err", "-p 3", "-p debug", "-p 0..3", "-p info..warning", "-p crit", "-p err -n 3", "-p err -r")


def test_grep(both: Both) -> None:
    middle = both.boundary(2)
    both.same("-g error", "-g Error", "-g err", "-g ERR", "--grep='^an|ERR'", r"-g '\.[23]$'", r"-g '\S+ \d'", "-g ''")
    both.same(
        "-g nothing", "-g NOTHING -n 3", "-g error -r", "-g err -n 3 -r", "-g err -n 3", "-g err -n", "-g err -n all"
    )
    both.same(f"-g err -S @{middle}", f"-g ERR -U @{middle} -r", f"-g err -n 3 -U @{middle}")
    if both.version >= 257:
        both.same("-g err -n+3", f"-g err -n 3 -S @{middle}")


def test_since_and_until_together_with_lines_and_reverse(both: Both) -> None:
    since, until = f"-S @{both.boundary(1)}", f"-U @{both.boundary(3)}"
    both.same(since, until, f"{since} {until}", f"{since} -r", f"{since} {until} -r", f"{since} -n all")
    both.same(f"{since} -n 3 -r", f"{until} -n 3 -r", f"-S @{both.boundary(2)} -U @{both.boundary(2)}")
    both.same(f"--since @{both.boundary(1)} --until @{both.boundary(3)}", f"--since=@{both.boundary(1)}")
    if both.version >= 257:  # earlier ones show the oldest lines with -S, none with -U
        both.same(f"{since} -n 3", f"{until} -n 3", f"{since} {until} -n 3", f"{since} -n+3", f"{until} -n+3")


def zone(instant: int, of_day: int) -> str:
    """A time zone in which it is so many seconds after midnight at some instant."""
    offset = (of_day - instant) % 86400
    return f"<Test>-{offset // 3600}:{offset // 60 % 60:02}:{offset % 60:02}"


def test_times_in_every_form(both: Both) -> None:
    """Each form of the instant between the second and the third group; then forms that mean something else."""
    instant = both.boundary(2)
    noon, midnight = zone(instant, 12 * 3600), zone(instant, 0)
    at_noon = time.gmtime(instant + (12 * 3600 - instant) % 86400)
    day, utc = time.strftime("%Y-%m-%d", at_noon), time.gmtime(instant)
    midnight_day = time.strftime("%Y-%m-%d", time.gmtime(instant + -instant % 86400))
    cases = [
        (noon, f"{day} 12:00:00"),
        (noon, f"{day} 12:00"),
        (noon, f"{day[2:]} 12:00"),
        (noon, f"{day} 12:00:00.25"),
        (noon, f"{day} 11:59:59.999999"),
        (noon, time.strftime("%a ", at_noon) + f"{day} 12:00:00"),
        (noon, time.strftime("%A ", at_noon) + f"{day} 12:00"),
        (noon, "12:00"),
        (noon, "12:00:00"),
        (noon, "12:0:0.5"),
        (noon, time.strftime("%Y-%m-%d %H:%M:%S UTC", utc)),
        (midnight, midnight_day),
        (midnight, "today"),
        (midnight, "00:00"),
        ("UTC", f"@{instant}"),
        ("UTC", f"@{instant}.5"),
        ("UTC", f"-{instant}AGOs"),
        ("UTC", f"-{instant}AGO"),
        ("UTC", f"-0h 0min {instant}AGOsec"),
        ("UTC", f"{instant}AGO seconds ago"),
        ("UTC", f"{instant}AGOs ago"),
        ("UTC", f"-1h30min {instant}AGOs"),
        ("UTC", "-1h30min"),
        ("UTC", "10 min ago"),
        ("UTC", "yesterday"),
        ("UTC", "tomorrow"),
        ("UTC", "now"),
        ("UTC", "+1d"),
        (noon, "today UTC"),
        (midnight, "yesterday"),
        (midnight, "tomorrow"),
    ]
    if both.version >= 257:
        cases += [(noon, f"{day}T12:00:00"), (noon, time.strftime("%Y-%m-%dT%H:%M:%SZ", utc))]
        cases += [(noon, f"{day} 12:00:00 Test"), ("UTC", time.strftime("%Y-%m-%dT%H:%M:%S+00:00", utc))]
    pairs = both.run(*(Case((option, text, "-o", "cat"), {"TZ": tz}) for tz, text in cases for option in ("-S", "-U")))
    for number, (journalctl, papactl) in enumerate(pairs):
        assert papactl == journalctl, (cases[number // 2], "SU"[number % 2])
    told_apart = [p.out.count(b"\n") for _, p in pairs[: 2 * 21]]
    assert told_apart == [8] * 2 * 21, "these forms mean the instant in the middle"


def test_what_is_refused(both: Both) -> None:
    """papactl says 2 where the command line is wrong, journalctl 1 for any failure."""
    times = ("soon", "12", "24:00", "25:61", "2026-13-01", "Mon", "-1x", "@", "1 h", "2026-11-23 17", "2026-11-23T", "")
    times += ("2026-11-23 12:00 Nowhere/City", "1969-12-31", "2026/11/23", "-1h ago")
    wrong_day = time.strftime("%a %Y-%m-%d", time.gmtime(0))[:4] + "2026-11-23"
    options = [("-S", text) for text in (*times, wrong_day)] + [("-U", text) for text in times]
    options += [
        ("-n", "-3"),
        ("-n3x",),
        ("--lines=x",),
        ("-g", "("),
        ("-f", "-r"),
        ("-o", "no-such"),
        ("--no-such",),
        ("-p", "9"),
    ]
    options += [("-S", "now", "-U", "-1h")]
    if both.version >= 257:
        options += [("-r", "-n+3"), ("-f", "-n+3")]
    for case, (journalctl, papactl) in zip(options, both.run(*map(Case, options)), strict=True):
        assert (journalctl.status, journalctl.out) == (1, b""), case
        assert (papactl.status, papactl.out) == (2, b""), case


def test_no_entries_and_the_exit_status_of_grep(both: Both) -> None:
    options = [
        ("-U", "yesterday"),
        ("-g", "nothing"),
        ("-n", "0"),
        ("-g", "nothing", "-n", "3"),
    ]
    if both.version >= 257:
        options += [("-g", "plain", "-n0")]
    options += [(*each, "-o", style) for each in options for style in ("short-iso", "cat", "json")]
    pairs = both.run(*map(Case, options))
    assert [p for _, p in pairs] == [j for j, _ in pairs]


def shortened(printed: bytes) -> list[str]:
    """Lines of journalctl's short formats as papactl has them: no host, no pid. Microseconds are a matter of who took the time."""
    text = re.sub(r"(?<=\.)\d{6}(?=[ +-])", "US", printed.decode())
    text = re.sub(r"([+-]\d\d)(\d\d) ", r"\1:\2 ", text)  # journalctl's offset before systemd 255
    return re.sub(r"^(.*?) [\w-]+ (jc\.\w+)\[\d+\]: ", r"\1 \2: ", text, flags=re.MULTILINE).splitlines()


def without_notes(printed: bytes) -> list[str]:
    """What papactl prints, but for `-- ended with exit code 0 --`, for which journalctl has lines of papad's own."""
    return [line for line in shortened(printed) if not line.endswith(" --")]


def test_the_short_formats_in_several_zones(both: Both) -> None:
    styles = [style for style in FORMATS if style.startswith("short")]
    assert len(styles) >= 3
    cases = [
        Case(("-o", style, *utc), {"TZ": tz})
        for style in styles
        for tz in ("UTC", "<+0530>-5:30", "<-0330>+3:30")
        for utc in ((), ("--utc",))
    ]
    for case, (journalctl, papactl) in zip(cases, both.run(*cases), strict=True):
        assert without_notes(papactl.out) == shortened(journalctl.out), case
    ((journalctl, papactl),) = both.run(Case(()))
    assert without_notes(papactl.out) == shortened(journalctl.out)


def test_common_fields_of_json_and_export(both: Both) -> None:
    """journalctl's json has text with control characters as numbers, and nothing of a long one without -a."""
    common = ("MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "PAPAD_NAME", "PAPAD_STREAM")
    names = ("jc.a", "jc.binary")
    ((journalctl, papactl),) = both.run(Case(("-o", "json", "-a")), names=names)
    theirs = [json.loads(line) for line in journalctl.out.splitlines()]
    ours = [each for each in map(json.loads, papactl.out.splitlines()) if "PAPAD_STREAM" in each]

    def fields(entry: dict[str, Any]) -> list[bytes]:
        return [value.encode() if isinstance(value, str) else bytes(value) for value in map(entry.__getitem__, common)]

    def by_name(entries: list[dict[str, Any]]) -> dict[str, list[list[bytes]]]:
        return {name: [fields(each) for each in entries if each["PAPAD_NAME"] == name] for name in names}

    assert by_name(ours) == by_name(theirs)
    assert [each[0] for each in by_name(ours)["jc.binary"]] == MESSAGES
    for name in names:
        for theirs_, ours_ in both.entries(name):
            assert [ours_[key] for key in common] == [theirs_[key] for key in common]
            apart = int(ours_["__REALTIME_TIMESTAMP"]) - int(theirs_["__REALTIME_TIMESTAMP"])
            assert -1_000_000 < apart <= 0, "papad took the time when it captured it"


def test_any_bytes_in_the_formats_for_people(both: Both) -> None:
    """-o cat and -a pass them on; otherwise journalctl says how many bytes there are, papactl escapes what could do harm."""
    cat, all_, short = both.run(
        Case(("-o", "cat")), Case(("-o", "short-iso", "-a")), Case(("-o", "short-iso")), names=("jc.binary",)
    )
    assert cat[1].out == cat[0].out == b"".join(message + b"\n" for message in MESSAGES)
    theirs, ours = (each.out.replace(b" --\n", b"").split(b"\n") for each in all_)
    texts = [[line.partition(b": ")[2] for line in lines[: len(MESSAGES)]] for lines in (theirs, ours)]
    assert texts[1] == MESSAGES
    assert texts[0] == [message.partition(b"\0")[0] for message in MESSAGES], "journalctl's ends at a NUL"
    pairs = list(zip(shortened(short[0].out), without_notes(short[1].out), strict=True))
    blobs = [ours for theirs, ours in pairs if theirs.endswith("B blob data]") and "\\x" in ours]
    assert len(blobs) == 5
    for theirs_, ours_ in pairs:
        if ours_ not in blobs:
            # Without the time, which papad took a moment before journald did.
            ours_, theirs_ = (each.partition(" ")[2] for each in (ours_, theirs_))
            assert ours_.replace("\t", " " * 8) == theirs_.replace("\u202e", "\\u202e")


def test_a_long_line_is_one_line_here(both: Both) -> None:
    """papad forwards it to the journal in pieces."""
    ((journalctl, papactl),) = both.run(Case(("-o", "cat")), names=("jc.long",))
    assert papactl.out == b"x" * 102400 + b"\nshort\n"
    assert journalctl.out.replace(b"\n", b"") == papactl.out.replace(b"\n", b"")


def test_many_lines(both: Both) -> None:
    names = ("jc.many",)
    both.same("", "-n 2000", "-n 2999 -r", "-n 3000", "-n 3001", "-g 7$", "-g 7$ -r", "-g 7$ -n 100", names=names)


FOLLOWED = """import os, sys, time
while not os.path.exists("/run/go"):
    print("waiting", flush=True)
    time.sleep(0.1)
for number in range(200):
    os.write(1 + number % 2, b"follow %d of" % number); time.sleep(0.002); os.write(1 + number % 2, b" 200\\n")
    time.sleep(0.002)
"""
FOLLOW = (
    "journalctl -f -n 0 -o cat SYSLOG_IDENTIFIER=jc.f.1 SYSLOG_IDENTIFIER=jc.f.2 >/run/j 2>&1 & j=$!;"
    "papactl output -f -n 0 -o cat 'jc.f.*' >/run/p 2>&1 & p=$!; read _; kill $j $p"
)


def followed(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line != "waiting"] if file.exists() else []


def test_a_follow_that_is_started_before_the_lines(both: Both) -> None:
    machine, papad = both.machine, Papad(both.machine)
    machine.write("/run/follow.py", FOLLOWED)
    machine.run("rm", "-f", "/run/go")
    files = [machine.root("/run/j"), machine.root("/run/p")]
    with machine.running("sh", "-c", FOLLOW):
        for name in ("jc.f.1", "jc.f.2"):
            papad.ask(f"make process {name} journal=1 /usr/bin/python3 /run/follow.py")
        for file in files:
            wait_until(lambda file=file: file.exists() and "waiting" in file.read_text(), "it follows")  # type: ignore[misc]
        machine.write("/run/go", "")
        for file in files:
            wait_until(lambda file=file: len(followed(file)) == 400, "all lines are there")  # type: ignore[misc]
    for parity in (0, 1):  # each stream of a process in its order; both processes write the same
        texts = [[line for line in followed(file) if int(line.split()[1]) % 2 == parity] for file in files]
        assert sorted(texts[0]) == sorted(texts[1])
        assert set(texts[0]) == {f"follow {number} of 200" for number in range(parity, 200, 2)}
