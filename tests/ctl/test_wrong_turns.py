"""What somebody types who has read no manual, and what papactl says to it, word for word."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.ctl.support import Papactl, papactl

TRANSCRIPT = """
$ papactl lst
papactl: error: unknown command 'lst'
Did you mean: papactl list

$ papactl list
papactl: error: list what? sockets, processes or values
    papactl list sockets [PATTERN...]
    papactl list processes [PATTERN...]
    papactl list values [PATTERN...]

$ papactl list things
papactl: error: cannot list 'things'; list what? sockets, processes or values

$ papactl s release 1
papactl: error: ambiguous command s: status, set, signal or shell?

$ papactl describe s
papactl: error: ambiguous command describe s: sockets or server?

$ papactl make process x
papactl: error: make process needs a name, then the command to run
Try: papactl make process sleeper -- /bin/sleep 60

$ papactl make process
papactl: error: make process needs a name, then the command to run
Try: papactl make process sleeper -- /bin/sleep 60

$ papactl make process x --env FOO -- /bin/true
papactl: error: --env needs a name and a value: --env NAME=VALUE

$ papactl make process x --nonsense -- /bin/true
papactl: error: unknown option --nonsense
papactl help make process lists its options
Put the command to run, with its own options, after --

$ papactl make process x --user alice -- /bin/true
papactl: error: unknown option --user
Did you mean: --uid
Put the command to run, with its own options, after --

$ papactl make socket x --prot 80
papactl: error: unknown option --prot
Did you mean: --port

$ papactl output -u web.1
papactl: error: unknown option -u
Name processes without an option: papactl output NAME

$ papactl list sockets -q
papactl: error: unknown option -q

$ papactl make socket x --path /run/x --umask 89
papactl: error: --umask must be an octal number such as 077, not '89'

$ papactl make socket
papactl: error: a socket needs a name
Try: papactl make socket web --port 8080

$ papactl make socket web 8080
papactl: error: make socket: unexpected argument: '8080'
papactl make socket NAME [OPTION...]

$ papactl make value release 1
papactl: error: cannot make 'value'; make what? socket or process
Did you mean: papactl set NAME VALUE

$ papactl remove sockets
papactl: error: name the sockets to remove; '*' means all
Try: papactl remove sockets web

$ papactl watch
papactl: error: name the processes to watch; '*' means all
Try: papactl watch 'web.*'

$ papactl get
papactl: error: get needs the name of a value
Try: papactl get release

$ papactl stop web
papactl: error: unknown command 'stop'
Did you mean: papactl signal NAME, which sends SIGTERM; papad itself never stops or restarts a process

$ papactl start web
papactl: error: unknown command 'start'
Did you mean: papactl make process NAME -- COMMAND
or, to start papad itself: systemctl enable --now papad.socket

$ papactl create socket web
papactl: error: unknown command 'create'
Did you mean: papactl make socket NAME --port PORT, or papactl make process NAME -- COMMAND

$ papactl sockets
papactl: error: unknown command 'sockets'
Did you mean: papactl list sockets

$ papactl rename web www
papactl: error: unknown command 'rename'
papactl help lists the commands

$ papactl attach web
papactl: error: unknown command 'attach'
Did you mean: papactl output -f

$ papactl unset release
papactl: error: unknown command 'unset'
Did you mean: papactl remove values NAME

$ papactl exit
papactl: error: unknown command 'exit'
papactl exits after each command; quit works only in papactl shell. papactl exit-if-idle ends papad

$ papactl set release
papactl: error: set release needs a value
To clear it: papactl remove values release

$ papactl set release=5
papactl: error: set release=5 needs a value
Did you mean: papactl set release 5

$ papactl watch x --json
papactl: error: watch has no --json; use papactl output -f --json, which consumes nothing

$ papactl logs -f
papactl: error: unknown command 'logs'
Did you mean: papactl output

$ papactl -n 5 output
papactl: error: unknown option -n
Put the options of a command after it. papactl help lists the commands

$ papactl frobnicate
papactl: error: unknown command 'frobnicate'
papactl help lists the commands

$ papactl --port x list sockets
papactl: error: --port must be a number from 1 to 65535, not 'x'

$ papactl --port 1 --socket /x list sockets
papactl: error: use either --socket or --port, not both

$ papactl completion tcsh
papactl: error: completion needs a shell: bash, zsh or fish, not 'tcsh'

$ papactl output --lines=few
papactl: error: --lines must be a number or all, not 'few'

$ papactl -H -oProxyCommand=x status
papactl: error: invalid host: '-oProxyCommand=x'
"""

TURNS = [turn.partition("\n") for turn in TRANSCRIPT.strip().split("\n\n")]


@pytest.mark.parametrize(
    ("typed", "said"), [(typed, said) for typed, _, said in TURNS], ids=[turn[0][10:] for turn in TURNS]
)
def test_wrong_turns(typed: str, said: str) -> None:
    """None of them needs a papad."""
    done = papactl(*typed.split()[2:], PAPAD_SOCKET="/nonexistent")
    assert done == (2, "", said.strip("\n") + "\n")


def test_papactl_alone_lists_the_commands() -> None:
    done = papactl()
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("papactl: error: no command\nCommands:\n    status  ")
    assert "    make process        Launch a process\n" in done.err


def test_a_missing_double_dash_is_no_mistake(ctl: Papactl) -> None:
    assert ctl.out("make", "process", "x", "/bin/ls", "-l", "/").startswith("x pid=")
    assert ctl.described("x")["args"] == ["/bin/ls", "-l", "/"]


def test_a_variable_as_a_shell_would_have_it(ctl: Papactl) -> None:
    done = ctl("make", "process", "x", "FOO=1", "/bin/true")
    assert done.status == 1
    assert done.err.endswith("\nTo set an environment variable: --env FOO=VALUE\n")


def test_no_papad_at_the_given_place(tmp_path: Path) -> None:
    path = tmp_path / "none"
    said = f"papactl: cannot connect to papad at {path}: No such file or directory\n"
    hint = "Without --socket and --port, papactl searches for papad\n"
    assert papactl("--socket", str(path), "status") == (3, "", said + hint)
    done = papactl("status", PAPAD_SOCKET=str(path))
    assert done.status == 3
    assert (
        done.err
        == said.replace(": No", " ($PAPAD_SOCKET): No") + "Unset PAPAD_SOCKET to let papactl search for papad\n"
    )
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        done = papactl("--port", str(port), "status")
    assert (done.status, done.err) == (
        3,
        f"papactl: cannot connect to papad at 127.0.0.1:{port}: Connection refused\n{hint}",
    )


@pytest.mark.skipif(os.path.exists("/run/papad/papad.sock"), reason="a papad is installed here")
def test_no_papad_anywhere(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # an earlier test's may be in TIME_WAIT
        try:
            taken.bind(("127.0.0.1", 20202))
        except OSError:
            pytest.skip("port 20202 is in use here")
        done = papactl("status", XDG_RUNTIME_DIR=str(tmp_path))
    assert done == (
        3,
        "",
        "papactl: cannot connect to papad at 127.0.0.1:20202 (the default): Connection refused\n"
        "Searched for papad at: $PAPAD_SOCKET, which is not set\n"
        f"    {tmp_path}/papad.sock, does not exist\n"
        "    /run/papad/papad.sock, does not exist\n"
        "    127.0.0.1:20202, where nothing listens\n"
        "To start it: sudo systemctl enable --now papad.socket\n",
    )


def test_a_dead_socket_of_ones_own_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "papad.sock"))
    done = papactl("status", XDG_RUNTIME_DIR=str(tmp_path))
    assert done.status == 3
    assert f"papad at {tmp_path}/papad.sock (your own): Connection refused\n" in done.err
    assert f"    {tmp_path}/papad.sock, the one tried\n" in done.err


def test_something_else_at_the_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        import threading

        thread = threading.Thread(target=lambda: other.accept()[0].close())
        thread.start()
        port = other.getsockname()[1]
        done = papactl("--port", str(port), "status")
        thread.join()
    assert (done.status, done.err) == (
        3,
        f"papactl: 127.0.0.1:{port} is not answering like papad; is another program listening there?\n",
    )


def test_a_user_whose_own_papad_is_stopped(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "papad.sock"))
    done = papactl("status", XDG_RUNTIME_DIR=str(tmp_path))
    assert done.err.endswith("\nTo start it: systemctl --user enable --now papad.socket\n")
