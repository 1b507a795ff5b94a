"""Commands and their answers, as text and as JSON; exit statuses; what arrives of words with anything in them."""

from __future__ import annotations

import json
import os
import pwd
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from papad import Papa, __version__
from tests.ctl.support import Papactl, environment, interrupted, line_of, not_found, papactl
from tests.support.papad import Daemon


def test_sockets(ctl: Papactl, papad: Daemon) -> None:
    made = ctl.out("make", "socket", "web", "--port", "0", "--backlog", "9")
    assert made.startswith("web family=inet type=stream backlog=9 host=127.0.0.1 port=")
    assert ctl.out("list", "sockets") == made == papad.ask("list sockets") + "\n"
    assert ctl.out("make", "socket", "web", "backlog=9") == made
    (found,) = ctl.json("list", "sockets", "w*", "--json")
    assert (found["name"], found["backlog"], found["waiting"]) == ("web", 9, 0)
    assert ctl.out("remove", "socket", "web") == ""
    assert ctl.out("list", "sockets") == ""


def test_every_socket_option(ctl: Papactl, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    made = ctl.out("make", "socket", "u", "--family=unix", "--type=stream", "--path", path, "--umask", "077")
    assert made.startswith(f"u family=unix type=stream backlog=4096 path={path} umask=63 fileno=")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert "umask: 0077\n" in ctl.out("describe", "sockets", "u")
    assert ctl("make", "socket", "v", "--path", path, "--umask", "9").err.startswith(
        "papactl: error: --umask must be an octal"
    )
    made = ctl.out("make", "socket", "i", "--host", "127.0.0.2", "--reuseport", "--type", "stream")
    assert "host=127.0.0.2" in made
    assert "reuseport=1" in made
    assert "interface=lo" in ctl.out("make", "socket", "l", "--interface", "lo")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_socket_for_the_web_server_alone(ctl: Papactl, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    user = pwd.getpwnam("www-data")
    words = ["make", "socket", "u", "--path", path, "--mode", "0660", "--owner", "www-data:"]
    made = ctl.out(*words)
    assert f" path={path} mode=0660 owner={user.pw_uid}:{user.pw_gid} fileno=" in made
    status = os.stat(path)
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o660, user.pw_uid, user.pw_gid)
    os.kill(ctl.daemon.pid, signal.SIGKILL)
    assert ctl.out("list", "sockets", "u") == made
    assert ctl.out(*words) == made
    assert ctl.out("make", "socket", "u", f"path={path}", "mode=660", f"owner={user.pw_uid}:{user.pw_gid}") == made
    assert "  mode: 0660\n" in ctl.out("describe", "sockets", "u")
    (found,) = ctl.json("describe", "sockets", "u", "--json")
    assert (found["mode"], found["owner"]) == ("0660", f"{user.pw_uid}:{user.pw_gid}")
    with Papa(ctl.daemon.path) as papa:
        assert papa.make_socket("u", path=path, mode=0o660, owner="www-data:") == papa.list_sockets("u")["u"]
    assert ctl("make", "socket", "u", "--path", path, "--mode", "660").err.startswith(
        f"papactl: Socket for u has already been created - {made.rstrip()}"
    )
    assert ctl("make", "socket", "v", "--path", path, "--mode", "0680").err == (
        'papactl: mode must be an octal number from 0 to 0777, such as 0660, not "0680"\n'
    )
    ctl.out("remove", "socket", "u")
    assert not os.path.exists(path)


def test_a_process_gets_exactly_what_was_said(ctl: Papactl) -> None:
    arguments = ["two\nlines", "", " blank ", "a=b", "back\\", '"quoted"', "--watch", "-n", "ü%20"]
    options = ["--env", "A=1\n2", "--env=B=", "env.C==", "--rlimit", "nofile=77", "--working-dir", "/tmp"]
    options += ["--bufsize", "64k", "--stderr", "stdout", "--stdout=1"]
    ctl.out("make", "process", "p", *options, "--", "/bin/echo", *arguments)
    ctl.ends("p")
    (found,) = ctl.json("list", "processes", "--json")
    assert found["args"] == ["/bin/echo", *arguments]
    assert found["env"] == {"A": "1\n2", "B": "", "C": "="}
    assert found["rlimits"] == {"nofile": 77}
    assert (found["working_dir"], found["bufsize"], found["stderr"], found["code"]) == ("/tmp", 65536, "stdout", 0)


def test_a_command_for_the_shell_is_what_was_typed(ctl: Papactl) -> None:
    for name, words, said in (
        ("a", ["echo", "a", "b"], "a b\n"),
        ("b", ["FOO=1 sh -c 'echo $FOO'"], "1\n"),
        ("c", ["bufsize=2k", "i=0; echo $i"], "0\n"),
    ):
        ctl.out("make", "process", name, "--shell", *words)
        ctl.ends(name)
        assert ctl.out("output", name, "-o", "cat") == said
    assert ctl.described("c")["bufsize"] == 2048


def test_no_limit_is_called_infinity(ctl: Papactl) -> None:
    ctl.out("make", "process", "p", "--rlimit", "core=infinity", "--rlimit", "stack=unlimited", "/bin/true")
    assert ctl.described("p")["rlimits"] == {"core": -1, "stack": -1}


def test_values_from_standard_input_and_no_value_by_mistake(ctl: Papactl) -> None:
    text = "a\n\n ä" * 50_000
    assert ctl("set", "v", "-", stdin=text + "\n") == (0, "", "")
    assert ctl.out("get", "v") == text + "\n"
    for words, hint in ((["v"], "To clear it: papactl remove values v"), (["v=5"], "Did you mean: papactl set v 5")):
        done = ctl("set", *words, stdin="lost")
        assert done == (2, "", f"papactl: error: set {words[0]} needs a value\n{hint}\n")
    assert ctl.out("get", "v") == text + "\n"
    ctl.out("set", "v", "")
    assert ctl("get", "v") == (1, "", "papactl: there is no value v; papactl list values shows them all\n")
    assert ctl("get", "v", "--json").status == 1


def test_the_users_options_end_where_the_command_begins(ctl: Papactl) -> None:
    ctl.out("make", "process", "-d", "/tmp", "p", "bufsize=2k", "/bin/ls", "-d", "/", "--", "x=y")
    assert ctl.described("p")["args"] == ["/bin/ls", "-d", "/", "--", "x=y"]
    assert ctl.described("p")["working_dir"] == "/tmp"


def test_shell_uid_and_listen(ctl: Papactl) -> None:
    ctl.out("make", "socket", "web")
    ctl.out(
        "make",
        "process",
        "p",
        "--shell",
        "--uid",
        "0",
        "--gid",
        "0",
        "--listen",
        "web",
        "--",
        "echo $LISTEN_FDS $LISTEN_FDNAMES",
    )
    ctl.ends("p")
    assert ctl.out("output", "p", "-o", "cat") == "1 web\n"


def test_values(ctl: Papactl) -> None:
    for value in ("one  two", "a\nb", " ends with blanks  ", "é"):
        assert ctl.out("set", "v", value) == ""
        assert ctl.out("get", "v") == value + "\n"
        assert ctl.json("get", "v", "--json") == [{"name": "v", "value": value}]
    ctl.out("set", "w", "two", "words")
    assert ctl.out("list", "values", "w") == "w two words\n"
    ctl.out("set", "w", "")
    assert ctl.out("list", "values", "w") == ""
    ctl.out("remove", "values", "v")
    assert ctl.out("list", "values", "--json") == ""


def test_words_may_be_abbreviated_and_singular_or_plural(ctl: Papactl) -> None:
    made = ctl.out("m", "s", "web")
    for words in (("l", "s"), ("list", "socket"), ("li", "sockets"), ("list", "so")):
        assert ctl.out(*words) == made
    ctl.out("make", "processes", "p", "/bin/true")
    assert ctl.out("list", "process").startswith("p pid=")


def test_options_are_understood_anywhere_before_the_end(ctl: Papactl, papad: Daemon) -> None:
    made = ctl.out("make", "socket", "web")
    for words in (("--socket", papad.path, "list", "sockets"), ("list", "--socket=" + papad.path, "sockets")):
        done = papactl(*words)
        assert (done.status, done.out) == (0, made)
    assert papactl("--port", str(papad.port), "l", "s", "--", "web").out == made
    assert papactl("--port", str(papad.port), "make", "socket", "web", "--port", "0").out == made


def test_describe_for_people_and_for_programs(ctl: Papactl, papad: Daemon) -> None:
    ctl.out("make", "socket", "web")
    ctl.runs("p", "exit 3")
    text = ctl.out("describe", "processes", "p")
    assert "        name: p\n" in text
    assert "        code: 3\n" in text
    assert "        args: /bin/sh -c 'exit 3'\n" in text
    for kind in ("sockets", "processes", "values"):
        assert ctl.json("describe", kind, "--json") == [
            json.loads(line) for line in papad.ask(f"describe {kind}").splitlines()
        ]
    (server,) = ctl.json("describe", "server", "--json")
    assert server["pid"] == papad.pid


def test_status_is_one_screen_about_everything(ctl: Papactl, papad: Daemon) -> None:
    ctl.out("make", "socket", "web")
    ctl.out("make", "process", "p.sleeps", "/bin/sleep", "600")
    ctl.runs("p.fails", "printf 12345; exit 3")
    ctl.runs("p.dies", "kill -9 $$")
    lines = ctl.out("status").splitlines()
    assert lines[0] == f"● papad {__version__} at {papad.path} ($PAPAD_SOCKET)"
    assert f"    pid {papad.pid}, nursery {papad.nursery}; up " in lines[1]
    assert lines[2] == "    1 socket, 3 processes (1 running), 0 values, 1 connection"
    rows = {line.split()[0]: line for line in lines[5:] if line}
    assert "127.0.0.1:" in rows["web"]
    assert rows["PROCESS"].split() == ["PROCESS", "PID", "STATE", "SINCE", "CPU", "MEMORY", "BUFFERED", "LOST"]
    assert " running " in rows["p.sleeps"]
    assert " ended with exit code 3 " in rows["p.fails"]
    assert " 5 B " in rows["p.fails"]
    assert " killed by SIGKILL " in rows["p.dies"]
    (everything,) = ctl.json("status", "--json")
    assert [each["name"] for each in everything["processes"]] == ["p.dies", "p.fails", "p.sleeps"]
    assert everything["sockets"][0]["name"] == "web"
    assert "web " not in ctl.out("status", "p.f*")


def test_watch_prints_acknowledges_and_ends_when_nothing_is_left(ctl: Papactl) -> None:
    ctl.runs("p", "echo one; echo two >&2; printf three; exit 5")
    lines = [line[16:] for line in ctl.out("watch", "p").splitlines()]
    assert sorted(lines[:3]) == ["p: one", "p: three", "p: two"]
    assert lines[3:] == ["p: -- ended with exit code 5 --"]
    assert ctl.out("list", "processes", "p") == ""
    ctl.runs("p", "echo again")
    assert ctl.out("watch", "processes", "p", "-o", "cat") == "again\n"


def test_watch_shows_the_beginning_of_a_line_at_once_and_its_rest_beside_it(ctl: Papactl, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    ctl.out(
        "make",
        "process",
        "p",
        "--",
        "/bin/sh",
        "-c",
        f"mkfifo {fifo}; printf 'Name? '; read name <{fifo}; echo Hello $name",
    )
    with ctl.running("watch", "p") as popen:
        assert popen.stdout is not None
        shown = b""
        while not shown.endswith(b"p: Name? "):
            shown += popen.stdout.read(1)
        fifo.write_text("you\n")
        assert line_of(popen) == "Hello you"
        assert line_of(popen).endswith("p: -- ended with exit code 0 --")
        assert popen.wait(10) == 0


def test_watch_begun_with_the_process(ctl: Papactl) -> None:
    for words in (["--watch"], ["watch=1"]):
        lines = ctl.out("make", "process", "p", *words, "/bin/sh", "-c", "echo hi").splitlines()
        assert lines[0].startswith("p pid=")
        assert [line.partition(" p: ")[2] for line in lines[1:]] == ["hi", "-- ended with exit code 0 --"]
    assert ctl("make", "process", "p", "-w", "/bin/sh", "-c", "exit 7").status == 7
    assert ctl("make", "process", "p", "-w", "/bin/sh", "-c", "kill -9 $$").status == 128 + 9


def test_watch_tells_what_is_missing(ctl: Papactl) -> None:
    ctl.out("make", "process", "p", "--bufsize", "10", "--", "/bin/echo", "0123456789abcdef")
    ctl.ends("p")
    assert [line[19:] for line in ctl.out("watch", "p").splitlines()] == [
        "-- 10 bytes lost --",
        "abcdef",
        "-- ended with exit code 0 --",
    ]


def test_a_watch_that_falls_behind_tells_how_much_it_never_got(ctl: Papactl) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done"
    ctl.out("make", "process", "p", "--bufsize", "64", "--", "/bin/sh", "-c", script)
    shown = ctl.out("watch", "p", "-o", "short")
    lost = sum(int(line.split()[-4]) for line in shown.splitlines() if line.endswith(" bytes lost --"))
    total = sum(len(f"{i}\n") for i in range(20000))
    assert shown.endswith(" p: -- ended with exit code 0 --\n")
    assert 0 < lost < total


def test_an_interrupted_watch_says_that_the_process_runs_on(ctl: Papactl) -> None:
    with ctl.running("make", "process", "p", "-w", "/bin/sh", "-c", "echo hi; sleep 600") as popen:
        line_of(popen)
        assert line_of(popen).endswith("hi")
        assert interrupted(popen) == (130, b"p keeps running; to see more: papactl output -f p\n", b"")


def test_a_process_that_is_removed_runs_on(ctl: Papactl) -> None:
    pid = ctl.json("make", "process", "p", "--json", "/bin/sleep", "600")[0]["pid"]
    assert ctl.out("remove", "processes", "p") == (
        f"p is still running (pid {pid}), for papad ends no process; its output is discarded from now on, and its name is "
        "free once it exits\n"
    )


def test_errors_of_papad_are_1(ctl: Papactl) -> None:
    assert ctl("remove", "sockets", "nothing") == (1, "", not_found("nothing"))
    assert ctl("output", "nothing") == (1, "", not_found("nothing"))
    assert ctl("watch", "nothing*") == (1, "", "papactl: Nothing to watch\n")
    assert ctl("make", "socket", "x", "backlog=many").status == 1
    ctl.out("make", "socket", "x")
    done = ctl("exit-if-idle")
    assert (done.status, done.err) == (1, "papactl: not idle: papad still holds something; papactl status shows what\n")


@pytest.mark.parametrize("words", [("set", ""), ("get", ""), ("make", "socket", ""), ("watch", "")])
def test_an_empty_word_is_answered_too(ctl: Papactl, words: tuple[str, ...]) -> None:
    done = ctl(*words)
    assert "in time" not in done.err
    assert done.status in (1, 2) or words[:2] == ("make", "socket")


def test_help_and_version_need_no_papad() -> None:
    for words in (
        ("help",),
        ("--help",),
        ("-h",),
        ("help", "help"),
        ("output", "--help"),
        ("--version",),
        ("list", "-h"),
    ):
        done = papactl(*words, PAPAD_SOCKET="/nonexistent")
        assert done.status == 0
        assert done.err == ""
        assert "papactl" in done.out
    assert papactl("make", "process", "--help").out == papactl("help", "m", "p").out
    assert papactl("help", "list").out.count("papactl list ") == 3
    assert papactl("make", "--help").out == papactl("help", "make").out


def test_it_starts_about_as_fast_as_python(ctl: Papactl) -> None:
    """A ratio, as machines differ: the processor time of python that does nothing, and of papactl with an answer from papad."""

    def seconds(*command: str) -> float:
        taken = []
        for _ in range(7):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, env=environment(**ctl.env), stdout=subprocess.DEVNULL, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(taken)

    floor = seconds(sys.executable, "-c", "pass")
    main = "from papad.ctl import main; main()"
    assert seconds(sys.executable, "-c", main, "--version") < 4 * floor
    assert seconds(sys.executable, "-c", main, "list", "processes") < 4 * floor
