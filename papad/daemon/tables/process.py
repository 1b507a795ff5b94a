"""A process and its state.

    state      meaning                                             next state
    BEGUN      in the store and handed to the nursery, which       FORKED; GONE if it cannot fork
               may have forked it
    FORKED     has a pid; waits for the nursery to release it      RUNNING; GONE if exec failed
    RUNNING    has started, and is listed                          ENDED; REMOVED by name
    ENDED      its exit code is known; a descendant may still      CLOSED; FORGOTTEN if removed
               hold its pipes                                      by name
    CLOSED     has ended, and all its output is captured           GONE once that is acknowledged
                                                                   or it is removed by name, or another
                                                                   has taken its name (again=1)
    REMOVED    removed by name while running; its output is        FORGOTTEN; GONE if nobody holds
               discarded                                           its pipes
    FORGOTTEN  has ended, and its name is free; its pipes are      GONE
               still drained
    GONE       nothing is left of it

After a restart, a process with a pid counts as RUNNING although the nursery may still report that
exec failed, so RUNNING may also become GONE. Any other change of state is a bug and raises.
"""

from __future__ import annotations

import asyncio
import enum
import os
import select
from dataclasses import dataclass, field
from typing import Protocol

from papad.daemon.output.ring import Ring
from papad.daemon.tables.launch import Spec

HIDDEN = "(hidden)"
"""Stands for what a client may not see."""


class State(enum.Enum):
    """The state of a process; see the module's docstring."""

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

_LISTED = (State.RUNNING, State.ENDED, State.CLOSED, State.REMOVED)


_REMOVED = (State.REMOVED, State.FORGOTTEN)


class IllegalTransition(Exception):
    """A bug: something happened to a process that its state does not allow."""


class Observer(Protocol):
    """Watches processes."""

    consumes: bool
    """Whether what it acknowledges is gone for others."""

    def wake(self) -> None:
        """Handle news of a watched process."""

    def lose(self, process: Process) -> None:
        """Stop watching a process that is no longer in any table."""


@dataclass(eq=False)
class Process:
    """A process, from the moment it is in the store until nothing is left of it."""

    id: int
    """Identifies it in the store and to the nursery. Ids only grow, so none is used twice."""
    name: str
    spec: Spec
    ring: Ring | None = None
    """Holds its captured output; None if nothing is captured."""
    state: State = State.BEGUN
    pipes: dict[int, int] = field(default_factory=dict)
    """Stream -> read end of its pipe, which is ours, until end of file."""
    pid: int = 0
    started: float = 0.0
    """When it was forked, in seconds since 1970."""
    ticks: int = 0
    """The same in clock ticks since the boot (proc.start_ticks), 0 if unknown: with the pid, names it for certain."""
    pidfd: int = -1
    """Ours; tells when it exits if the nursery cannot."""
    exit: tuple[int, float] | None = None
    """Its exit code, and when it ended."""
    ready: asyncio.Future[str] | None = None
    """While BEGUN or FORKED: will be its first line, or the reason why it did not start."""
    replaces: Process | None = None
    """The process that has ended whose name it takes over, until it has started."""
    nursery: int = 0
    """The pid of its parent. If that nursery is gone, only the pidfd tells when it exits."""
    observers: set[Observer] = field(default_factory=set)
    _line: str = ""
    """The line that was told last, when its exit was _line_of."""
    _line_of: tuple[int, float] | None = None

    def enter(self, state: State) -> None:
        """Change to `state`. Raises IllegalTransition if the table has no such transition."""
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransition(
                f"process {self.name} (pid {self.pid}) cannot become {state.value}: it is {self.state.value}"
            )
        self.state = state

    @property
    def listed(self) -> bool:
        """Whether clients can see it."""
        return self.state in _LISTED

    @property
    def removed(self) -> bool:
        """Whether its output is discarded."""
        return self.state in _REMOVED

    @property
    def closed(self) -> bool:
        """Whether it has ended and all its output is captured."""
        return self.exit is not None and not self.pipes

    @property
    def held(self) -> bool:
        """Whether it has ended, and a descendant holds its output open.

        What nobody holds any more will be closed as soon as it is read (poll(2): POLLHUP).
        """
        if self.exit is None or not self.pipes:
            return False
        poll = select.poll()
        for fd in self.pipes.values():
            poll.register(fd, 0)
        return sum(bool(events & select.POLLHUP) for _, events in poll.poll(0)) < len(self.pipes)

    @property
    def closed_at(self) -> float:
        """When it closed: at its exit, or at the last output after that."""
        assert self.exit is not None
        return max(self.exit[1], self.ring.newest if self.ring else 0.0)

    @property
    def watchers(self) -> int:
        """How many watch it whose acknowledgements count."""
        return sum(each.consumes for each in self.observers)

    def __str__(self) -> str:
        return self.line()

    def hidden_from(self, viewer: int | None) -> bool:
        """Return whether a client may not see arguments and environment.

        `viewer` is the uid of one that may only look, and sees its own; None is one that may see all.
        """
        return viewer is not None and viewer != (os.geteuid() if self.spec.uid is None else self.spec.uid)

    def line(self, viewer: int | None = None) -> str:
        """Return the line that `list` has for it; `viewer` is as for `hidden_from`."""
        if self.hidden_from(viewer):
            return self._line_with(HIDDEN)
        if self._line_of is not self.exit or not self._line:  # while it is listed, nothing else of it changes
            line = self._line_with(" ".join(self.spec.args))
            if not self.pid:
                return line
            self._line, self._line_of = line, self.exit
        return self._line

    def _line_with(self, args: str) -> str:
        words = [f"{self.name} pid={self.pid} running={self.exit is None} started={self.started}"]
        if self.spec.uid:
            words.append(f"uid={self.spec.uid}")
        if self.spec.gid:
            words.append(f"gid={self.spec.gid}")
        if self.spec.shell:
            words.append("shell=True")
        return " ".join((*words, f"args={args}"))
