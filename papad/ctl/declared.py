"""Declares the commands and options of papactl.

To add a command, declare it here, and put its function into a module of this package.
"""

from __future__ import annotations

from papad.ctl.parser import Command, Hosts, Option
from papad.protocol.options import SOCKET_OPTIONS

COMMON = (
    Option("socket", "talk to papad at this Unix socket", metavar="PATH", completes="files"),
    Option("port", "talk to papad at this port of 127.0.0.1", metavar="PORT"),
    Option(
        "host",
        "talk to papad on another machine, over ssh; give several to run on each",
        "H",
        "[USER@]HOST[:PORT]",
        repeat=True,
    ),
    Option("json", "print JSON, one object per line"),
    Option("no-pager", "do not pipe long output into a pager"),
    Option("help", "show help, or that of the given command", "h"),
    Option("version", "show the version"),
)

SHORT_FORMATS = ("short", "short-iso", "short-precise", "short-iso-precise", "short-full", "short-unix", "cat")
FORMATS = (*SHORT_FORMATS, "json", "export")

_PATTERNS = "A pattern is a name, a prefix of names followed by '*', or {}. Without patterns, all are listed."

_SOCKET_OPTIONS = tuple(
    Option(
        each.name,
        each.papactl_help,
        each.short,
        each.metavar,
        choices=each.choices,
        protocol=each.name,
        completes=each.completes,
        octal=each.octal,
    )
    for each in SOCKET_OPTIONS
)

_PROCESS_OPTIONS = (
    Option("uid", "the user, by number or name", "u", "USER", protocol="uid"),
    Option("gid", "the group, by number or name", "g", "GROUP", protocol="gid"),
    Option("working-dir", "the directory to start in", "d", "DIR", protocol="working_dir", completes="files"),
    Option("env", "set an environment variable; there are no others", "E", "NAME=VALUE", protocol="env."),
    Option(
        "rlimit", "set a resource limit, soft and hard: a number or infinity", metavar="NAME=LIMIT", protocol="rlimit."
    ),
    Option("shell", "pass the command, its words joined by spaces, to /bin/sh -c", protocol="shell"),
    Option("stdout", "0 discards it, 1 captures it (default)", metavar="0|1", choices=("0", "1"), protocol="stdout"),
    Option(
        "stderr",
        "0 discards it, 1 captures it (default), stdout merges it into stdout",
        metavar="0|1|stdout",
        choices=("0", "1", "stdout"),
        protocol="stderr",
    ),
    Option("bufsize", "the size of the output buffer, in bytes or with k, m or g", metavar="SIZE", protocol="bufsize"),
    Option(
        "listen",
        "pass this socket as systemd does, with LISTEN_FDS",
        metavar="SOCKET",
        repeat=True,
        completes="sockets",
    ),
    Option("journal", "also forward each line to the journal", protocol="journal"),
    Option(
        "again",
        "start it anew if the process of that name has ended; its output that nobody has acknowledged is dropped",
        protocol="again",
    ),
    Option("watch", "print and acknowledge its output until it ends; exit with its exit status", "w", live=True),
)

_OUTPUT_OPTIONS = (
    Option("follow", "keep showing new output as it is written", "f", live=True),
    Option("lines", "show only the newest N lines (default for N and with -f: 10)", "n", "N|+N|all", optional="10"),
    Option("since", "show lines from this time on", "S", "TIME"),
    Option("until", "show lines up to this time", "U", "TIME"),
    Option("reverse", "show the newest line first", "r"),
    Option("grep", "show lines that match this regular expression; an all lower-case one ignores case", "g", "PATTERN"),
    Option("output", "the output format: " + ", ".join(FORMATS), "o", "FORMAT", choices=FORMATS),
    Option("stream", "show only standard output or only standard error", metavar="out|err", choices=("out", "err")),
    Option(
        "priority",
        "show this level and more severe ones, or FROM..TO; standard error is err, other is info",
        "p",
        "LEVEL",
    ),
    Option("utc", "show times in UTC"),
    Option("all", "show control characters as they are", "a"),
    Option("pager-end", "start the pager at the end, with the newest 1000 lines", "e"),
    Option("quiet", "do not report that there are no entries", "q"),
)

_TIMES = "TIME is 2026-11-23 17:17:20, 2026-11-23, 17:17, @SECONDS, now, today, yesterday, or relative: -1h, -1h30min, 10 min ago."

COMMANDS = (
    Command(
        ("status",),
        "things:status",
        "status [PATTERN...]",
        "Show the server, its sockets and its processes on one screen",
        "Patterns select the processes. LOST counts bytes of output that were overwritten before they were acknowledged.",
        most=None,
        completes="processes",
    ),
    Command(
        ("list", "sockets"),
        "things:listing",
        "list sockets [PATTERN...]",
        "List sockets",
        _PATTERNS.format("a fileno"),
        most=None,
        completes="sockets",
    ),
    Command(
        ("list", "processes"),
        "things:listing",
        "list processes [PATTERN...]",
        "List processes",
        _PATTERNS.format("a pid"),
        most=None,
        completes="processes",
    ),
    Command(
        ("list", "values"), "things:listing", "list values [PATTERN...]", "List values", most=None, completes="values"
    ),
    Command(
        ("make", "socket"),
        "things:make_socket",
        "make socket NAME [OPTION...]",
        "Create a socket to be used by processes",
        "It listens at once, and across restarts of papad. Options may also be written as in the protocol (port=8080).",
        _SOCKET_OPTIONS,
        least=1,
        most=1,
        missing="a socket needs a name",
        example="make socket web --port 8080",
        pairs=True,
    ),
    Command(
        ("make", "process"),
        "things:make_process",
        "make process NAME [OPTION...] [--] COMMAND [ARGUMENT...]",
        "Launch a process",
        "Its environment is exactly what --env sets. $(socket.NAME.fileno) and $(socket.NAME.port) are replaced in arguments, not in\n"
        "--env; quote them for your shell. Options may also be written as in the protocol (uid=www-data). The same command once more\n"
        "answers the process that is there; of one that has ended it says so, and exits with 1, unless --again starts it anew.",
        _PROCESS_OPTIONS,
        least=2,
        most=None,
        missing="make process needs a name, then the command to run",
        example="make process sleeper -- /bin/sleep 60",
        pairs=True,
        tail=True,
    ),
    Command(
        ("remove", "sockets"),
        "things:remove",
        "remove sockets PATTERN...",
        "Close and remove sockets",
        "Processes keep the sockets that they have inherited.",
        least=1,
        most=None,
        missing="name the sockets to remove; '*' means all",
        example="remove sockets web",
        completes="sockets",
    ),
    Command(
        ("remove", "processes"),
        "things:remove",
        "remove processes PATTERN...",
        "Stop recording the output of processes, and forget them when they end",
        "They keep running: papad never stops a process.",
        least=1,
        most=None,
        missing="name the processes to remove; '*' means all",
        example="remove processes web.1",
        completes="processes",
    ),
    Command(
        ("remove", "values"),
        "things:remove",
        "remove values PATTERN...",
        "Remove values",
        "A bare * is refused.",
        least=1,
        most=None,
        missing="name the values to remove",
        example="remove values release",
        completes="values",
    ),
    Command(
        ("set",),
        "things:set_value",
        "set NAME VALUE...",
        "Set a named value",
        "A VALUE of - is read from standard input, without the last newline. '' clears the value, like papactl remove values NAME.",
        least=1,
        most=None,
        missing="set needs a name and a value",
        example="set release 2026-11-23",
        completes="values",
        completes_first=True,
    ),
    Command(
        ("get",),
        "things:get_value",
        "get NAME",
        "Print a named value",
        least=1,
        most=1,
        missing="get needs the name of a value",
        example="get release",
        completes="values",
    ),
    Command(
        ("output",),
        "output:run",
        "output [OPTION...] [PATTERN...]",
        "Show what processes have printed, without consuming it",
        "The output of several processes is merged by time. --lines=+N shows the oldest lines. " + _TIMES,
        _OUTPUT_OPTIONS,
        most=None,
        completes="processes",
        hosts=Hosts.MERGE,
    ),
    Command(
        ("watch",),
        "watch:run",
        "watch PATTERN...",
        "Print the output of processes and acknowledge it, until all have ended",
        "papad drops what is acknowledged, and forgets a process that has ended. To follow without consuming: papactl output -f.",
        (
            Option("output", "the output format: " + ", ".join(SHORT_FORMATS), "o", "FORMAT", choices=SHORT_FORMATS),
            Option("utc", "show times in UTC"),
            Option("all", "show control characters as they are", "a"),
        ),
        least=1,
        most=None,
        missing="name the processes to watch; '*' means all",
        example="watch 'web.*'",
        completes="processes",
        live=True,
    ),
    Command(
        ("describe", "sockets"),
        "things:describe",
        "describe sockets [PATTERN...]",
        "Show all that is known about sockets",
        most=None,
        completes="sockets",
    ),
    Command(
        ("describe", "processes"),
        "things:describe",
        "describe processes [PATTERN...]",
        "Show all that is known about processes",
        most=None,
        completes="processes",
    ),
    Command(
        ("describe", "values"),
        "things:describe",
        "describe values [PATTERN...]",
        "Show values in full",
        most=None,
        completes="values",
    ),
    Command(("describe", "server"), "things:describe", "describe server", "Show all that is known about papad itself"),
    Command(
        ("exit-if-idle",),
        "things:exit_if_idle",
        "exit-if-idle",
        "Let papad exit if it holds no processes, sockets or values",
        in_full=True,
    ),
    Command(
        ("shell",),
        "shell:run",
        "shell",
        "Run commands at a prompt, with history and completion",
        "Type the commands of papactl without the word papactl. quit or Ctrl-D exits.",
        in_shell=False,
        hosts=Hosts.REFUSE,
    ),
    Command(
        ("help",),
        "help:run",
        "help [COMMAND]",
        "List the commands, or show all about one",
        most=None,
        example="help make process",
        completes="commands",
        offline=True,
    ),
    Command(
        ("completion",),
        "completion:script",
        "completion bash|zsh|fish",
        "Print the script that makes a shell complete papactl",
        least=1,
        most=1,
        missing="completion needs a shell: bash, zsh or fish",
        example="completion bash",
        choices=("bash", "zsh", "fish"),
        offline=True,
    ),
    Command(
        ("stdio-bridge",),
        "remote:bridge",
        "stdio-bridge",
        "Run by -H on the remote machine",
        hidden=True,
        in_shell=False,
    ),
    Command(
        ("complete-words",),
        "completion:candidates",
        "complete-words -- SHELL WORD...",
        "Run by the completion scripts",
        most=None,
        hidden=True,
    ),
)
