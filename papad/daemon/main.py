"""The papad command: options, control sockets, log, and the start, which is always a recovery."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from papad.daemon.commands.table import Tables
from papad.daemon.durable.systemd import Service
from papad.daemon.durable.vault import Vault
from papad.daemon.nursery.spawner import Spawner, raise_nofile_limit
from papad.daemon.output.capture import Capture
from papad.daemon.peers import Peers, is_loopback
from papad.daemon.server import MAX_CONNECTIONS, Server
from papad.daemon.tables.processes import Processes
from papad.daemon.tables.sockets import Sockets, bind_path
from papad.daemon.tables.values import Values
from papad.errors import Error
from papad.protocol import wire
from papad.version import __version__

log = logging.getLogger("papad")

DEFAULT_PORT = 20202
EXIT_IDLE = 75
"""Exit status after exit-if-idle, listed in RestartPreventExitStatus=, so systemd does not restart
papad."""
EXIT_CONFIG = 78
"""Exit status for invalid options or control sockets (EX_CONFIG in sysexits.h); a restart would not
help."""

_STATUS_DELAY = 0.2  # seconds in which changes are collected into one STATUS=
_BACKLOG = 128
_SERVER = "server"  # key in the vault


def main() -> None:
    """Run papad until a signal or exit-if-idle ends it."""
    options = _parser().parse_args()
    # Looking up a name in host= blocks the daemon: for a second, not ten (resolv.conf(5)).
    os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")
    nofile = raise_nofile_limit()
    service = Service()
    _set_up_log(debug=options.debug, journal=service.managed)
    try:
        listeners = _control_sockets(service, options)
    except Error as error:
        log.critical("%s", error)
        sys.exit(EXIT_CONFIG)
    left_idle = asyncio.run(_run(service, listeners, nofile))
    sys.exit(EXIT_IDLE if left_idle and service.managed else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("papad", description="A process kernel that survives. See papad(8).")
    parser.add_argument("-p", "--port", type=int, help=f"listen on 127.0.0.1:PORT (default: {DEFAULT_PORT})")
    parser.add_argument("-u", "--unix-socket", metavar="PATH", help="listen on a Unix socket at PATH")
    parser.add_argument("-d", "--debug", action="store_true", help="log more")
    parser.add_argument("--version", action="version", version=f"papad {__version__}")
    return parser


async def _run(service: Service, listeners: list[socket.socket], nofile: int) -> bool:
    """Recover, serve, and shut down in order; return whether exit-if-idle ended it."""
    vault = Vault(service)
    vault.recover()
    sockets = Sockets(service, vault)
    capture = Capture(service)
    spawner = Spawner(service, nofile)
    processes = Processes(vault, capture, spawner, sockets)
    about = _about(service, vault, spawner)
    tables = Tables(sockets, Values(vault), processes, lambda: about() | {"connections": len(server.connections)})
    await processes.recover()
    service.discard(service.stored)
    _tell_what_was_lost(tables)
    server = Server(tables, Peers())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, server)
    for listener in listeners:
        server.listen(listener)
    _report_status(service, server)
    service.notify("READY=1", f"STATUS={tables.status}")
    log.info("papad %s is home, with %s", __version__, tables.status)
    if not service.managed:
        log.warning("no service manager: nothing that papad holds survives a crash or a restart of it")
    left_idle = await server.stopped
    service.notify("STOPPING=1")
    log.info("leaving, with %s", tables.status)
    await server.drain()
    for listener in listeners if not service.control else []:
        if listener.family == socket.AF_UNIX:
            with suppress(OSError):
                # While it still listens: afterwards the path may be a successor's.
                os.unlink(listener.getsockname())
    _note_what_is_held(tables)
    server.close()
    processes.close()
    sockets.close()
    return left_idle


def _about(service: Service, vault: Vault, spawner: Spawner) -> Callable[[], dict[str, Any]]:
    """Return a function for the facts about papad itself. Counts this start in the vault."""
    began = time.time()
    starts = 1
    if entry := vault.entries.get(_SERVER):
        starts += entry.fields.get("starts", 0)
    try:
        vault.write(_SERVER, {"starts": starts})
    except (OSError, Error) as error:
        log.warning("cannot count this start: %s", error)
    limits = {
        "line": wire.MAX_LINE,
        "connections": MAX_CONNECTIONS,
        "sockets": service.max_sockets,
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }
    return lambda: {
        "version": __version__,
        "pid": os.getpid(),
        "started": began,
        "uptime": time.time() - began,
        "starts": starts,
        "user": os.geteuid(),
        "managed": service.managed,
        "nursery": spawner.pid,
        "limits": limits,
    }


def _note_what_is_held(tables: Tables) -> None:
    """At a stop, list what is held. systemd may drop it all, and before version 254 always does."""
    if directory := os.environ.get("RUNTIME_DIRECTORY"):
        with suppress(OSError):
            Path(directory, "held").write_text("".join(f"{name}\n" for name in tables.names))


def _tell_what_was_lost(tables: Tables) -> None:
    """At a start, log what was held at the last stop and is gone now."""
    if directory := os.environ.get("RUNTIME_DIRECTORY"):
        with suppress(FileNotFoundError):
            note = Path(directory, "held")
            held = note.read_text().splitlines()
            note.unlink()
            kept = set(tables.names)
            for name in held:
                if name not in kept:
                    log.error("lost over the stop of papad: %s", name)


def _stop(server: Server) -> None:
    if not server.stopped.done():
        server.stopped.set_result(False)


def _report_status(service: Service, server: Server) -> None:
    """Update STATUS= shortly after each change."""
    loop = asyncio.get_running_loop()
    pending: list[asyncio.TimerHandle] = []

    def report() -> None:
        pending.clear()
        service.notify(f"STATUS={server.tables.status}")

    def changed() -> None:
        if not pending:
            pending.append(loop.call_later(_STATUS_DELAY, report))

    if service.managed:
        server.on_change = changed


def _control_sockets(service: Service, options: argparse.Namespace) -> list[socket.socket]:
    """Return the control sockets: those that systemd passed, else those in the options.

    Without either, the default one, but not under systemd. Raises Error.
    """
    listeners = [socket.socket(fileno=fd) for fd in service.control]
    for listener in listeners:
        _check_control_socket(listener)
    if listeners:
        if options.port is not None or options.unix_socket:
            log.warning("sockets were passed in; --port and --unix-socket are ignored")
        return listeners
    if service.managed and options.port is None and not options.unix_socket:
        # Do not listen where nobody expects it, nor exit: a failed service loses its FD store.
        log.critical(
            "nobody can talk to papad until systemd passes it its sockets: systemctl restart papad.socket "
            "(with --user, if this is a user's own)"
        )
        return []
    if options.unix_socket:
        listeners.append(_unix_listener(options.unix_socket))
    if options.port is not None or not options.unix_socket:
        listeners.append(_loopback_listener(DEFAULT_PORT if options.port is None else options.port))
    return listeners


def _check_control_socket(listener: socket.socket) -> None:
    if listener.type != socket.SOCK_STREAM or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise Error("a socket was passed in that is not a listening stream socket; use ListenStream= with Accept=no")
    if listener.family != socket.AF_UNIX and not is_loopback(listener.getsockname()[0]):
        host, port = listener.getsockname()[:2]
        raise Error(
            f"refusing to be reachable at {host}:{port}: papad listens on Unix sockets and loopback addresses only"
        )


def _loopback_listener(port: int) -> socket.socket:
    # asyncio sets TCP_NODELAY only if the protocol is given.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
        sock.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        raise Error(f"cannot listen on 127.0.0.1:{port}: {error}; choose another with -p PORT") from None
    return sock


def _unix_listener(path: str) -> socket.socket:
    """Create a control socket for its owner and group."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bind_path(sock, str(Path(path).absolute()), 0o117)
    sock.listen(_BACKLOG)
    return sock


def _set_up_log(*, debug: bool, journal: bool) -> None:
    """Log structured entries to the journal under systemd, lines to stderr elsewhere."""
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("papad: %(levelname)s: %(message)s"))
    if journal:
        from systemd.journal import JournalHandler

        stderr, handler = handler, JournalHandler(SYSLOG_IDENTIFIER="papad")
        # Falls back to stderr if there is no journald.
        handler.handleError = stderr.emit  # type: ignore[method-assign]
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.DEBUG if debug else logging.INFO)


if __name__ == "__main__":
    main()
