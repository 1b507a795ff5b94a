"""What to do instead: for words and options that people bring from other tools, and for what papad answers to common mistakes."""

from __future__ import annotations

import re

_PROCESS = "Did you mean: papactl make process NAME -- COMMAND"
_MAKE = "Did you mean: papactl make socket NAME --port PORT, or papactl make process NAME -- COMMAND"
_STOPPING = "papad never stops or signals a process. papactl list processes shows its pid; kill does the rest"
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
    **dict.fromkeys(("stop", "kill", "restart", "reload", "signal", "term", "terminate"), _STOPPING),
    **dict.fromkeys(("ps", "ls", "top", "info", "is-active"), _STATUS),
    **dict.fromkeys(("log", "logs", "cat", "journal", "journalctl"), _OUTPUT),
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
    "tail": "lines",
    "format": "output",
}
_OF_JOURNALCTL = {
    **dict.fromkeys(("u", "unit", "t", "identifier"), "Processes are named without an option: papactl output NAME"),
    **dict.fromkeys(("b", "boot"), "Leave it out: what papad keeps does not outlive a boot"),
    **dict.fromkeys(
        ("x", "catalog", "no-hostname", "no-full", "l", "full"), "Leave it out: papactl shows lines as they are"
    ),
    **dict.fromkeys(("N", "F", "fields", "field"), "Did you mean: -o json"),
    **dict.fromkeys(
        ("c", "D", "M", "k", "cursor", "after-cursor"), "Ask journalctl; make process --journal lets it have the lines"
    ),
    "no-tail": "Did you mean: --lines=all",
}

_ANSWERS = (
    (
        r'Unknown option "([A-Za-z_]\w*)"\. Type "help make process"',
        "A variable of the environment is given like this: --env {0}=VALUE",
    ),
    (r'Unknown option .*Type "help (.*)"', "papactl help {0} lists them"),
    (
        "The rlimit value for",
        "A number, or infinity; where soft and hard shall differ, prlimit(1) can lower the soft one",
    ),
    (
        "Process for (.*) has already been created",
        "Its name is free again when it has ended and was watched to its end, or removed: papactl remove processes {0}",
    ),
    (
        "Address already in use",
        "ss -ltnp shows who has it. A process that has inherited a removed socket keeps it until it ends",
    ),
    ("as an address of this family", "An IPv6 address needs --family inet6"),
    (
        "Bad command",
        "After make process comes a name, then the command; it is looked for in the PATH of --env, or else in /bin and /usr/bin",
    ),
    ("Socket (.*) not found", "To make it: papactl make socket {0}"),
    ("You cannot remove all variables", "Say which values, or how their names begin: papactl remove values 'release*'"),
    ("Bad working_dir", "--working-dir must exist and be accessible to the --uid user"),
    (
        "Unknown rlimit",
        "It is one of those of setrlimit(2), in lower case: nofile, nproc, core, as, cpu, data, fsize, memlock, stack ...",
    ),
)


def for_word(typed: str) -> str:
    """What to say about a command that there is not, "" if nothing comes to mind."""
    return _WORDS.get(typed, "")


def for_option(name: str, known: list[str]) -> str:
    """The same about an option; `known` are those that there are."""
    if name in _OF_JOURNALCTL and "grep" in known:
        return _OF_JOURNALCTL[name]
    meant = _OPTIONS.get(name)
    if meant not in known:
        from difflib import get_close_matches

        meant = next(iter(get_close_matches(name, known, 1, 0.7)), None)
    return f"Did you mean: --{meant}" if meant else ""


def for_answer(message: str) -> str:
    """What to do about an error that papad answers, "" if nothing comes to mind."""
    for pattern, advice in _ANSWERS:
        if found := re.search(pattern, message):
            return advice.format(*found.groups())
    return ""
