"""The vault: what was written is there for the next papad, with the same files, wherever the last one was killed."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papad.daemon.durable import vault
from papad.daemon.durable.vault import Vault
from papad.errors import Error
from tests.support.homes import Content, opened
from tests.support.homes import VaultHome as Home
from tests.support.papad import dies_at, in_child, no_new_fds, open_fds

CALLS = (
    (socket, "send_fds"),
    (socket, "socketpair"),
    (os, "memfd_create"),
    (os, "ftruncate"),
    (os, "close"),
    (os, "pwrite"),
)


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments as those of a user whose net.core.wmem_max is tiny: a few messages each."""
    real = socket.socketpair

    def tiny(*args: Any) -> tuple[socket.socket, socket.socket]:
        reader, writer = real(*args)

        class Small(socket.socket):
            def setsockopt(self, level: int, option: int, *value: Any) -> None:
                if option == 32:  # SO_SNDBUFFORCE
                    raise PermissionError
                super().setsockopt(level, option, *value)

        small = Small(fileno=writer.detach())
        small.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        return reader, small

    monkeypatch.setattr(vault.socket, "socketpair", tiny)


keys = st.sampled_from(("value:a", "process:1", "process:2"))
contents = st.dictionaries(st.sampled_from("xyz"), st.integers(), min_size=1)
changes = st.one_of(
    st.tuples(st.just("write"), keys, contents, st.sets(st.sampled_from(("out", "err", "ring")))),
    st.tuples(st.just("large"), keys),
    st.tuples(st.just("erase"), keys),
    st.tuples(st.just("withdraw"), keys),
    st.tuples(st.just("compact")),
    st.tuples(st.just("restart")),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(changes, max_size=30))
def test_after_any_changes_and_restarts_all_is_as_it_was(steps: list[tuple[Any, ...]]) -> None:
    _run(steps)


@pytest.mark.usefixtures("small_segments")
def test_the_same_holds_where_segments_are_small(home: Home) -> None:
    @settings(max_examples=60, deadline=None, database=None)
    @given(st.lists(changes, max_size=40))
    def check(steps: list[tuple[Any, ...]]) -> None:
        _run(steps)

    check()


def _run(steps: list[tuple[Any, ...]]) -> None:
    with no_new_fds(), opened(Home) as home:
        for step in steps:
            kind, *rest = step
            key = rest[0] if rest else ""
            if kind == "write":
                home.write(key, rest[1], *rest[2])
            elif kind == "large":
                home.write(key, {"big": os.urandom(20_000).hex()}, "pidfd")
            elif kind == "erase":
                home.erase(key)
            elif kind == "withdraw" and home.model.get(key, ({}, {}))[1]:
                home.withdraw(key, min(home.model[key][1]))
            elif kind == "compact":
                home.vault.compact()
            elif kind == "restart":
                home.vault.compact()  # what was withdrawn may be found again, unless it was compacted away
                home.restart()
            assert home.content() == home.model
        home.vault.compact()
        home.restart()
        assert home.content() == home.model


def test_what_was_withdrawn_is_found_again_at_most(home: Home) -> None:
    home.write("process:1", {"x": 1}, "out", "err")
    home.withdraw("process:1", "out")
    home.restart()
    fields, inodes = home.content()["process:1"]
    assert fields == {"x": 1}
    assert inodes.keys() == {"out", "err"}
    assert inodes["err"] == home.model["process:1"][1]["err"]


@pytest.mark.usefixtures("small_segments")
def test_what_does_not_fit_goes_into_further_segments_and_a_start_reads_them_all(home: Home) -> None:
    for number in range(100):
        home.write(f"process:{number}", {"text": "x" * 200}, "out")
    segments = len(home.store.kept)
    assert segments > 5
    home.restart()
    assert home.content() == home.model
    home.write("process:1", {"x": 1})
    for number in range(2, 100):
        home.erase(f"process:{number}")
    home.vault.compact()
    assert len(home.store.kept) == 1
    home.restart()
    assert home.content() == home.model


def test_thousands_of_changes_take_one_segment_and_few_messages(home: Home) -> None:
    home.write("value:stays", {"value": "here"})
    for number in range(3000):
        home.write(f"value:{number % 3}", {"value": number})
        assert home.vault._messages <= 2 * len(home.vault.entries) + vault._SLACK + 1
    assert len(home.store.kept) == 1
    home.restart()
    assert home.content() == home.model


def test_descriptors_come_back_as_the_same_open_files(home: Home) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"in the pipe")
    os.close(writer)
    home.vault.write("process:1", {"x": 1}, {"out": reader})
    home.restart()
    assert os.read(home.vault.entries["process:1"].fds["out"], 100) == b"in the pipe"


def written_for_a_compaction(home: Home) -> None:
    for number in range(5):
        home.write(f"process:{number}", {"n": number}, "out", "ring")
        home.write(f"process:{number}", {"pid": number}, "pidfd")
    home.write("value:large", {"value": "x" * 40_000})
    home.write("value:gone", {"value": "y" * 40_000})
    home.write("process:9", {"n": 9}, "out")
    home.erase("value:gone")
    home.erase("process:9")


@pytest.mark.parametrize("small", [False, True], ids=["one segment", "small segments"])
def test_killed_at_any_step_of_a_compaction_nothing_is_missing_and_nothing_comes_back(
    small: bool, request: pytest.FixtureRequest
) -> None:
    if small:
        request.getfixturevalue("small_segments")
    assert _killed_at_each_step(lambda home: home.vault.compact()) > 20


def test_killed_at_any_step_of_a_start_the_next_start_finds_everything() -> None:
    def start(home: Home) -> None:
        again = Vault(home.store)
        home.store.stored = {name: os.dup(fd) for name, fd in home.store._kept}
        again.recover()

    assert _killed_at_each_step(start) > 20


def _killed_at_each_step(act: Callable[[Home], None]) -> int:
    step = 0
    while True:
        with no_new_fds(), opened(Home) as home:
            written_for_a_compaction(home)
            assert home.store.kept
            alive = not dies_at(step, CALLS, lambda home=home: act(home))
            home.restart()
            assert home.content() == home.model, f"killed at step {step}"
            assert len(home.store.kept) <= (1 if home.vault._messages < 3 else 6)
        if alive:
            return step
        step += 1


@pytest.mark.parametrize("change", ["amend", "overwrite large", "erase", "erase large", "first"])
def test_killed_at_any_step_of_a_change_it_is_there_or_not_but_never_half(change: str) -> None:
    acts: dict[str, Callable[[Home], None]] = {
        "amend": lambda home: home.write("process:1", {"n": 100, "exit": 7}, "new"),
        "overwrite large": lambda home: home.write("value:large", {"value": "z" * 50_000}),
        "erase": lambda home: home.erase("process:1"),
        "erase large": lambda home: home.erase("value:large"),
        "first": lambda home: home.write("process:77", {"n": 77}, "out", "err"),
    }
    step, outcomes = 0, set()
    while True:
        with no_new_fds(), opened(Home) as home:
            written_for_a_compaction(home)
            assert home.store.kept
            before = _plain(home.content())
            alive = not dies_at(step, CALLS, lambda home=home: acts[change](home))
            home.restart()
            found = _plain(home.content())
            if alive:
                acts[change](home)
                assert found == _plain(home.content())
                outcomes.add("after")
            outcomes.add("before" if found == before else "after")
            if found != before:
                done = found
        if alive:
            break
        step += 1
    assert outcomes == {"before", "after"}
    assert done is not None


def _plain(content: Content) -> dict[str, tuple[dict[str, Any], list[str]]]:
    return {key: (dict(fields), sorted(inodes)) for key, (fields, inodes) in content.items()}


def test_a_large_record_gives_its_memory_back_when_erased_or_overwritten(home: Home) -> None:
    for act in (lambda: home.erase("value:a"), lambda: home.write("value:a", {"value": "small"})):
        home.write("value:a", {"value": "x" * (2 << 20)})
        (memfd,) = home.vault.entries["value:a"].spilled
        witness = os.dup(memfd)
        assert os.fstat(witness).st_size > 2 << 20
        act()
        assert os.fstat(witness).st_size == 0
        os.close(witness)
    home.restart()
    assert home.content() == home.model == {"value:a": ({"value": "small"}, {})}


def test_a_large_record_that_still_counts_keeps_its_memory_through_amendment_and_compaction(home: Home) -> None:
    home.write("process:1", {"spec": "x" * (2 << 20)}, "out")
    home.write("process:1", {"pid": 5})
    home.vault.compact()
    home.restart()
    home.write("process:1", {"exit": [0, 1.5]})
    home.restart()
    assert home.content() == home.model


def test_a_large_record_is_not_kept_twice_after_a_start(home: Home) -> None:
    home.write("value:a", {"value": "x" * (2 << 20)})
    home.restart()
    assert len(home.vault.entries["value:a"].spilled) == 1
    home.write("value:a", {"value": "y"})
    assert home.vault.entries["value:a"].spilled == []


def test_a_refused_change_changes_nothing(home: Home) -> None:
    home.store.refusing = Error("the store is full")
    with pytest.raises(Error, match="full"):
        home.vault.write("value:a", {"value": 1})
    assert home.vault.entries == {}
    home.store.refusing = None
    home.write("value:a", {"value": 2})
    home.store.refusing = Error("the store is full")
    home.write("value:a", {"value": 3})  # this needs no new segment
    with pytest.raises(Error, match="full"):
        home.vault.compact()
    home.write("value:b", {"value": 4})
    home.store.refusing = None
    home.restart()
    assert home.content() == home.model


@pytest.mark.usefixtures("small_segments")
def test_a_compaction_that_fails_half_way_leaves_all_as_it_was(home: Home) -> None:
    for number in range(60):
        home.write(f"value:{number}", {"text": "x" * 200})
    home.write("value:large", {"value": "x" * 40_000})
    before, segments, fds = home.content(), home.store.kept.keys(), open_fds().keys()
    real, count = home.store.store, iter(range(1000))

    def third_refused(name: str, fd: int) -> None:
        if next(count) == 2:
            raise Error("systemd cannot be asked to keep this")
        real(name, fd)

    home.store.store = third_refused  # type: ignore[method-assign]
    with pytest.raises(Error, match="cannot be asked"):
        home.vault.compact()
    assert open_fds().keys() == fds
    assert home.store.kept.keys() == segments
    home.write("value:new", {"value": 1})
    home.restart()
    assert home.content() == home.model
    assert before.items() <= home.content().items()


def test_a_start_on_which_nothing_can_be_stored_still_has_everything(home: Home) -> None:
    """The notify socket may be full just then: a papad that did not start would be worse than one that compacts later."""
    home.write("value:a", {"value": 1})
    home.leave()
    home.store = home.store.next()
    home.vault = Vault(home.store)
    home.store.refusing = Error("systemd cannot be asked to keep this")
    home.vault.recover()
    assert home.content() == home.model
    home.store.refusing = None


def test_dead_records_do_not_cost_the_live_ones_their_descriptors(home: Home) -> None:
    """What has been erased waits in the log until a compaction. A start with few descriptors to spare has room for the living."""
    home.write("process:live", {"n": 1}, "out", "err", "ring")
    for number in range(120):
        home.write(f"process:{number}", {"n": number}, "out", "err", "ring")
        home.erase(f"process:{number}")
    home.write("process:last", {"n": 2}, "out", "err", "ring")
    home.leave()
    home.store = home.store.next()

    def child() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(open_fds()) + 100, hard))
        home.vault = Vault(home.store)
        home.vault.recover()
        assert home.content() == home.model

    home.vault = Vault(home.store)
    assert in_child(child) == 0


def test_without_a_manager_it_only_remembers(home: Home) -> None:
    home.store.managed = False
    home.write("value:a", {"value": 1}, "out")
    home.write("value:b", {"value": 2})
    home.erase("value:b")
    assert home.content() == home.model
    assert home.store.kept == {}


def test_erasing_or_withdrawing_what_is_unknown_does_nothing(home: Home) -> None:
    home.vault.erase("value:nothing")
    home.vault.withdraw("value:nothing", "out")
    assert home.store.kept == {}
