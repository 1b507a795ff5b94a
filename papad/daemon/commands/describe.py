"""Describe sockets, processes and the server as JSON objects. docs/protocol.md lists the keys."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from papad.daemon.durable import parcel
from papad.daemon.tables.process import HIDDEN, Process
from papad.daemon.tables.sockets import Socket

_TCP_INFO_UNACKED = 24  # offset in struct tcp_info; for a listener, the length of its accept queue
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


def line(facts: Mapping[str, Any]) -> str:
    """Return the facts as one line of ASCII. Bytes that are not UTF-8 become lone surrogates."""
    return parcel.encode(facts)


def describe_socket(each: Socket) -> dict[str, Any]:
    """Describe a socket: options, inode, and the number of connections that wait to be accepted.

    That number is None where it is unknown.
    """
    waiting = None
    if each.spec.family != "unix" and each.spec.type == "stream" and not each.spec.reuseport:
        info = each.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        (waiting,) = struct.unpack_from("=I", info, _TCP_INFO_UNACKED)
    fileno = None if each.spec.reuseport else each.fileno
    inode = os.fstat(each.sock.fileno()).st_ino
    return {"name": each.name, **each.spec.pairs, "fileno": fileno, "inode": inode, "waiting": waiting}


def describe_process(process: Process, viewer: int | None = None) -> dict[str, Any]:
    """Describe a process: its spec, its state, and what happened to its output.

    While it runs, that includes memory in bytes and processor time in seconds. `viewer` is as for
    Process.hidden_from.
    """
    spec = dict(vars(process.spec))
    if process.hidden_from(viewer):
        spec |= {"args": [HIDDEN], "env": dict.fromkeys(spec["env"], HIDDEN)}
    spec["stdout"], spec["stderr"] = spec.pop("out"), spec.pop("err")
    memory, cpu = _usage(process) if process.exit is None else (None, None)
    facts = {
        "id": process.id,
        "name": process.name,
        "pid": process.pid,
        "running": process.exit is None,
        "started": process.started,
        "ticks": process.ticks,
        "ended": None if process.exit is None else process.exit[1],
        "code": None if process.exit is None else process.exit[0],
        "closed": process.closed,
        "held": process.held,
        "pipes": [os.fstat(fd).st_ino for fd in process.pipes.values()],
        "removed": process.removed,
    }
    output = dict.fromkeys(("captured", "acknowledged", "buffered", "lost", "unforwarded"), 0)
    if process.ring is not None:
        state = process.ring.state
        output = {
            "captured": state.tail,
            "acknowledged": state.acked,
            "buffered": state.tail - state.head,
            "lost": state.lost,
            "unforwarded": state.unforwarded,
        }
    return {**facts, **spec, **output, "memory": memory, "cpu": cpu, "watchers": process.watchers}


def _usage(process: Process) -> tuple[int | None, float | None]:
    """Return the resident memory and processor time of a process; see proc(5).

    It may have ended without our knowing yet, and its pid be that of another, which began later.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        if process.ticks and int(fields[19]) != process.ticks:
            return None, None
        return int(fields[21]) * _PAGE, (int(fields[11]) + int(fields[12])) / _TICKS
    return None, None
