"""Hints for words and options that users know from other tools, and for papad's error messages."""

from __future__ import annotations

import re

_PROCESS = "Did you mean: papactl make process NAME -- COMMAND"
_MAKE = "Did you mean: papactl make socket NAME --port PORT, or papactl make process NAME -- COMMAND"
_STOPPING = "Did you mean: papactl signal NAME, which sends SIGTERM; papad itself never stops or restarts a process"
_OUTPUT = "Did you mean: papactl output"
_FOLLOW = "Did you mean: papactl output -f"
_STATUS = "Did you mean: papactl status"
_LIST = "Did you mean: papactl list {}"
_REMOVE = "Did you mean: papactl remove"
_VALUE = "Did you mean: papactl set NAME VALUE"

_WORDS = {
    "start": f"{_PROCESS}\nor, to start papad itself: systemctl enable --now papad.socket",
    **dict.fromkeys(("run", "launch", "spawn", "exec"), _PROCESS),
    **dict.fromkeys(("create", "add", "new"), _MAKE),
    **dict.fromkeys(("stop", "kill", "restart", "reload", "term", "terminate"), _STOPPING),
    **dict.fromkeys(("ps", "ls", "top", "info", "is-active"), _STATUS),
    **dict.fromkeys(("log", "logs", "cat", "journal", "journalctl"), _OUTPUT),
    **dict.fromkeys(("ship", "save", "collect"), "Did you mean: papactl archive, or papactl output --cursor-file"),
    **dict.fromkeys(("tail", "attach", "follow"), _FOLLOW),
    **dict.fromkeys(("show", "inspect"), "Did you mean: papactl describe"),
    **dict.fromkeys(("rm", "delete", "del"), _REMOVE),
    **dict.fromkeys(("unset", "clear"), "Did you mean: papactl remove values NAME"),
    **dict.fromkeys(("socket", "sockets"), _LIST.format("sockets")),
    **dict.fromkeys(("process", "processes"), _LIST.format("processes")),
    **dict.fromkeys(("value", "values"), _LIST.format("values")),
    **dict.fromkeys(
        ("quit", "exit"),
        "papactl exits after each command; quit works only in papactl shell. papactl exit-if-idle ends papad",
    ),
    **dict.fromkeys(("make value", "make values"), _VALUE),
}

_OPTIONS = {
    **dict.fromkeys(("user", "owner"), "uid"),
    "group": "gid",
    **dict.fromkeys(("cwd", "chdir", "workdir", "directory", "working-directory"), "working-dir"),
    **dict.fromkeys(("environment", "setenv", "e"), "env"),
    **dict.fromkeys(("address", "bind", "ip"), "host"),
    **dict.fromkeys(("limit", "ulimit"), "rlimit"),
    **dict.fromkeys(("environment-file", "envfile"), "env-file"),
    "input": "stdin",
    "tail": "lines",
    "format": "output",
    **dict.fromkeys("AIKQTU0123456789", "signal"),  # as typed for kill(1): -9, -TERM
}
_OF_JOURNALCTL = {
    **dict.fromkeys(("u", "unit", "t", "identifier"), "Name processes without an option: papactl output NAME"),
    **dict.fromkeys(("b", "boot"), "Leave it out: papad keeps nothing across a reboot"),
    **dict.fromkeys(
        ("x", "catalog", "no-hostname", "no-full", "l", "full"), "Leave it out: papactl shows lines as they are"
    ),
    **dict.fromkeys(("N", "F", "fields", "field"), "Did you mean: -o json"),
    **dict.fromkeys(
        ("c", "D", "M", "k"),
        "Use journalctl; make process --journal forwards lines to the journal",
    ),
    "no-tail": "Did you mean: --lines=all",
}

_ANSWERS = (
    (
        r'Unknown option "([A-Za-z_]\w*)"\. Type "help make process"',
        "To set an environment variable: --env {0}=VALUE",
    ),
    (r'Unknown option .*Type "help (.*)"', "papactl help {0} lists them"),
    (
        "The rlimit value for",
        "For example: --rlimit nofile=4096, --rlimit as=2g, --rlimit core=0:infinity",
    ),
    (
        r"was removed and still runs \(pid (\d+)\)",
        "papad never stops a process. To end it: kill {0}",
    ),
    (
        "Process for (.*) has already been created",
        "The name is free once the process has ended and was watched to its end, or is removed: papactl remove processes {0}",
    ),
    (
        "Socket for (.*) has already been created - ",
        "To replace it: papactl remove sockets {0}, then this again; processes that have it keep the old one",
    ),
    (
        "Address already in use",
        "ss -ltnp shows which process uses it. A process that has inherited a removed socket keeps it until it exits",
    ),
    (r"Bind failed: \[Errno 2\]", "The directory of --path must exist; mkdir -p makes it"),
    (r"Cannot resolve host ([^\s:]+):(\d+) as", "The port has an option of its own: --host {0} --port {1}"),
    (r"Cannot resolve host \[(\S+)\]:(\d+) as", "The port has an option of its own: --host {0} --port {1}"),
    ("as an address of this family", "An IPv6 address needs --family inet6"),
    (
        r"Bad command - \[Errno 2\] .*: '[^/']+'$",
        "make process takes a name, then the command. papad looks it up in the PATH of --env, or else in /bin and /usr/bin",
    ),
    (
        r"Bad command - \[Errno 2\]",
        "make process takes a name, then the command. Neither this file nor the interpreter in its first line may be missing",
    ),
    (
        r"Bad command - \[Errno 13\]",
        "make process takes a name, then the command, which must be executable for the --uid user",
    ),
    ("Socket (.*) not found", "To make it: papactl make socket {0}"),
    (
        r"^\S+ not found$",
        "Nothing was done. papactl status shows the names; a process that was watched to its end is forgotten",
    ),
    (
        "You cannot remove all variables",
        "Name the values, or give a prefix of their names: papactl remove values 'release*'",
    ),
    ("Bad working_dir", "--working-dir must exist and be accessible to the --uid user"),
    ("Bad stdin", "--stdin must exist and be readable for the --uid user"),
    (
        "Unknown rlimit",
        "Use a name from setrlimit(2), in lower case: nofile, nproc, core, as, cpu, data, fsize, memlock, stack ...",
    ),
)


def for_word(typed: str) -> str:
    """Return a hint for an unknown command, or ""."""
    return _WORDS.get(typed, "")


def for_option(name: str, known: list[str]) -> str:
    """Return a hint for an unknown option, or ""; `known` are the options of the command."""
    if name in _OF_JOURNALCTL and "grep" in known:
        return _OF_JOURNALCTL[name]
    meant = _OPTIONS.get(name)
    if meant not in known:
        from difflib import get_close_matches

        meant = next(iter(get_close_matches(name, known, 1, 0.7)), None)
    return f"Did you mean: --{meant}" if meant else ""


def for_answer(message: str) -> str:
    """Return a hint for an error that papad answered, or ""."""
    for pattern, advice in _ANSWERS:
        if found := re.search(pattern, message):
            return advice.format(*found.groups())
    return ""
