"""`papactl output`, option by option, on a real papad."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.ctl.support import Papactl, Terminal, interrupted, line_of
from tests.ctl.test_lines import read_export
from tests.unit.support import wait_until


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
    assert ctl.out("output", "-n0") == ""


def test_since_and_until(ctl: Papactl) -> None:
    ctl.runs("old", "echo old")
    between = time.time()
    ctl.runs("new", "echo new")
    assert ctl.out("output", "-o", "cat", "-S", f"@{between:.6f}") == "new\n"
    assert ctl.out("output", "-o", "cat", "-U", f"@{between:.6f}") == "old\n"
    assert ctl.out("output", "-o", "cat", "-S", "-1h", "--until", "now") == "old\nnew\n"
    assert ctl.out("output", "-o", "cat", "-S", "yesterday", "-U", "1 h ago") == ""
    assert ctl.out("output", "-o", "cat", "--since=today", "-n1") == "new\n"


def test_grep_has_smart_case(ctl: Papactl) -> None:
    ctl.runs("p", "echo Error one; echo error two; echo fine")
    assert ctl.out("output", "-o", "cat", "-g", "error") == "Error one\nerror two\n"
    assert ctl.out("output", "-o", "cat", "-g", "Error") == "Error one\n"
    assert ctl.out("output", "-o", "cat", "--grep", "^e.*o$", "-n1") == "error two\n"
    assert ctl.out("output", "-o", "cat", "-g", "one", "-n1") == "Error one\n"


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
    assert texts(
        ctl.out("output", "p", "-f", "-n", "all", "-U", "yesterday") if False else ctl.out("output", "p", "-n", "20")
    )[0] == ("p: -- 400 bytes lost --")


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


def test_follow_since(ctl: Papactl) -> None:
    ctl.runs("p", "seq 20")
    with ctl.running("output", "-f", "-S", "-1h", "-o", "cat") as popen:
        assert [line_of(popen) for _ in range(20)] == [str(n) for n in range(1, 21)]


def test_on_a_terminal_with_colour_and_pager(ctl: Papactl, tmp_path: Path) -> None:
    ctl.runs("p", "echo fine; printf 'bad\\033[2J\\n' >&2")
    status, text = Terminal("output", "p", "--no-pager", **ctl.env).rest()
    assert status == 0
    assert "p: fine\n" in text
    assert "p: \x1b[31mbad\\x1b[2J\x1b[0m\n" in text
    assert "\x1b" not in Terminal("output", "p", "--no-pager", NO_COLOR="1", **ctl.env).rest()[1]
    status, text = Terminal("output", "p", PAPAD_PAGER="sed 's/^/> /'", PAGER="false", **ctl.env).rest()
    assert status == 0
    assert all(line.startswith("> ") for line in text.splitlines())
    assert len(text.splitlines()) == 3
    assert Terminal("output", "p", PAGER="exit 0; cat", **ctl.env).rest() == (0, "")
    assert Terminal("output", "-S", "now", PAGER="", **ctl.env).rest() == (0, "-- No entries --\n")
    assert "\x1b" not in ctl.out("output", "p")


def test_the_pager_gets_ctrl_c_for_itself(ctl: Papactl) -> None:
    ctl.runs("p", "echo hi")
    terminal = Terminal("output", PAGER="trap 'echo caught; exit' INT; cat; echo ready; sleep 30 & wait", **ctl.env)
    terminal.until("ready")
    terminal.type("\x03")
    terminal.until("caught")
    assert terminal.rest()[0] == 0


def test_wrong_options(ctl: Papactl) -> None:
    for words, message in (
        (("-f", "-r"), "--reverse or --follow, not both"),
        (("-n-5",), "--lines must be"),
        (("-g", "("), "--grep: not a regular expression"),
        (("-S", "soon"), "not a time: 'soon'"),
        (("-o", "verbose"), "--output must be one of: short, "),
        (("--stream", "both"), "--stream must be one of: out, err"),
    ):
        done = ctl("output", *words)
        assert (done.status, done.out) == (2, "")
        assert message in done.err


def test_a_reader_that_has_seen_enough_is_no_error(ctl: Papactl) -> None:
    ctl.runs("p", "seq 100000")
    for words in (("output",), ("output", "-f", "-n", "all"), ("output", "-o", "json")):
        with ctl.running(*words) as popen:
            assert line_of(popen)
            assert popen.stdout is not None
            popen.stdout.close()
            assert popen.stderr is not None
            if "-f" in words:
                ctl.out("make", "process", f"q{time.time()}", "--", "/bin/echo", "news")
            assert popen.stderr.read() == b""
            assert popen.wait(10) == 0


def test_a_full_disk_is_an_error(ctl: Papactl) -> None:
    ctl.runs("p", "seq 10")
    with open("/dev/full", "w") as full:
        from tests.ctl.support import COMMAND, environment

        done = subprocess.run(
            [*COMMAND, "output"], env=environment(**ctl.env), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"papactl: cannot write: No space left on device\n")


def test_ctrl_c_while_waiting_is_130_and_silent(ctl: Papactl) -> None:
    ctl.out("make", "process", "p", "--", "/bin/sh", "-c", "echo hi; sleep 600")
    for words in (("output", "-f", "p"), ("watch", "p")):
        with ctl.running(*words) as popen:
            assert line_of(popen)
            assert interrupted(popen) == (130, b"", b"")
