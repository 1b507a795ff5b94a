"""The vault: what was written is there for the next papad, with the same files, wherever the last one was killed."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papad.errors import Error
from papad.kernel import parcel, vault
from papad.kernel.vault import Vault
from tests.unit.support import Store, dies_at, in_child, no_new_fds, open_fds

Content = dict[str, tuple[dict[str, Any], dict[str, int]]]  # key -> fields, inodes
CALLS = ((socket, "send_fds"), (socket, "socketpair"), (os, "memfd_create"), (os, "ftruncate"), (os, "close"), (os, "pwrite"))


class Home:
    """A vault, its store, and the descriptors that its table would hold."""

    def __init__(self) -> None:
        self.store = Store()
        self.vault = Vault(self.store)
        self.model: Content = {}

    def write(self, key: str, fields: dict[str, Any], *names: str) -> None:
        fds = {name: os.memfd_create(name) for name in names}
        old = self.vault.entries[key].fds if key in self.vault.entries else {}
        replaced = [old[name] for name in names if name in old]
        self.vault.write(key, fields, fds)
        parcel.close_all(replaced)
        known, inodes = self.model.setdefault(key, ({}, {}))
        known.update(fields)
        inodes.update({name: os.fstat(fd).st_ino for name, fd in fds.items()})

    def erase(self, key: str) -> None:
        fds = list(self.vault.entries[key].fds.values()) if key in self.vault.entries else []
        self.vault.erase(key)
        parcel.close_all(fds)
        self.model.pop(key, None)

    def withdraw(self, key: str, name: str) -> None:
        fd = self.vault.entries[key].fds[name]
        self.vault.withdraw(key, name)
        os.close(fd)
        del self.model[key][1][name]

    def restart(self) -> None:
        """Leave as a killed papad does, and start again."""
        self.leave()
        self.store = self.store.next()
        self.vault = Vault(self.store)
        self.vault.recover()

    def leave(self) -> None:
        """Close all that dies with a process."""
        for entry in self.vault.entries.values():
            parcel.close_all([*entry.fds.values(), *entry.spilled])
        for each in (*self.vault._segments.values(), self.vault._writer):
            if each is not None:
                each.close()

    def content(self) -> Content:
        return {
            key: (entry.fields, {name: os.fstat(fd).st_ino for name, fd in entry.fds.items()})
            for key, entry in self.vault.entries.items()
        }


@pytest.fixture
def home() -> Iterator[Home]:
    with no_new_fds(), new_home() as made:
        yield made


@contextlib.contextmanager
def new_home() -> Iterator[Home]:
    made = Home()
    try:
        yield made
    finally:
        made.leave()
        made.store.close()


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
changes = st.one_of(
    st.tuples(st.just("write"), keys, st.dictionaries(st.sampled_from("xyz"), st.integers(), min_size=1), st.sets(st.sampled_from(("out", "err", "ring")))),
    st.tuples(st.just("large"), keys),
    st.tuples(st.just("erase"), keys),
    st.tuples(st.just("withdraw"), keys),
    st.tuples(st.just("compact")),
    st.tuples(st.just("restart")),
)  # fmt: skip


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
    with no_new_fds(), new_home() as home:
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
        with no_new_fds(), new_home() as home:
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
        with no_new_fds(), new_home() as home:
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


V1 = [
    b'{"k":"value:a","set":{"value":"old"},"fds":[],"v":1}',
    b'{"k":"process:1712000000000","set":{"name":"web","spec":{"args":["/bin/cat"],"env":{},"rlimits":{},'
    b'"working_dir":null,"shell":false,"out":1,"err":1,"bufsize":1048576,"uid":null,"gid":null},"nursery":77},'
    b'"fds":["out","err","ring"],"v":1}',
    b'{"k":"process:1712000000000","set":{"pid":4437,"started":1795450637.15},"fds":["pidfd"],"v":1}',
    b'{"k":"value:a","set":{"value":"caf\\u00e9 \\udce9"},"fds":[],"v":1}',
    b'{"k":"value:b","set":{"value":"b"},"fds":[],"v":1}',
    b'{"k":"value:b","gone":true,"v":1}',
    b'{"k":"socket:web","set":{"spec":{"family":"inet","type":"stream","backlog":5,"path":null,"umask":null,'
    b'"host":"127.0.0.1","port":8080,"interface":null,"reuseport":null},"fileno":64,"node":null},"fds":[],"v":1}',
    b'{"k":"process:1712000000000","set":{"exit":[-9,1795450640.5]},"fds":[],"v":1}',
]
V1_FDS = {1: 3, 2: 1}


def start_on(store: Store, messages: list[bytes], fds: dict[int, int]) -> Vault:
    """The next papad on a log written by other hands."""
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for number, message in enumerate(messages):
        sent = [os.memfd_create(f"test-{number}") for _ in range(fds.get(number, 0))]
        socket.send_fds(writer, [message], sent)
        parcel.close_all(sent)
    store.stored["vault-1"] = reader.detach()
    writer.close()
    found = Vault(store)
    found.recover()
    return found


@pytest.fixture
def read_log(home: Home) -> Callable[..., Vault]:
    def start(messages: list[bytes], fds: dict[int, int] | None = None) -> Vault:
        home.vault = start_on(home.store, messages, fds or {})
        return home.vault

    return start


def test_records_of_version_1_are_understood_for_ever(read_log: Callable[..., Vault]) -> None:
    entries = dict(read_log(V1, V1_FDS).entries)
    process = entries.pop("process:1712000000000")
    assert {key: entry.fields for key, entry in entries.items()} == {
        "value:a": {"value": "caf\u00e9 \udce9"},
        "socket:web": json.loads(V1[6])["set"],
    }
    assert process.fds.keys() == {"out", "err", "ring", "pidfd"}
    assert process.fields.keys() == {"name", "spec", "nursery", "pid", "started", "exit"}
    assert process.fields["exit"] == [-9, 1795450640.5]


def test_this_release_writes_version_1(home: Home) -> None:
    home.write("value:a", {"value": "x"})
    home.erase("value:a")
    (fd,) = home.store.kept.values()
    with socket.socket(fileno=os.dup(fd)) as reader:
        assert [json.loads(reader.recv(4096)) for _ in range(2)] == [
            {"v": 1, "k": "value:a", "set": {"value": "x"}, "fds": []},
            {"v": 1, "k": "value:a", "gone": True},
        ]


DAMAGED = [
    b"{",
    b"\xff\xff",
    b"[]",
    b"#",
    b"{}",
    b'{"v":1}',
    b'{"v":1,"k":"value:bad"}',
    b'{"v":2,"k":"value:a","gone":true}',
    b'{"v":"x","k":"value:a","gone":true}',
    b'{"v":1,"k":"value:a","set":7,"fds":[]}',
    b'{"v":1,"k":"value:a","set":{"value":"bad"},"fds":["lost"]}',
    b'{"v":1,"k":"value:a","set":{"value":"bad"},"fds":7}',
    b'{"v":1,"k":"value:a","set":["bad"],"fds":[]}',
    b'{"v":1,"k":"value:a","set":{"value":"bad"},"fds":[["x"]]}',
    b'{"v":1,"k":["value:a"],"set":{"value":"bad"},"fds":[]}',
]


@pytest.mark.parametrize("damaged", DAMAGED, ids=lambda data: data.decode(errors="replace"))
def test_a_damaged_record_is_dropped_alone(read_log: Callable[..., Vault], damaged: bytes) -> None:
    entries = dict(read_log([V1[0], damaged, *V1[1:3]], {2: 3, 3: 1}).entries)
    assert entries.pop("value:a").fields == {"value": "old"}
    assert entries.pop("process:1712000000000").fds.keys() == {"out", "err", "ring", "pidfd"}
    assert entries == {}


def test_a_damaged_record_with_descriptors_leaves_none_open(read_log: Callable[..., Vault]) -> None:
    entries = read_log([b"{", b'{"v":1,"k":"x","set":{},"fds":["a"]}'], {0: 2, 1: 3}).entries
    assert [entry for entry in entries.values() if entry.fds] == []


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
