"""The commands for sockets, processes and values, and `status`, which shows them all."""

from __future__ import annotations

import re
import sys
import time
from typing import Any

from papad.ctl.connect import Session
from papad.ctl.parser import Call, Usage, turned_on
from papad.ctl.render import DIM, GREEN, RED, on_terminal, output_stream, paint, safe_text, size, table
from papad.ctl.run import FAILED, complain, standard_input
from papad.ctl.stamps import span, stamp
from papad.errors import AlreadyExists, Error
from papad.protocol.exits import abnormal, exit_text


def listing(call: Call, session: Session) -> int:
    """Run `list`: print the lines of the protocol, or with --json the objects of `describe`."""
    kind = call.command.words[1]
    if call.flag("json"):
        return _print_json(session.client().describe(kind, *call.words))
    answer = session.client().command("list", kind, *call.words)
    return _print(call, _without_dead_pids(answer) if kind == "processes" else answer)


def _without_dead_pids(lines: str) -> str:
    """Leave out the pids of processes that have ended: another process may have the number by now."""

    def shown(line: re.Match[str]) -> str:
        return line[0] if line["running"] == "True" else f"{line['name']} pid=- running=False started="

    return re.sub(r"(?m)^(?P<name>.*?) pid=\d+ running=(?P<running>True|False) started=", shown, lines)


def make_socket(call: Call, session: Session) -> int:
    """Run `make socket`."""
    name = call.words[0]
    answer = session.client().command("make", "socket", name, options={"backlog": "auto", **dict(call.pairs)})
    return _print_json(session.client().describe("sockets", name)) if call.flag("json") else _print(call, answer)


def make_process(call: Call, session: Session) -> int:
    """Run `make process`, and watch the process with --watch. Fail if it is one that has ended before."""
    name, *command = call.words
    options = dict(call.pairs)
    watched = turned_on("watch", call.pairs) or call.flag("watch")
    options.pop("watch", None)
    if call.texts("listen"):
        options["listen"] = ",".join(call.texts("listen"))
    if turned_on("shell", call.pairs):
        command = [" ".join(command)]
    try:
        answer = session.client().command("make", "process", name, *command, options=options)
    except AlreadyExists as error:
        if not (watched and turned_on("again", call.pairs)) or not _is_recorded(session, name):
            raise
        # As a unit of systemd does that is started again after it was edited.
        complain(
            f"{safe_text(name)} runs as it was made before: {error}",
            f"It is watched as it is. To start it as it is wanted now: papactl signal {safe_text(name)}, then this again",
        )
        return _watch(call, session, name)
    if call.flag("json"):
        _print_json(session.client().describe("processes", name))
    else:
        _print(call, _without_dead_pids(answer))
    if re.match(r" pid=\d+ running=False ", answer[len(name) :]):  # a new one is always told as running
        return _has_ended(session, name)
    if watched:
        return _watch(call, session, name)
    return 0


def _is_recorded(session: Session, name: str) -> bool:
    """Return whether there is a process of that name whose output is kept."""
    found = session.client().describe("processes", name)
    return any(each["name"] == name and not each["removed"] for each in found)


def _has_ended(session: Session, name: str) -> int:
    """Report that `make process` has started nothing."""
    found = [each for each in session.client().describe("processes", name) if each["name"] == name]
    ended = _ended(found[0]["code"]) if found else "ended"
    complain(
        f"{safe_text(name)} is there already, {ended}; it was not started again",
        f"To start it again, without its old output: --again. To see that: papactl output {safe_text(name)}",
    )
    return FAILED


def _watch(call: Call, session: Session, name: str) -> int:
    """Print the output of a process until it ends. Return its exit status as a shell reports it."""
    from papad.ctl.output import look_of
    from papad.ctl.watch import watch

    try:
        codes = watch(session, [name], look_of(call, session, call.text("output") or "short"))
    except KeyboardInterrupt:
        print(f"{safe_text(name)} keeps running; to see more: papactl output -f {safe_text(name)}")
        raise
    if name not in codes:
        return 1  # `watch` has said why nobody knows
    return 128 - codes[name] if codes[name] < 0 else min(codes[name], 255)


def remove(call: Call, session: Session) -> int:
    """Run `remove`; a bare `*` means all. Report processes that are still running, and who still has a socket."""
    kind = call.command.words[1]
    sockets = session.client().describe(kind, *call.words) if kind == "sockets" else []
    session.client().command("remove", kind, *call.words)
    if sockets and not session.host:
        _report_sharers(sockets, session)
    for each in session.client().describe(kind, *call.words) if kind == "processes" else []:
        name = safe_text(each["name"])
        print(
            f"{name} is still running (pid {each['pid']}), for papad ends no process; its output is discarded from now on, "
            "and its name is free once it exits"
        )
    return 0


def _report_sharers(sockets: list[dict[str, Any]], session: Session) -> None:
    """Report the processes that still have sockets which were removed, as far as we can see them."""
    from papad.ctl.holders import sharers

    (server,) = session.client().describe("server")
    found = sharers([each["inode"] for each in sockets], (1, server["pid"], server["nursery"] or 0))
    for each in sockets:
        if who := found[each["inode"]]:
            print(f"{safe_text(each['name'])} stays open until those exit that have it: {', '.join(who)}")


def set_value(call: Call, session: Session) -> int:
    """Run `set`; `-` reads standard input.

    The value must be given: leaving it out would clear the value by mistake too easily.
    """
    name, *value = call.words
    if not value:
        assigned, equals, rest = name.partition("=")
        raise Usage(
            f"set {name} needs a value",
            f"Did you mean: papactl set {assigned} {rest}" if equals else f"To clear it: papactl remove values {name}",
        )
    if value == ["-"]:
        value = [standard_input().read().removesuffix("\n")]
    session.client().command("set", name, *value)
    return 0


def get_value(call: Call, session: Session) -> int:
    """Run `get`: print the value and a newline."""
    found = [each for each in session.client().describe("values", call.words[0]) if each["name"] == call.words[0]]
    if not found:
        raise Error(f"there is no value {call.words[0]}; papactl list values shows them all")
    return _print_json(found) if call.flag("json") else _print(call, found[0]["value"])


def exit_if_idle(call: Call, session: Session) -> int:
    """Run `exit-if-idle`. Raises Error if papad is not idle."""
    answer = session.client().command("exit-if-idle")
    session.drop()
    if answer.startswith("not"):
        raise Error(f"{answer}: papad still holds something; papactl status shows what")
    return _print(call, answer)


def describe(call: Call, session: Session) -> int:
    """Run `describe`: print blocks of `key: value`, as systemctl does, or JSON."""
    kind = call.command.words[1]
    found = session.client().describe(kind, *call.words)
    if call.flag("json"):
        return _print_json(found)
    if kind == "processes":
        _add_holders(found, session)
    lines = []
    for item in found:
        width = max(map(len, item))
        lines += [f"{key.rjust(width)}: {_readable(key, value)}" for key, value in item.items()] + [""]
    with output_stream(pager=not call.flag("no_pager")) as stream:
        stream.write("".join(line + "\n" for line in lines[:-1]).encode("utf-8", "surrogateescape"))
    return 0


def _add_holders(processes: list[dict[str, Any]], session: Session) -> None:
    """Add `held_by` to the processes that have ended, and whose output somebody holds: who that is, if we can see it."""
    from papad.ctl.holders import writers

    held = [each for each in processes if each.get("held")]
    pipes = [inode for each in held for inode in each["pipes"]]
    who = writers(pipes) if not session.host else {}
    for each in held:
        names = dict.fromkeys(name for inode in each["pipes"] for name in who.get(inode, []))
        each["held_by"] = ", ".join(names) or "a child of it"


def _readable(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key in ("started", "ended") and isinstance(value, float):
        return f"{stamp(value, 'short-iso', utc=False)} ({span(time.time() - value)} ago)"
    if key == "umask":
        return f"{value:04o}"
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        from shlex import join

        return safe_text(join(value))
    if isinstance(value, dict):
        texts = {name: ":".join(map(str, each)) if isinstance(each, list) else each for name, each in value.items()}
        return safe_text(" ".join(f"{name}={each}" for name, each in texts.items())) or "-"
    return safe_text(value) if isinstance(value, str) else str(value)


def status(call: Call, session: Session) -> int:
    """Run `status`: print the server, its sockets and its processes."""
    client = session.client()
    server = client.describe("server")[0]
    sockets = client.describe("sockets")
    processes = client.describe("processes", *call.words)
    if call.flag("json"):
        return _print_json([{"server": server, "sockets": sockets, "processes": processes}])
    _add_holders(processes, session)
    lines = _server_lines(server, session)
    if sockets and not call.words:
        heads = ("SOCKET", "ADDRESS", "FILENO", "BACKLOG", "WAITING")
        lines += ["", *table(heads, [_socket_row(each) for each in sockets])]
    if processes:
        lines += ["", *_process_lines(processes)]
    elif call.words:
        raise Error(f"no process matches {' or '.join(call.words)}; papactl list processes shows them all")
    with output_stream(pager=not call.flag("no_pager")) as stream:
        stream.write("".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape"))
    return 0


def _server_lines(server: dict[str, Any], session: Session) -> list[str]:
    restarts = server["starts"] - 1
    survived = f", {_count(restarts, 'restart')} survived" if restarts > 0 else ""
    nursery = f", nursery {server['nursery']}" if server["nursery"] else ""
    held = ", ".join(
        (
            _count(server["sockets"], "socket"),
            f"{_count(server['processes'], 'process')} ({server['running']} running)",
            _count(server["values"], "value"),
            _count(server["connections"], "connection"),
        )
    )
    lines = [
        f"{paint('●', GREEN)} papad {server['version']} at {session.where}",
        f"    pid {server['pid']}{nursery}; up {span(server['uptime'])}{survived}",
        f"    {held}",
    ]
    if not server["managed"]:
        lines.append("    no service manager: a crash is survived, but what it holds is gone once it is stopped")
    if server.get("role") == "view":
        lines.append("    you may only look")
    return lines


def _count(number: int, word: str) -> str:
    return f"{number} {word if number == 1 else 'processes' if word == 'process' else word + 's'}"


def _socket_row(socket: dict[str, Any]) -> list[str]:
    address = socket["path"] or f"{socket['host']}:{socket['port']}"
    if socket["family"] == "inet6":
        address = f"[{socket['host']}]:{socket['port']}"
    if socket["type"] != "stream":
        address += f" {socket['type']}"
    waiting = "" if socket["waiting"] is None else str(socket["waiting"])
    fileno = "reuseport" if socket["fileno"] is None else str(socket["fileno"])
    return [safe_text(socket["name"]), safe_text(address), fileno, str(socket["backlog"] or ""), waiting]


def _process_lines(processes: list[dict[str, Any]]) -> list[str]:
    heads = ("PROCESS", "PID", "STATE", "SINCE", "CPU", "MEMORY", "BUFFERED", "LOST")
    rows = [_process_row(each) for each in processes]
    lines = table(heads, rows)
    for number, process in enumerate(processes, 1):
        if not process["running"]:
            lines[number] = paint(lines[number], RED if abnormal(process["code"]) else DIM)
    return lines


def _process_row(process: dict[str, Any]) -> list[str]:
    state = "running" if process["running"] else _ended(process["code"])
    since = process["started"] if process["running"] else process["ended"]
    ago = span(time.time() - since) + ("" if process["running"] else " ago") if since else ""
    cpu = "" if process["cpu"] is None else f"{process['cpu']:.1f} s"
    pid = str(process["pid"]) if process["running"] else ""
    if process["removed"]:
        state += ", removed"
    if process.get("held_by"):
        state += f", output held by {process['held_by']}"
    sizes = [size(process[key]) for key in ("memory", "buffered", "lost")]
    return [safe_text(process["name"]), pid, state, ago, cpu, *sizes]


def _ended(code: int | None) -> str:
    return "ended" if code is None else exit_text(code)


def _print(call: Call, text: str) -> int:
    if call.flag("json") and text:
        raise Usage(f"{call.command.name} has no --json")
    if text:
        shown = "\n".join(map(safe_text, text.split("\n"))) if on_terminal() else text
        with output_stream(pager=call.command.words[0] == "list" and not call.flag("no_pager")) as stream:
            stream.write(shown.encode("utf-8", "surrogateescape") + b"\n")
    return 0


def _print_json(items: list[dict[str, Any]]) -> int:
    import json

    for item in items:
        sys.stdout.write(json.dumps(item) + "\n")
    return 0
