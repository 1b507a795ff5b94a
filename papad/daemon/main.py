"""The papad command: options, control sockets, log, and the start, which is always a recovery."""

from __future__ import annotations

import argparse
import asyncio
import gc
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
from typing import Any, NoReturn

from papad.daemon.commands.table import Tables
from papad.daemon.durable.homes import Homes
from papad.daemon.durable.store import LaterFormat, Store, opened_store
from papad.daemon.durable.systemd import Service
from papad.daemon.log import set_up as set_up_log
from papad.daemon.loop import Loop
from papad.daemon.nursery.keeper import KEEPER, NURSERY, python
from papad.daemon.nursery.spawner import Spawner, nursery_listener, raise_nofile_limit
from papad.daemon.output.capture import Capture
from papad.daemon.paths import Paths
from papad.daemon.peers import Peers, is_loopback
from papad.daemon.server import MAX_CONNECTIONS, Server
from papad.daemon.tables.nodes import bind_path
from papad.daemon.tables.processes import Processes
from papad.daemon.tables.sockets import Sockets
from papad.daemon.tables.values import Values
from papad.errors import Error
from papad.protocol import wire
from papad.version import FOLDER, __version__

log = logging.getLogger("papad")

DEFAULT_PORT = 20202
EXIT_IDLE = 75
"""Exit status after exit-if-idle, listed in RestartPreventExitStatus=, so systemd does not restart
papad."""
EXIT_CONFIG = 78
"""Exit status for invalid options or control sockets (EX_CONFIG in sysexits.h); a restart would not
help."""

_RECOVERY = 300  # seconds that it may take, at most
_STATUS_DELAY = 0.2  # seconds in which changes are collected into one STATUS=
_BACKLOG = 128
# Freed at once, so much, never touched, has malloc serve what is smaller from memory that it keeps (mallopt(3),
# M_MMAP_THRESHOLD): else Linux would give every batch of output its memory page by page, and take it back.
_KEPT_MEMORY = 4 << 20
_SERVER = "server"  # key in the store
_VIEW_UNIT = "papad-view.socket"


def main() -> None:
    """Run papad until a signal or exit-if-idle ends it.

    Without a service manager, this process becomes the nursery, which keeps a daemon running.
    """
    options = _parser().parse_args()
    nofile = raise_nofile_limit()
    if options.nofile is not None:
        nofile = options.nofile
    if kept := KEEPER in os.environ:
        Path("/proc/self/comm").write_text("papad")
    if os.getpid() == 1:
        os.environ.pop("NOTIFY_SOCKET", None)  # of a container's manager: it would hold nothing for us
    service = Service()
    set_up_log(debug=options.debug, journal=service.managed)
    try:
        listeners = [] if kept else _control_sockets(service, options)
    except Error as error:
        log.critical("%s", error)
        sys.exit(EXIT_CONFIG)
    if not service.managed and not kept:
        _become_nursery(listeners, nofile)
    with asyncio.Runner(loop_factory=Loop) as runner:
        left_idle = runner.run(_run(service, listeners, nofile))
    sys.exit(EXIT_IDLE if left_idle and service.managed else 0)


def _become_nursery(listeners: list[socket.socket], nofile: int) -> NoReturn:
    """Execute the nursery in place, with the control sockets, so that it keeps a daemon.

    That gets our options as well, for people to see; the control sockets count.
    """
    listener = nursery_listener(None)
    for each in (listener, *listeners):
        each.set_inheritable(True)
    control = ",".join(str(each.fileno()) for each in listeners)
    command = python(NURSERY, str(listener.fileno()), control, *sys.argv[1:], "--nofile", str(nofile))
    os.execve(sys.executable, command, os.environ | {"PYTHONPATH": FOLDER})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("papad", description="A process kernel that survives. See papad(8).")
    parser.add_argument("-p", "--port", type=int, help=f"listen on 127.0.0.1:PORT (default: {DEFAULT_PORT})")
    parser.add_argument("-u", "--unix-socket", metavar="PATH", help="listen on a Unix socket at PATH")
    parser.add_argument("-d", "--debug", action="store_true", help="log more")
    # The soft limit of processes, where the nursery has raised that of the daemon it keeps.
    parser.add_argument("--nofile", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"papad {__version__}")
    return parser


async def _run(service: Service, listeners: list[socket.socket], nofile: int) -> bool:
    """Recover, serve, and shut down in order; return whether exit-if-idle ended it."""
    gc.disable()  # until all is taken back: the more there is, the longer each look at all of it takes, and nothing is found
    bytes(_KEPT_MEMORY)
    stopped = _when_told_to_end()
    service.notify(f"EXTEND_TIMEOUT_USEC={_RECOVERY * 1_000_000}")
    spawner = Spawner(service, nofile)
    homes = Homes(service, spawner)
    await spawner.meet()
    homes.collect(service.stored, spawner.held, spawner.withheld)
    listeners += [homes.take_socket(name, nursery_only=True) for name in homes.of("control-")]
    if spawner.keeper and not listeners:
        log.critical("the nursery, which has the control sockets, does not answer; another papad has to try again")
        sys.exit(1)
    try:
        store = opened_store(homes)
    except LaterFormat as error:
        log.critical("%s; nothing was changed. Install that papad again, or a later one", error)
        service.notify("READY=1", f"STATUS={error}")
        return await stopped
    sockets = Sockets(homes, store, service.max_sockets)
    capture = Capture(homes, store)
    processes = Processes(homes, store, capture, spawner, sockets)
    about = _about(service, store, spawner)
    tables = Tables(sockets, Values(store), processes, lambda: about() | {"connections": len(server.connections)})
    spawner.on_new = homes.furnish
    processes.recover()
    gc.freeze()
    gc.enable()
    if homes.settle(store.names):
        await homes.barrier()
    store.sweep()
    _tell_what_was_lost(tables)
    server = Server(tables, Peers(), stopped)
    for listener in listeners:
        server.listen(listener)
    _report_status(service, server)
    _keep_second_home(service, spawner, server)
    _beat(service)
    server.run(spawner.renew())
    service.notify("READY=1", f"STATUS={tables.status}")
    log.info("papad %s is home, with %s", __version__, tables.status)
    paths = _paths(store, listeners)
    left_idle = await stopped
    paths.close()
    await _leave(service, server, spawner, homes, listeners, idle=left_idle)
    return left_idle


async def _leave(
    service: Service, server: Server, spawner: Spawner, homes: Homes, listeners: list[socket.socket], *, idle: bool
) -> None:
    """Shut down in order. What papad holds waits in its homes, but where it ends for good."""
    tables = server.tables
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
    if idle or not service.managed:
        tables.sockets.unlink()
    if idle:
        homes.clear()
    _tell_what_runs_on(tables, service, in_container=spawner.pid == 1)
    tables.processes.close()


def _about(service: Service, store: Store, spawner: Spawner) -> Callable[[], dict[str, Any]]:
    """Return a function for the facts about papad itself. Counts this start in the store."""
    began = time.time()
    starts = 1 + store.entries.get(_SERVER, {}).get("starts", 0)
    try:
        store.write(_SERVER, {"starts": starts})
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


def _paths(store: Store, listeners: list[socket.socket]) -> Paths:
    """Watch the paths of the control sockets, also for what was done to them while there was no papad."""
    known = store.entries.get(_SERVER, {}).get("paths", {})
    paths = Paths(listeners, known)
    if paths.known != known:
        try:
            store.write(_SERVER, {"paths": paths.known})
        except (OSError, Error) as error:
            log.warning("cannot remember the paths of the control sockets: %s", error)
    return paths


def _tell_what_runs_on(tables: Tables, service: Service, *, in_container: bool) -> None:
    """At the end of a papad that was started by hand, log what nobody manages from now on."""
    fate = "process %s runs on, pid %d; its output is discarded"
    if in_container:
        fate = "process %s is killed, pid %d: the container ends with papad"
    if not service.managed:
        for process in tables.processes.select([]):
            if process.exit is None:
                log.warning(fate, process.name, process.pid)


def _note_what_is_held(tables: Tables) -> None:
    """At a stop, list what is held. Both of its homes may be stopped, too."""
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


def _when_told_to_end() -> asyncio.Future[bool]:
    """Return what is done once papad is to stop: False by a signal, even one that came while it started."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[bool] = loop.create_future()

    def stop() -> None:
        if not stopped.done():
            stopped.set_result(False)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])  # which the keeper has blocked
    return stopped


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
        server.on_change.append(changed)


def _beat(service: Service) -> None:
    """Tell systemd that the event loop turns, as often as its WatchdogSec= wants."""
    if usec := os.environ.get("WATCHDOG_USEC"):
        service.notify("WATCHDOG=1")
        asyncio.get_running_loop().call_later(int(usec) / 3e6, _beat, service)


def _keep_second_home(service: Service, spawner: Spawner, server: Server) -> None:
    """Start a nursery when there is something to hold, and a new one when it is lost."""

    async def start() -> None:
        try:
            await spawner.ensure()
        except (Error, OSError) as error:
            log.error("there is no nursery: %s", error)

    def changed() -> None:
        if spawner.absent and not server.tables.idle:
            server.run(start())

    if service.managed:
        server.on_change.append(changed)
        spawner.on_change.append(changed)
        changed()


def _control_sockets(service: Service, options: argparse.Namespace) -> list[socket.socket]:
    """Return the control sockets: those that systemd passed, else those in the options.

    Without either, the default one, but not under systemd. Raises Error.
    """
    listeners, units = [], set()
    for fd, unit in service.control.items():
        try:
            listeners.append(_control_socket(fd))
            units.add(unit)
        except Error as error:
            if not service.managed:
                raise
            # To end would drop what the FD store holds, and leave the other sockets unserved. It may
            # also be something that a later papad has stored, which systemd keeps for that.
            log.critical("%s; this one is not served", error)
            os.close(fd)
    if units - {_VIEW_UNIT}:
        if options.port is not None or options.unix_socket:
            log.warning("sockets were passed in; --port and --unix-socket are ignored")
        return listeners
    if service.managed and options.port is None and not options.unix_socket:
        # Do not listen where nobody expects it, nor exit: a failed service loses its FD store.
        log.critical(
            "nobody can talk to papad%s until systemd passes it its sockets: systemctl restart papad.socket "
            "(with --user, if this is a user's own)",
            " but at the socket of those who look" if listeners else "",
        )
        return listeners
    if options.unix_socket:
        listeners.append(_unix_listener(options.unix_socket))
    if options.port is not None or not options.unix_socket:
        listeners.append(_loopback_listener(DEFAULT_PORT if options.port is None else options.port))
    return listeners


def _control_socket(fd: int) -> socket.socket:
    """Return the control socket that was passed as `fd`. Raises Error; then `fd` is the caller's."""
    try:
        listener = socket.socket(fileno=fd)
    except OSError:
        raise Error("something was passed in that is no socket") from None
    try:
        _check(listener)
    except Error:
        listener.detach()
        raise
    return listener


def _check(listener: socket.socket) -> None:
    if listener.type != socket.SOCK_STREAM or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise Error("a socket was passed in that is not a listening stream socket; use ListenStream= with Accept=no")
    if listener.family != socket.AF_UNIX and not is_loopback(listener.getsockname()[0]):
        host, port = listener.getsockname()[:2]
        raise Error(
            f"refusing to be reachable at {host}:{port}: papad listens on Unix sockets and loopback addresses only"
        )


def _loopback_listener(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
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


if __name__ == "__main__":
    main()
