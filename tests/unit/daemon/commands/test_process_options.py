"""The options of a process: what they take, and what each of them makes of a process, on a real papad."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path

import pytest

from papad.daemon.commands.process_options import PROCESS_OPTIONS
from tests.support.papad import Daemon, Talk
from tests.support.talks import Records, make, text, watch

PARSERS = {option.name: option.parse for option in PROCESS_OPTIONS}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("umask", "027", 0o27),
        ("umask", "0", 0),
        ("umask", "777", 0o777),
        ("nice", "-20", -20),
        ("nice", "19", 19),
        ("stderr", "stdout", "stdout"),
        ("stderr", "0", 0),
    ],
)
def test_values_are_taken(name: str, text: str, value: object) -> None:
    assert PARSERS[name](text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("umask", text) for text in ("8", "1000", "-1", "", "0o7", "\u00b2")),
        *(("nice", text) for text in ("20", "-21", "--1", "", "x")),
        ("stderr", "2"),
    ],
)
def test_other_values_are_refused(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"number|0, 1 or stdout"):
        PARSERS[name](text)


def said(talk: Talk, options: str, script: str) -> str:
    """What a shell script says that runs with these options."""
    make(talk, "x", options, "/bin/sh", "-c", script)
    records: Records = watch(talk, "x")
    assert text(records, "err") == b""
    return text(records, "out").decode()


def test_umask_and_niceness_are_those_that_were_asked_for(talk: Talk) -> None:
    assert said(talk, "", "umask") == "0022\n"
    assert said(talk, "umask=027 nice=7", "umask; exec /usr/bin/nice") == "0027\n7\n"


def test_variables_of_a_file_come_before_those_of_the_login_and_after_those_given(
    talk: Talk, papad: Daemon, tmp_path: Path
) -> None:
    file = tmp_path / "env"
    file.write_text("A=file\nB='of the file'\nUSER=file\n")
    user = pwd.getpwuid(os.geteuid())
    line = f"env_file={file} login_env=1 env.A=given"
    script = "echo $A,$B,$USER,$LOGNAME,$HOME,$SHELL"
    expected = f"given,of the file,file,{user.pw_name},{user.pw_dir},{user.pw_shell}\n"
    assert said(talk, line, script) == expected
    assert said(talk, f"env_file=-{tmp_path}/none", "echo $USER$HOME") == "\n", "nothing by itself"
    assert talk.ask(f"make process x env_file={tmp_path}/none /bin/true").startswith("Error: Cannot read env_file ")
    make(talk, "y", line, "/bin/sh", "-c", script)
    facts = json.loads(talk.ask("describe processes y"))
    assert (facts["env_file"], facts["login_env"], facts["env"]) == (str(file), True, {"A": "given"})
    file.unlink()  # the same definition is the same process: what is in the file belongs to the start
    assert f"pid={facts['pid']} " in talk.ask(f"make process y {line} /bin/sh -c {script.replace(' ', chr(92) + ' ')}")
    assert text(watch(talk, "y"), "out").decode() == expected


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start programs of other users")
def test_the_login_is_that_of_the_user_and_stdin_is_opened_as_that_user(talk: Talk, tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    script = "echo $HOME,$USER,$LOGNAME,$SHELL"
    expected = f"{nobody.pw_dir},nobody,nobody,{nobody.pw_shell}\n"
    assert said(talk, "uid=nobody login_env=1", script) == expected
    secret = tmp_path / "secret"
    secret.write_text("in\n")
    secret.chmod(0o600)
    answer = talk.ask(f"make process x uid=nobody stdin={secret} /bin/cat")
    assert answer == f"Error: Bad stdin - [Errno 13] Permission denied: '{secret}'"


def test_standard_input_is_a_file_if_one_is_given(talk: Talk, tmp_path: Path) -> None:
    file = tmp_path / "in"
    file.write_text("hello\n")
    assert said(talk, f"stdin={file}", "cat; readlink /proc/self/fd/0") == f"hello\n{file}\n"
    assert said(talk, "", "readlink /proc/self/fd/0") == "/dev/null\n"
    missing = talk.ask("make process x stdin=/no/file /bin/cat")
    assert missing == "Error: Bad stdin - [Errno 2] No such file or directory: '/no/file'"
    assert talk.ask("make process x stdin=file /bin/cat") == 'Error: stdin must be an absolute path, not "file"'


def test_limits_have_sizes_and_two_sides(talk: Talk) -> None:
    options = "rlimit.nofile=64:1k rlimit.as=2g rlimit.core=0:infinity rlimit.stack=8m"
    script = "cat /proc/self/limits"
    rows = {line[:26].strip(): line[26:].split()[:2] for line in said(talk, options, script).splitlines()}
    assert rows["Max open files"] == ["64", "1024"]
    assert rows["Max address space"] == [str(2 << 30)] * 2
    assert rows["Max core file size"] == ["0", "unlimited"]
    assert rows["Max stack size"] == [str(8 << 20)] * 2
    make(talk, "y", options, "/bin/true")
    limits = json.loads(talk.ask("describe processes y"))["rlimits"]
    assert limits == {"nofile": [64, 1024], "as": 2 << 30, "core": [0, -1], "stack": 8 << 20}
    answer = talk.ask(f"make process y umask=7 {options.replace('64:', '65:')} /bin/true")
    assert answer.endswith("it differs in rlimit.nofile: 65:1024 instead of 64:1024; umask: 007 instead of none")
    watch(talk, "y")


def test_only_root_raises_the_priority(talk: Talk) -> None:
    if os.getuid() == 0:
        assert said(talk, "nice=-5", "exec /usr/bin/nice") == "-5\n"
    else:
        assert talk.ask("make process x nice=-5 /bin/true").startswith("Error: Bad nice - ")
