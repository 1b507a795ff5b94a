"""One process: what is known of it, and the state that it is in.

    state      what it means                                                    what comes next
    BEGUN      recorded, and handed to the nursery, which may have forked it    FORKED; GONE if it could not be
    FORKED     it has a pid, and waits for the nursery to let it exec           RUNNING; GONE if that failed
    RUNNING    it has started, and is listed                                    ENDED; REMOVED by name
    ENDED      its exit code is known; a descendant may hold its pipes          CLOSED; FORGOTTEN if removed by name
    CLOSED     it has ended, and all that it wrote is captured                  GONE once that is acknowledged, or it is removed
    REMOVED    removed by name while it ran: its output is thrown away          FORGOTTEN; GONE if nobody holds its pipes
    FORGOTTEN  it has ended and its name is free; its pipes are still drained   GONE
    GONE       nothing is left of it

After a restart, a process with a pid counts as RUNNING, although the nursery may yet tell that it failed to exec: so RUNNING may
also become GONE. Any other change of state is a bug, and raises.
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass, field
from typing import Protocol

from papad.daemon.output.ring import Ring
from papad.daemon.tables.launch import Spec


class State(enum.Enum):
    """Where a process is in its life; see the module."""

    BEGUN = "begun"
    FORKED = "forked"
    RUNNING = "running"
    ENDED = "ended"
    CLOSED = "closed"
    REMOVED = "removed"
    FORGOTTEN = "forgotten"
    GONE = "gone"


TRANSITIONS = {
    State.BEGUN: {State.FORKED, State.GONE},
    State.FORKED: {State.RUNNING, State.GONE},
    State.RUNNING: {State.ENDED, State.REMOVED, State.GONE},
    State.ENDED: {State.CLOSED, State.FORGOTTEN},
    State.CLOSED: {State.GONE},
    State.REMOVED: {State.FORGOTTEN, State.GONE},
    State.FORGOTTEN: {State.GONE},
    State.GONE: set(),
}


class IllegalTransition(Exception):
    """A bug: something happened to a process that cannot happen in its state."""


class Observer(Protocol):
    """Somebody who watches processes."""

    def wake(self) -> None:
        """There is something new."""

    def lose(self, process: Process) -> None:
        """The process is in no table any more."""


@dataclass(eq=False)
class Process:
    """One process, from the moment it is recorded until nothing is left of it."""

    id: int
    """Its key in the vault, and what the nursery calls it. It only ever grows, so no two processes share one."""
    name: str
    spec: Spec
    ring: Ring | None = None
    """What is captured; None where nothing is to be."""
    state: State = State.BEGUN
    pipes: dict[int, int] = field(default_factory=dict)
    """Stream to the reading end of its pipe, ours, until its end of file."""
    pid: int = 0
    started: float = 0.0
    """When it was forked, in seconds since 1970."""
    pidfd: int = -1
    """Ours; tells of its end where the nursery cannot."""
    exit: tuple[int, float] | None = None
    """Its exit code, and when it ended."""
    ready: asyncio.Future[str] | None = None
    """While it is BEGUN or FORKED, for those who wait for it: its first line, or why it did not start."""
    nursery: int = 0
    """The pid of its parent: if that is not the living nursery's, nobody but the pidfd tells of its end."""
    observers: set[Observer] = field(default_factory=set)

    def enter(self, state: State) -> None:
        """Go on to `state`. Raises IllegalTransition where the table has no such step."""
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransition(
                f"process {self.name} (pid {self.pid}) cannot become {state.value}: it is {self.state.value}"
            )
        self.state = state

    @property
    def listed(self) -> bool:
        """Whether people get to see it."""
        return self.state in (State.RUNNING, State.ENDED, State.CLOSED, State.REMOVED)

    @property
    def removed(self) -> bool:
        """Whether its output is thrown away."""
        return self.state in (State.REMOVED, State.FORGOTTEN)

    @property
    def closed(self) -> bool:
        """Whether it has ended and all that it wrote is captured."""
        return self.exit is not None and not self.pipes

    @property
    def closed_at(self) -> float:
        """When `closed` came true: with its end, or with its last output after that."""
        assert self.exit is not None
        return max(self.exit[1], self.ring.newest if self.ring else 0.0)

    def __str__(self) -> str:
        words = [f"{self.name} pid={self.pid} running={self.exit is None} started={self.started}"]
        if self.spec.uid:
            words.append(f"uid={self.spec.uid}")
        if self.spec.gid:
            words.append(f"gid={self.spec.gid}")
        if self.spec.shell:
            words.append("shell=True")
        words.append("args=" + " ".join(self.spec.args))
        return " ".join(words)
