"""`papactl output`, option by option, on a real papad."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.client.relay import Relay
from tests.ctl.support import COMMAND, Papactl, environment, interrupted, line_of
from tests.support.export import read_export
from tests.support.waiting import wait_until


def texts(printed: str) -> list[str]:
    """The lines without their time."""
    return [line[16:] for line in printed.splitlines()]


def test_several_processes_merged_by_time(ctl: Papactl, tmp_path: Path) -> None:
    for name in "ab":
        subprocess.run(["mkfifo", tmp_path / name], check=True)
        ctl.out("make", "process", name, "--", "/bin/sh", "-c", f"exec sed -u 3q <{tmp_path / name}")
    with open(tmp_path / "a", "w") as a, open(tmp_path / "b", "w") as b:
        for n in range(1, 4):
            for name, fifo in (("a", a), ("b", b)):
                print(f"{name}{n}", file=fifo, flush=True)
                wait_until(lambda name=name, n=n: ctl.described(name)["captured"] == 3 * n, "it is captured")  # type: ignore[misc]
    ctl.ends("a")
    ctl.ends("b")
    lines = [line for line in texts(ctl.out("output")) if "--" not in line]
    assert lines == ["a: a1", "b: b1", "a: a2", "b: b2", "a: a3", "b: b3"]
    assert texts(ctl.out("output", "a", "-n1")) == ["a: a3", "a: -- ended with exit code 0 --"]
    assert [line for line in texts(ctl.out("output", "-r")) if "--" not in line] == lines[::-1]


def test_reading_consumes_nothing(ctl: Papactl) -> None:
    ctl.runs("p", "seq 5")
    first = ctl.out("output", "p")
    assert ctl.out("output", "p") == first
    assert ctl.described("p")["acknowledged"] == 0


@pytest.mark.parametrize("size", [3, 100, 20000])
def test_the_newest_lines_are_whole_however_they_were_captured(ctl: Papactl, size: int) -> None:
    """Lines of this size, so few or many to a record, some of them cut."""
    ctl.runs("p", f"i=0; while [ $i -lt 500 ]; do i=$((i+1)); printf '%0{size}d\\n' $i; done")
    whole = ctl.out("output", "-o", "cat").splitlines()
    assert whole[-1] == "500".rjust(size, "0")
    for count in (1, 10, 49, 500, 501):
        assert ctl.out("output", "-o", "cat", f"-n{count}").splitlines() == whole[-count:]
    assert ctl.out("output", "-o", "cat", "-n", "3", "-r").splitlines() == whole[:-4:-1]
    assert ctl.out("output", "-o", "cat", "--lines", "all").splitlines() == whole
    assert ctl.out("output", "-o", "cat", "--lines").splitlines() == whole[-10:]
    assert ctl.out("output", "-o", "cat", "-n0") == ""
    assert ctl.out("output", "-o", "cat", "-n+3").splitlines() == whole[:3]
    assert ctl.out("output", "-o", "cat", "-n", "+3").splitlines() == whole[:3]
    assert ctl.out("output", "-o", "cat", "-n999999999999999999").splitlines() == whole


def test_the_newest_lines_of_a_chatty_and_a_quiet_process(ctl: Papactl) -> None:
    ctl.runs("quiet.1", "echo first; echo error >&2")
    ctl.runs("chatty", "seq 100000")
    ctl.runs("quiet.2", "echo then; printf 'no end'")
    ctl.runs("chatty.2", "seq 60000")
    whole = ctl.out("output", "-o", "cat").splitlines()
    assert (whole[:2], whole[100002:100004]) == (["first", "error"], ["then", "no end"])
    for count in (1, 100, 59999, 60000, 60001, 60002, 60003, 160003, 160004):
        assert ctl.out("output", "-o", "cat", f"-n{count}").splitlines() == whole[-count:]
    assert ctl.out("output", "quiet.*", "-o", "cat", "-n", "3").splitlines() == ["error", "then", "no end"]
    assert ctl.out("output", "--stream", "err", "-o", "cat", "-n", "3") == "error\n"


def test_the_newest_lines_of_very_many_records(ctl: Papactl) -> None:
    """Each byte is a record; so a line takes more of them than are asked for at first."""
    script = "import os,time\nfor c in b'a'*1500+b'\\n'+b'b'*1500+b'\\n': os.write(1,bytes([c])); time.sleep(0.0005)"
    ctl.out("make", "process", "p", "--", sys.executable, "-c", script)
    ctl.ends("p")
    frames = ctl.daemon.ask("output p").count("out:p:")
    assert frames > 2000
    assert ctl.out("output", "-o", "cat", "-n1") == "b" * 1500 + "\n"
    assert ctl.out("output", "-o", "cat", "-n2") == "a" * 1500 + "\n" + "b" * 1500 + "\n"


def test_a_line_that_has_not_ended_is_shown_as_far_as_it_has_come(ctl: Papactl, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    ctl.out(
        "make", "process", "prompt", "--", "/bin/sh", "-c", f"echo one; printf 'name: '; mkfifo {fifo}; cat <>{fifo}"
    )
    wait_until(lambda: ctl.described("prompt")["captured"] == 10, "it asks")
    assert ctl.out("output", "-o", "cat", "-n1") == "name: \n"
    assert ctl.out("output", "-o", "cat", "-r") == "name: \none\n"
    assert [each.get("_LINE_BREAK") for each in ctl.json("output", "-o", "json")] == [None, "eof"]
    ctl.runs("other", "echo later")
    assert ctl.out("output", "-o", "cat", "-n1") == "later\n"
    assert ctl.out("output", "-o", "cat", "-n2") == "name: \nlater\n"
    assert ctl.out("output", "-o", "cat", "-r") == "later\nname: \none\n"
    assert ctl.out("output", "-o", "cat") == "one\nlater\nname: \n", "without -n and -r it comes last"
    with ctl.running("output", "-f", "-o", "cat", "prompt") as popen, open(fifo, "w") as answer:
        assert line_of(popen) == "one"
        answer.write("é\n")
        answer.flush()
        assert line_of(popen) == "name: é"


def test_since_and_until(ctl: Papactl) -> None:
    ctl.runs("old", "echo old")
    between = time.time()
    ctl.runs("new", "echo new")
    assert ctl.out("output", "-o", "cat", "-S", f"@{between:.6f}") == "new\n"
    assert ctl.out("output", "-o", "cat", "-U", f"@{between:.6f}") == "old\n"
    assert ctl.out("output", "-o", "cat", "-S", "-1h", "--until", "now") == "old\nnew\n"
    assert ctl.out("output", "-o", "cat", "-S", "yesterday", "-U", "1 h ago") == ""
    assert ctl.out("output", "-o", "cat", "--since=today", "-n1") == "new\n"
    shown = ctl.out("output", "new", "-o", "short-precise").split(" new: ")[0].split()[-1]
    assert ctl.out("output", "-o", "cat", "-S", shown, "-U", shown) == "new\n"


def test_grep_has_smart_case(ctl: Papactl) -> None:
    ctl.runs("p", "echo Error one; echo error two; echo fine")
    assert ctl.out("output", "-o", "cat", "-g", "error") == "Error one\nerror two\n"
    assert ctl.out("output", "-o", "cat", "-g", "Error") == "Error one\n"
    assert ctl.out("output", "-o", "cat", "--grep", "^e.*o$", "-n1") == "error two\n"
    assert ctl.out("output", "-o", "cat", "-g", "one", "-n1") == "Error one\n"
    assert ctl.out("output", "-o", "cat", "-g", "^e", "-n1") == "error two\n"
    assert ctl.out("output", "-o", "cat", "-g", "^e", "-n2") == "error two\nError one\n", "as journalctl has it"
    assert ctl.out("output", "-o", "cat", "-g", "^e", "-n+2") == "Error one\nerror two\n"


def test_grep_that_finds_nothing_is_status_1(ctl: Papactl) -> None:
    ctl.runs("p", "echo fine")
    assert ctl("output", "-g", "error") == (1, "-- No entries --\n", "")
    assert ctl("output", "-g", "error", "-o", "json") == (1, "", "")
    assert ctl("output", "-S", "now") == (0, "-- No entries --\n", "")


def test_priorities_are_those_of_the_journal(ctl: Papactl) -> None:
    ctl.runs("p", "echo fine; echo bad >&2; exit 3")
    assert texts(ctl.out("output", "-p", "err")) == ["p: bad", "p: -- ended with exit code 3 --"]
    assert texts(ctl.out("output", "-p", "4..7")) == ["p: fine"]
    assert ctl.out("output", "-p", "crit") == "-- No entries --\n"
    assert ctl.out("output", "-q", "-p", "crit") == ""
    assert ctl("output", "-p", "grave").status == 2


def test_one_stream(ctl: Papactl) -> None:
    ctl.runs("p", "echo one; echo two >&2")
    assert ctl.out("output", "-o", "cat", "--stream", "out") == "one\n"
    assert ctl.out("output", "-o", "cat", "--stream=err") == "two\n"


def test_every_byte_is_exported_and_cat_in_a_pipe(ctl: Papactl, tmp_path: Path) -> None:
    data = bytes(range(256)) * 3 + b"no end"
    (tmp_path / "data").write_bytes(data)
    ctl.runs("p", f"cat {tmp_path / 'data'}")
    entries = [entry for entry in read_export(ctl.bytes("output", "-o", "export")) if "PAPAD_STREAM" in entry]
    assert b"".join(entry["MESSAGE"] + (b"" if "_LINE_BREAK" in entry else b"\n") for entry in entries) == data
    assert ctl.bytes("output", "-o", "cat") == data + b"\n"
    found = [json.loads(line) for line in ctl.out("output", "-o", "json").splitlines()]
    messages = [m.encode() if isinstance(m, str) else bytes(m) for m in (each["MESSAGE"] for each in found)]
    assert b"\n".join(messages[:-1]) == data
    assert found[-1]["PAPAD_EXIT_CODE"] == "0"
    assert not {*ctl.bytes("output")} & ({*range(32)} - {10, 9} | {127, 255})
    assert ctl.out("output", "--json") == ctl.out("output", "-o", "json")


def test_what_was_overwritten_is_said_first(ctl: Papactl) -> None:
    ctl.out("make", "process", "p", "--bufsize", "100", "--", "/bin/sh", "-c", "seq 1000 1099")
    ctl.ends("p")
    lost = ctl.described("p")["lost"]
    assert lost == 400
    assert texts(ctl.out("output", "p"))[:2] == ["p: -- 400 bytes lost --", "p: 1080"]
    assert texts(ctl.out("output", "p", "-n", "20"))[0] == "p: -- 400 bytes lost --"


def test_follow_shows_ten_lines_then_what_comes_and_processes_made_later(ctl: Papactl, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    ctl.out("make", "process", "w.1", "--", "/bin/sh", "-c", f"seq 15; mkfifo {fifo}; exec cat <>{fifo}")
    wait_until(fifo.exists, "the fifo")
    wait_until(lambda: ctl.described("w.1")["captured"] == 36, "15 lines")
    with ctl.running("output", "-f", "w.*") as popen, open(fifo, "w") as writer:
        assert [line_of(popen)[16:] for _ in range(10)] == [f"w.1: {n}" for n in range(6, 16)]
        writer.write("be")
        writer.flush()
        wait_until(lambda: ctl.described("w.1")["captured"] == 38, "the beginning of a line")
        ctl.out("make", "process", "other", "--", "/bin/echo", "no")
        ctl.out("make", "process", "w.2", "--", "/bin/echo", "new")
        assert [line_of(popen)[16:] for _ in range(2)] == ["w.2: new", "w.2: -- ended with exit code 0 --"]
        writer.write("gun\npart")
        writer.flush()
        assert line_of(popen)[16:] == "w.1: begun"
        wait_until(lambda: ctl.described("w.1")["captured"] == 46, "the beginning of another")
        ctl.out("make", "process", "w.3", "--", "/bin/true")
        assert line_of(popen)[16:] == "w.3: -- ended with exit code 0 --"
        status, out, err = interrupted(popen)
        assert (status, texts(out.decode()), err) == (130, ["w.1: part"], b"")


def test_follow_of_a_name_that_is_still_to_come(ctl: Papactl) -> None:
    with ctl.running("output", "-f", "later", "-o", "cat") as popen:
        wait_until(lambda: json.loads(ctl.daemon.ask("describe server"))["connections"] > 1, "it is connected")
        ctl.out("make", "process", "later", "--", "/bin/echo", "here")
        assert line_of(popen) == "here"
        assert interrupted(popen)[0] == 130


WRITER = """import os, sys, time
for line in sys.stdin.buffer:
    os.write(1, line[:10]); time.sleep(0.003); os.write(2, b"e" + line); time.sleep(0.003); os.write(1, line[10:])
os.write(1, b"no end")"""


@pytest.mark.parametrize("count", ["all", "500"])
def test_a_follow_that_is_cut_anywhere_prints_every_line_once(ctl: Papactl, tmp_path: Path, count: str) -> None:
    """With a number of lines, many cuts are in what it begins with."""
    fifo = tmp_path / "fifo"
    subprocess.run(["mkfifo", fifo], check=True)
    ctl.out("make", "process", "w", "--", "/bin/sh", "-c", f'exec "$0" -c "$1" <{fifo}', sys.executable, WRITER)
    lines = [f"line {n:03} é😀" for n in range(200)]
    with Relay(tmp_path / "relay", ctl.daemon.path) as relay, open(fifo, "w") as writer:
        relay.budgets = [*range(50, 2000, 97), *range(1900, 2200, 7)]
        with ctl.running("--socket", relay.path, "output", "-f", "-n", count, "-o", "cat", "w") as popen:
            for number, line in enumerate(lines):
                print(line, file=writer, flush=True)
                if number < 100:
                    wait_until(lambda n=number: ctl.described("w")["captured"] >= 33 * n, "it is captured")  # type: ignore[misc]
            writer.close()
            out = [line_of(popen) for _ in range(401)]
        assert relay.connections > 20
    assert [line for line in out if line[0] == "l"] == lines
    assert [line for line in out if line[0] == "e"] == [f"e{line}" for line in lines]
    assert "no end" in out


def test_follow_since(ctl: Papactl) -> None:
    ctl.runs("p", "seq 20")
    with ctl.running("output", "-f", "-S", "-1h", "-o", "cat") as popen:
        assert [line_of(popen) for _ in range(20)] == [str(n) for n in range(1, 21)]


def test_wrong_options(ctl: Papactl) -> None:
    for words, message in (
        (("-f", "-r"), "use either --reverse or --follow, not both"),
        (("-n-5",), "--lines must be"),
        (("-g", "("), "--grep: invalid regular expression"),
        (("-S", "soon"), "invalid time: 'soon'"),
        (("-o", "verbose"), "--output must be one of: short, "),
        (("--stream", "both"), "--stream must be one of: out, err"),
    ):
        done = ctl("output", *words)
        assert (done.status, done.out) == (2, "")
        assert message in done.err


@pytest.mark.parametrize("option", ["-u", "--unit=x", "-t", "-b", "-x", "-k", "--no-tail", "-F", "-D"])
def test_an_option_of_journalctl_that_is_not_here_gets_an_answer(ctl: Papactl, option: str) -> None:
    status, out, err = ctl("output", option)
    assert (status, out) == (2, "")
    assert err.startswith(f"papactl: error: unknown option {option.partition('=')[0]}\n")
    assert "papactl help output" not in err


def test_a_reader_that_has_seen_enough_is_no_error(ctl: Papactl) -> None:
    ctl.runs("p", "seq 100000")
    for options in ("-o cat", "-o cat -f -n all", "-o cat -r", "-o cat -n 50000"):
        status, out, err = shell(ctl, f"PAPACTL output {options} | head -1")
        assert (status, out.strip().isdecimal(), err) == (0, True, "")


def test_a_follow_ends_with_its_reader_though_nothing_comes(ctl: Papactl) -> None:
    """As in `papactl output -f | grep -m1 ready`."""
    ctl.out("make", "process", "p", "--", "/bin/sh", "-c", "echo ready; exec sleep 600")
    assert shell(ctl, "PAPACTL output -f -o cat | grep -m1 ready") == (0, "ready\n", "")


def test_a_full_disk_is_an_error(ctl: Papactl) -> None:
    ctl.runs("p", "seq 10")
    for options in ("", "-f", "-n 1", "-o export"):
        assert shell(ctl, f"PAPACTL output {options} >/dev/full") == (
            1,
            "",
            "papactl: cannot write: No space left on device\n",
        )


def test_a_closed_standard_output_is_an_error(ctl: Papactl) -> None:
    ctl.runs("p", "seq 10")
    for options in ("", "-f", "-g nothing"):
        status, out, err = shell(ctl, f"PAPACTL output {options} >&-")
        assert (status, out) == (1, "")
        assert err.startswith("papactl: standard output is closed")


def shell(ctl: Papactl, command: str) -> tuple[int, str, str]:
    """What a shell makes of a command line with PAPACTL in it."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace("PAPACTL", shlex.join(COMMAND))],
        env=environment(**ctl.env),
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stdout, done.stderr


def test_ctrl_c_while_waiting_is_130_and_silent(ctl: Papactl) -> None:
    ctl.out("make", "process", "p", "--", "/bin/sh", "-c", "echo hi; sleep 600")
    for words in (("output", "-f", "p"), ("watch", "p")):
        with ctl.running(*words) as popen:
            assert line_of(popen)
            assert interrupted(popen) == (130, b"", b"")
