"""The states of a process: as its docstring has them, and what each of them means."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from papad.daemon.durable.store import Store
from papad.daemon.output.ring import Ring
from papad.daemon.tables import process as module
from papad.daemon.tables.launch import specify
from papad.daemon.tables.process import TRANSITIONS, IllegalTransition, Process, State
from tests.support.machines import check_step, documented, entered, named, reachable
from tests.support.papad import no_new_fds
from tests.support.tables import captured

EXIT = 3, 1000.0


def a_process(state: State, *, ring: Ring | None = None) -> Process:
    return Process(1, "x", specify({}, ["/bin/true"]), ring, state, pid=7, started=900.0)


@pytest.fixture
def ring() -> Iterator[Ring]:
    with no_new_fds():
        store = Store.create()
        yield Ring.create(store, 100)
        store.close()


def test_the_table_of_the_docstring_is_the_one_that_holds() -> None:
    assert documented(module.__doc__ or "", ("state", "meaning", "next state")) == named(TRANSITIONS)


def test_the_docstring_has_the_states_in_the_order_in_which_they_are_declared() -> None:
    assert list(documented(module.__doc__ or "", ("state", "meaning", "next state"))) == [each.name for each in State]


def test_every_state_follows_from_the_first_and_the_last_from_every_other() -> None:
    assert reachable(TRANSITIONS, State.BEGUN) == set(State) - {State.BEGUN}
    assert [each for each in State if State.GONE not in reachable(TRANSITIONS, each)] == [State.GONE]


def test_every_state_is_entered_somewhere() -> None:
    assert entered(State, "state") == {each.name for each in State}


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize("after", State)
def test_only_the_steps_of_the_table_are_taken(before: State, after: State) -> None:
    refusal = IllegalTransition(f"process x (pid 7) cannot become {after.value}: it is {before.value}")
    check_step(a_process(before), "state", TRANSITIONS, after, refusal)


MEANING = {
    # state: its exit is known, a pipe is open; listed, removed, closed
    State.BEGUN: (False, True, False, False, False),
    State.FORKED: (False, True, False, False, False),
    State.RUNNING: (False, True, True, False, False),
    State.ENDED: (True, True, True, False, False),
    State.CLOSED: (True, False, True, False, True),
    State.REMOVED: (False, True, True, True, False),
    State.FORGOTTEN: (True, True, False, True, False),
    State.GONE: (True, False, False, False, True),
}


@pytest.mark.parametrize("state", State)
def test_what_a_state_means_for_clients(state: State) -> None:
    process = a_process(state)
    has_ended, open_pipe, *meaning = MEANING[state]
    process.exit = EXIT if has_ended else None
    process.pipes = {0: 99} if open_pipe else {}
    assert [process.listed, process.removed, process.closed] == meaning


@pytest.mark.parametrize("pipes", [{0: 99}, {}])
def test_it_is_not_closed_before_it_has_ended_even_without_pipes(pipes: dict[int, int]) -> None:
    process = a_process(State.RUNNING)
    process.pipes = pipes
    assert not process.closed
    with pytest.raises(AssertionError):
        _ = process.closed_at


@pytest.mark.parametrize(
    ("written", "closed_at"), [([], 1000.0), ([990.0], 1000.0), ([990.0, 1000.5], 1000.5), ([1002.0], 1002.0)]
)
def test_it_closes_at_its_exit_or_with_the_last_output_after_it(
    ring: Ring, written: list[float], closed_at: float
) -> None:
    process = a_process(State.CLOSED, ring=ring)
    process.exit = EXIT
    for when in written:
        captured(process, b"x", when=when)
    assert process.closed_at == closed_at
    ring.acknowledge(0, ring.state.tail)
    assert process.closed_at == closed_at, "the same once it is acknowledged"
    process.ring = None
    assert process.closed_at == EXIT[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "args=/bin/echo a  b"),
        ({"shell": True}, "shell=True args=/bin/echo a  b"),
        ({"uid": "1", "gid": "2"}, "uid=1 gid=2 args=/bin/echo a  b"),
    ],
)
def test_its_line(options: dict[str, object], words: str) -> None:
    process = Process(1, "x", specify(options, ["/bin/echo", "a  b"]), pid=os.getpid(), started=1.5)
    assert str(process) == f"x pid={os.getpid()} running=True started=1.5 {words}"
    process.exit = EXIT
    assert str(process) == f"x pid={os.getpid()} running=False started=1.5 {words}"


def test_its_line_is_that_of_now_and_hides_the_arguments_from_those_who_only_look() -> None:
    process = Process(1, "x", specify({"uid": "33", "gid": "0"}, ["/bin/cat", "secret"]))
    assert str(process) == "x pid=0 running=True started=0.0 uid=33 args=/bin/cat secret"
    process.pid, process.started = 7, 900.5
    line = "x pid=7 running=True started=900.5 uid=33 args=/bin/cat secret"
    assert [process.line(), process.line(33), process.line()] == [line] * 3
    assert process.line(34) == line.replace("/bin/cat secret", module.HIDDEN)
    process.exit = EXIT
    assert [process.line(), process.line()] == [line.replace("True", "False")] * 2
    assert "secret" not in process.line(34)
