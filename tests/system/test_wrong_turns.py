"""Somebody who has read no manual, at an installed papad: each wrong turn, and what is said to it, word for word."""

from __future__ import annotations

import re

from tests.ctl.test_wrong_turns import TURNS
from tests.system.machine import Machine
from tests.system.papad import Papad

TRANSCRIPT = """
$ papactl make process x -- nosuch --flag
papactl: Bad command - [Errno 2] No such file or directory: 'nosuch'
make process takes a name, then the command. papad looks it up in the PATH of --env, or else in /bin and /usr/bin
[1]

$ papactl make process sleep 5
papactl: Bad command - [Errno 2] No such file or directory: '5'
make process takes a name, then the command. papad looks it up in the PATH of --env, or else in /bin and /usr/bin
[1]

$ papactl make process x -u nobody-of-that-name -- /bin/true
papactl: 'nobody-of-that-name' is not a valid user name
[1]

$ papactl make process x -d /nosuch -- /bin/true
papactl: Bad working_dir - [Errno 2] No such file or directory: '/nosuch'
--working-dir must exist and be accessible to the --uid user
[1]

$ papactl make process x -d relative -- /bin/true
papactl: working_dir must be an absolute path, not "relative"
[1]

$ papactl make process x --rlimit nofile=many -- /bin/true
papactl: The rlimit value for "nofile" must be an integer, not "many"
For example: --rlimit nofile=4096, --rlimit as=2g, --rlimit core=0:infinity
[1]

$ papactl make process x --rlimit files=1 -- /bin/true
papactl: Unknown rlimit "files"
Use a name from setrlimit(2), in lower case: nofile, nproc, core, as, cpu, data, fsize, memlock, stack ...
[1]

$ papactl make process x FOO=1 -- /bin/true
papactl: Unknown option "FOO". Type "papactl help make process"
To set an environment variable: --env FOO=VALUE
[1]

$ papactl make process x --listen web -- /bin/true
papactl: Socket web not found
To make it: papactl make socket web
[1]

$ papactl make process x -- /bin/echo '$(socket.web.port)'
papactl: Socket web not found
To make it: papactl make socket web
[1]

$ papactl make process x -- /bin/nosuch --flag
papactl: Bad command - [Errno 2] No such file or directory: '/bin/nosuch'
make process takes a name, then the command. Neither this file nor the interpreter in its first line may be missing
[1]

$ papactl make socket any --host 0.0.0.0:80
papactl: Cannot resolve host 0.0.0.0:80 as an address of this family
The port has an option of its own: --host 0.0.0.0 --port 80
[1]

$ papactl make socket six --family inet --host ::
papactl: Cannot resolve host :: as an address of this family
An IPv6 address needs --family inet6
[1]

$ papactl make socket web --port 8080
web family=inet type=stream backlog=4096 host=127.0.0.1 port=8080 fileno=64

$ papactl make socket other --port 8080
papactl: Bind failed on 127.0.0.1:8080: [Errno 98] Address already in use
ss -ltnp shows which process uses it. A process that has inherited a removed socket keeps it until it exits
[1]

$ papactl make socket web --port 8081
papactl: Socket for web has already been created - web family=inet type=stream backlog=4096 host=127.0.0.1 port=8080 fileno=64
To replace it: papactl remove sockets web, then this again; processes that have it keep the old one
[1]

$ papactl make process holder -- /bin/sleep 600
holder pid=N running=True started=N args=/bin/sleep 600

$ papactl make process holder -- /bin/sleep 601
papactl: Process for holder has already been created - holder pid=N running=True started=N args=/bin/sleep 600 - it differs in args: /bin/sleep 601 instead of /bin/sleep 600
The name is free once the process has ended and was watched to its end, or is removed: papactl remove processes holder
[1]

$ papactl remove sockets web
web stays open until those exit that have it: sleep (pid N)

$ papactl make socket web --port 8080 --backlog 100
papactl: Bind failed on 127.0.0.1:8080: [Errno 98] Address already in use
ss -ltnp shows which process uses it. A process that has inherited a removed socket keeps it until it exits
[1]

$ papactl remove processes holder
holder is still running (pid N), for papad ends no process; its output is discarded from now on, and its name is free once it exits

$ papactl make process holder -- /bin/sleep 600
papactl: Process for holder has already been created - holder pid=N running=True started=N args=/bin/sleep 600 - it was removed and still runs (pid N); the name is free once it has ended
papad never stops a process. To end it: kill N
[1]

$ papactl output nosuch
papactl: nosuch not found
Nothing was done. papactl status shows the names; a process that was watched to its end is forgotten
[1]

$ papactl watch nosuch
papactl: nosuch not found
Nothing was done. papactl status shows the names; a process that was watched to its end is forgotten
[1]

$ papactl status nosuch
papactl: no process matches nosuch; papactl list processes shows them all
[1]

$ papactl get nosuch
papactl: there is no value nosuch; papactl list values shows them all
[1]

$ papactl set release 5

$ papactl set release
papactl: error: set release needs a value
To clear it: papactl remove values release
[2]

$ papactl get release
5

$ papactl remove values '*'
papactl: You cannot remove all variables
Name the values, or give a prefix of their names: papactl remove values 'release*'
[1]

$ papactl exit-if-idle
papactl: not idle: papad still holds something; papactl status shows what
[1]

$ papactl e
papactl: error: unknown command 'e'
papactl help lists the commands
[2]
"""  # noqa: E501 - word for word


def said(machine: Machine, typed: str) -> str:
    """What a command prints, the numbers that differ each time left out, and a status that is not 0."""
    done = machine.run("sh", "-c", typed.removeprefix("$ "), check=False)
    text = re.sub(r"(pid[= ]|started=|kill )[\d.]+", r"\1N", done.stdout + done.stderr)
    return text + (f"[{done.returncode}]\n" if done.returncode else "")


def test_those_that_need_no_papad(machine: Machine, papad: Papad) -> None:
    typed, expected = [turn[0] for turn in TURNS], [turn[2].strip("\n") + "\n[2]\n" for turn in TURNS]
    assert [said(machine, each) for each in typed] == expected


def test_those_that_papad_answers(machine: Machine, papad: Papad) -> None:
    turns = [turn.partition("\n") for turn in TRANSCRIPT.strip().split("\n\n")]
    found = [f"{typed}\n{said(machine, typed)}" for typed, _, _ in turns]
    assert "\n".join(found) == TRANSCRIPT.lstrip("\n")
