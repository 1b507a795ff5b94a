"""The command table: every command, declared once, with its handler.

To add one, write its handler and add its declaration to COMMANDS. Help, errors and docs/protocol.md
follow from the declaration.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from papad.daemon.commands import describe
from papad.daemon.commands.grammar import Arguments, Command, Grammar, Option
from papad.daemon.commands.process_options import PROCESS_OPTIONS, PROCESS_PREFIXES
from papad.daemon.commands.roles import Role
from papad.daemon.delivery.reader import Query, Reading
from papad.daemon.delivery.watch import Watch
from papad.daemon.tables.launch import parse_size, specify
from papad.daemon.tables.lookups import aside
from papad.daemon.tables.process import Process
from papad.daemon.tables.processes import Processes
from papad.daemon.tables.sockets import Sockets, has_names, look_up
from papad.daemon.tables.sockets import Spec as SocketSpec
from papad.daemon.tables.sockets import specify as specify_socket
from papad.daemon.tables.values import Values
from papad.errors import Error
from papad.protocol.options import SOCKET_OPTIONS, flag, number, one_of, whole

_AT_ONCE = 100  # processes that are listed or described at once, and of more as many as can be in a turn
_TURN = 0.002  # seconds; then other connections get a turn


@dataclass(frozen=True)
class Tables:
    """Everything that commands work on; `server` returns the facts about papad itself."""

    sockets: Sockets
    values: Values
    processes: Processes
    server: Callable[[], dict[str, Any]]

    @property
    def idle(self) -> bool:
        """Whether papad holds nothing."""
        return not (len(self.sockets) or len(self.values) or len(self.processes))

    @property
    def names(self) -> list[str]:
        """The names of everything it holds, for people to read."""
        found = [f"socket {each.name}" for each in self.sockets]
        found += [f"process {each.name} (pid {each.pid})" for each in self.processes.select([])]
        return found + [f"value {name}" for name in self.values]

    @property
    def status(self) -> str:
        """What it holds, in numbers, for people to read."""
        counts = (len(self.sockets), "socket"), (len(self.processes), "process"), (len(self.values), "value")
        texts = [f"{n} {word if n == 1 else {'process': 'processes'}.get(word, word + 's')}" for n, word in counts]
        return f"{texts[0]}, {texts[1]} ({self.processes.running} running), {texts[2]}"


@dataclass(frozen=True)
class Watching:
    """A reply that begins a watch: first `line`, then batches."""

    line: str
    watch: Watch


@dataclass(frozen=True)
class Leave:
    """A reply after which the connection closes; with `exit`, papad exits once it is idle."""

    text: str
    exit: bool = False


@dataclass(frozen=True)
class Output:
    """A reply that consists of the frames of a Reading, until it or the client ends it."""

    reading: Reading


def list_sockets(tables: Tables, given: Arguments) -> str:
    return _list(tables.sockets.lines(given.words))


def list_processes(tables: Tables, given: Arguments) -> str | Coroutine[Any, Any, str]:
    return _tell(tables.processes.select(given.words), lambda process: process.line(given.viewer))


def list_values(tables: Tables, given: Arguments) -> str:
    return _list(tables.values.lines(given.words))


def make_socket(tables: Tables, given: Arguments) -> str | Coroutine[Any, Any, str]:
    spec = specify_socket(given.options)
    if tables.sockets.closing or has_names(spec):
        return _make_socket(tables, given.name, spec)
    return _list([str(tables.sockets.make(given.name, spec))])


async def _make_socket(tables: Tables, name: str, spec: SocketSpec) -> str:
    found = await aside(look_up, spec) if has_names(spec) else (spec,)
    return _list([str(await tables.sockets.make_once_free(name, *found))])


async def make_process(tables: Tables, given: Arguments) -> str | Watching:
    named = given.options.get("uid") or given.options.get("gid")
    spec = await aside(specify, given.options, given.words) if named else specify(given.options, given.words)
    process, line = await tables.processes.make(given.name, spec, again=given.options.get("again", False))
    line = _list([line])
    return Watching(line, Watch(tables.processes, [process])) if given.options.get("watch") else line


async def remove_sockets(tables: Tables, given: Arguments) -> str:
    await tables.sockets.remove(given.words)
    return ""


def remove_processes(tables: Tables, given: Arguments) -> str:
    tables.processes.remove(given.words)
    return ""


def remove_values(tables: Tables, given: Arguments) -> str:
    tables.values.remove(given.words)
    return ""


def watch_processes(tables: Tables, given: Arguments) -> Watching:
    found = tables.processes.select(given.words, required=True)
    if not found:
        raise Error("Nothing to watch")
    return Watching(f"Watching {len(found)}", Watch(tables.processes, found, consumes=given.viewer is None))


def describe_sockets(tables: Tables, given: Arguments) -> str:
    return _list([describe.line(describe.describe_socket(each)) for each in tables.sockets.select(given.words)])


def describe_processes(tables: Tables, given: Arguments) -> str | Coroutine[Any, Any, str]:
    found = tables.processes.select(given.words)
    return _tell(found, lambda process: describe.line(describe.describe_process(process, given.viewer)))


def _tell(processes: list[Process], line: Callable[[Process], str]) -> str | Coroutine[Any, Any, str]:
    """Return a line for each; of many, some at a time, so that others get a turn."""
    return _list(map(line, processes)) if len(processes) <= _AT_ONCE else _tell_many(processes, line)


async def _tell_many(processes: list[Process], line: Callable[[Process], str]) -> str:
    lines: list[str] = []
    end = 0.0
    for process in processes:
        if time.monotonic() >= end:
            await asyncio.sleep(0)
            end = time.monotonic() + _TURN
        lines.append(line(process))
    return _list(lines)


def describe_values(tables: Tables, given: Arguments) -> str:
    names = tables.values.select(given.words)
    return _list([describe.line({"name": name, "value": tables.values.get(name)}) for name in names])


def describe_server(tables: Tables, given: Arguments) -> str:
    held = {"sockets": len(tables.sockets), "processes": len(tables.processes), "running": tables.processes.running}
    role = Role.MANAGE if given.viewer is None else Role.VIEW
    return describe.line({**tables.server(), **held, "values": len(tables.values), "role": str(role)})


def read_output(tables: Tables, given: Arguments) -> Output:
    options = dict(given.options)
    after, before = (_positions(name, options.pop(f"{name}.", {})) for name in ("after", "before"))
    return Output(Reading(tables.processes, Query(given.words, after=after, before=before, **options)))


def _positions(option: str, texts: dict[str, str]) -> dict[int, int]:
    for id, position in texts.items():
        if number(id) < 0 or number(position) < 0:
            raise Error(f"{option}.ID=POSITION wants two numbers, not {id} and {position}")
    return {number(id): number(position) for id, position in texts.items()}


def _list(lines: Iterable[str]) -> str:
    """Join the lines of a reply: one for each item, even if its text has newlines."""
    return "\n".join(line.replace("\n", " ") for line in lines)


def set_value(tables: Tables, given: Arguments) -> str:
    if given.name == "*" and not given.words:
        raise Error("Value requires a name")
    tables.values.set(given.name, " ".join(given.words))
    return ""


def get_value(tables: Tables, given: Arguments) -> str:
    return tables.values.get(given.name)


def quit_session(tables: Tables, given: Arguments) -> Leave:
    return Leave("ok\n")


def exit_if_idle(tables: Tables, given: Arguments) -> str | Leave:
    return Leave("Exiting papa!\n> ", exit=True) if tables.idle else "not idle"


def show_help(tables: Tables, given: Arguments) -> str:
    try:
        return GRAMMAR.help(given.words)
    except Error as error:  # the original answers this without "Error:"
        return str(error)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(seconds := float(text)):
            return seconds
    raise ValueError("a number of seconds since 1970")


OUTPUT_OPTIONS = (
    Option("last", whole(0, 2**31 - 1), "only the newest so many records, of all processes together"),
    Option("bytes", parse_size, "only the newest so many bytes, of all processes together; k, m, g as with bufsize"),
    Option("since", _seconds, "only what came at this time or later, in seconds since 1970"),
    Option("until", _seconds, "only what came at this time or earlier"),
    Option("stream", one_of(("out", "err")), "only out, or only err"),
    Option("follow", flag, "1 goes on with what comes, also from processes made later, until a line is sent"),
)

_PATTERN_HELP = "A pattern is a name, a name that ends in the wildcard *, or {}. None at all means all."

COMMANDS = (
    Command(
        words=("make", "socket"),
        usage="make socket NAME [OPTION=VALUE ...]",
        summary="Create a socket to be used by processes",
        help="It listens from now on, under papad restarts too. A process inherits it under its fileno. The same name with the same"
        "\noptions answers the socket that is there already.",
        needs_name="Socket requires a name",
        options=tuple(Option(each.name, each.parse, each.help) for each in SOCKET_OPTIONS),
        rest=False,
        examples=("make socket uwsgi port=8080", "make socket chaussette path=/run/chaussette.sock umask=7"),
        handler=make_socket,
    ),
    Command(
        words=("remove", "sockets"),
        usage="remove sockets [PATTERN ...]",
        summary="Close and remove sockets by name or fileno",
        help="Processes keep what they have inherited. " + _PATTERN_HELP.format("a fileno"),
        examples=("remove sockets uwsgi", "r s circus.*"),
        handler=remove_sockets,
    ),
    Command(
        words=("list", "sockets"),
        usage="list sockets [PATTERN ...]",
        summary="List sockets by name or fileno",
        role=Role.VIEW,
        help=_PATTERN_HELP.format("a fileno"),
        examples=("list sockets", "l s circus.*"),
        handler=list_sockets,
    ),
    Command(
        words=("make", "process"),
        usage="make process NAME [OPTION=VALUE ...] COMMAND [ARGUMENT ...]",
        summary="Launch a process",
        help="Its environment is exactly what env., env_file and login_env give it. It inherits all sockets; $(socket.NAME.fileno)"
        "\nand $(socket.NAME.port) in an argument are replaced. The same name with the same options and command answers the process"
        "\nthat is there already, running or ended. With again=1, one that has ended is replaced, whatever its options were: what of"
        "\nits output is not acknowledged is gone, as with remove. If the new one cannot be started, the old one stays as it was.",
        needs_name="Process requires a name",
        options=PROCESS_OPTIONS,
        prefixes=PROCESS_PREFIXES,
        examples=(
            "make process web uid=www-data env.PATH=/usr/bin python3 -m http.server $(socket.web.port)",
            "make process uwsgi bufsize=64k rlimit.nofile=4096 /usr/bin/uwsgi --socket fd://$(socket.uwsgi.fileno)",
        ),
        handler=make_process,
    ),
    Command(
        words=("remove", "processes"),
        usage="remove processes [PATTERN ...]",
        summary="Stop recording the output of processes by name or PID",
        help="This ends nothing: they run on, and each is forgotten when it ends. " + _PATTERN_HELP.format("a PID"),
        examples=("remove processes nginx", "r p 3698"),
        handler=remove_processes,
    ),
    Command(
        words=("list", "processes"),
        usage="list processes [PATTERN ...]",
        summary="List processes by name or PID",
        role=Role.VIEW,
        help=_PATTERN_HELP.format("a PID"),
        examples=("list processes", "l p nginx.*"),
        handler=list_processes,
    ),
    Command(
        words=("watch", "processes"),
        usage="watch processes [PATTERN ...]",
        summary="Receive the output of processes by name or PID, and their exit codes",
        role=Role.VIEW,
        help="Any line acknowledges what came and asks for more; q acknowledges it and stops. What was not acknowledged comes again.\n"
        "With the role view, an acknowledgement asks for more only: all stays where it is.\n"
        + _PATTERN_HELP.format("a PID"),
        examples=("watch processes nginx.*", "w p 3698"),
        handler=watch_processes,
    ),
    Command(
        words=("output",),
        usage="output [OPTION=VALUE ...] [PATTERN ...]",
        summary="Read the output of processes, and leave it where it is",
        role=Role.VIEW,
        help="What is read stays for watchers, and what they acknowledge is gone from here. "
        + _PATTERN_HELP.format("a PID"),
        options=OUTPUT_OPTIONS,
        prefixes={
            "after.ID": "for the process with this id, only what comes from this position on",
            "before.ID": "for the process with this id, only what comes before this position",
        },
        examples=("output last=100 web.*", "output follow=1 since=1795450637"),
        handler=read_output,
    ),
    Command(
        words=("set",),
        usage="set NAME [VALUE]",
        summary="Set a named value, or clear it",
        needs_name="Value requires a name",
        examples=("set count 5", "set count"),
        handler=set_value,
    ),
    Command(
        words=("get",),
        usage="get NAME",
        summary="Get a named value",
        role=Role.VIEW,
        needs_name="Value requires a name",
        examples=("get count",),
        handler=get_value,
    ),
    Command(
        words=("list", "values"),
        usage="list values [PATTERN ...]",
        summary="List values by name",
        role=Role.VIEW,
        help="A pattern is a name, or a name that ends in the wildcard *. None at all means all.",
        examples=("list values", "l v circus.*"),
        handler=list_values,
    ),
    Command(
        words=("remove", "values"),
        usage="remove values PATTERN ...",
        summary="Remove values by name",
        help="A pattern is a name, or a name that ends in the wildcard *. A bare * alone is refused.",
        examples=("remove values count", "r v circus.*"),
        handler=remove_values,
    ),
    Command(
        words=("describe", "sockets"),
        usage="describe sockets [PATTERN ...]",
        summary="Tell all about sockets, a JSON object each",
        role=Role.VIEW,
        help=_PATTERN_HELP.format("a fileno"),
        handler=describe_sockets,
    ),
    Command(
        words=("describe", "processes"),
        usage="describe processes [PATTERN ...]",
        summary="Tell all about processes, a JSON object each",
        role=Role.VIEW,
        help="With the role view, arguments and variables of other users' processes read (hidden). "
        + _PATTERN_HELP.format("a PID"),
        handler=describe_processes,
    ),
    Command(
        words=("describe", "values"),
        usage="describe values [PATTERN ...]",
        summary="Tell values exactly, a JSON object each",
        role=Role.VIEW,
        handler=describe_values,
    ),
    Command(
        words=("describe", "server"),
        usage="describe server",
        summary="Tell all about papad itself, as a JSON object",
        role=Role.VIEW,
        abbreviate=False,  # s has always been sockets
        handler=describe_server,
    ),
    Command(
        words=("quit",),
        usage="quit",
        summary="Close the client session",
        role=Role.VIEW,
        handler=quit_session,
    ),
    Command(
        words=("exit-if-idle",),
        usage="exit-if-idle",
        summary="Exit papad if there are no processes, sockets or values",
        help="It leaves when the last client has gone, unless a new one comes.",
        abbreviate=False,
        handler=exit_if_idle,
    ),
    Command(
        words=("help",),
        usage="help [COMMAND]",
        summary="Show the commands, or all about one",
        role=Role.VIEW,
        examples=("help make process", "h l p"),
        handler=show_help,
    ),
)

GRAMMAR = Grammar(COMMANDS)
