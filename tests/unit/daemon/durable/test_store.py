"""The store: what was written is there for the next papad, wherever the last one was killed and whatever had failed."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from papad.daemon.durable import store as module
from papad.daemon.durable.homes import Homes
from papad.daemon.durable.store import LaterFormat, Store, opened_store
from papad.errors import Error
from tests.support.papad import FdStore, dies_at, in_child, no_new_fds

Content = dict[str, dict[str, Any]]
Act = Callable[[Store], None]
PAGE = 4096
TURN = b"the turn"
_pwrite = os.pwrite  # tests put others into its place
_punch = module._punch


@pytest.fixture
def store() -> Iterator[Store]:
    """An empty store; the test leaves nothing else open."""
    with no_new_fds():
        made = Store.create()
        yield made
        made.close()


def content(store: Store) -> Content:
    """All entries, as the next papad should find them."""
    found: Content = json.loads(json.dumps(store.entries))
    return found


def restarted(store: Store) -> Store:
    """The store as the next papad opens it."""
    return Store(store.fd)


def memory(store: Store) -> int:
    """The bytes of memory that the file takes."""
    return os.fstat(store.fd).st_blocks * 512


def image(fd: int) -> int:
    """A copy of the file, holes and all: what a SIGKILL would leave now."""
    copy = os.memfd_create("image")
    os.ftruncate(copy, os.fstat(fd).st_size)
    at = 0
    with contextlib.suppress(OSError):  # ENXIO: no more data
        while True:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, start, os.SEEK_HOLE)
            data = os.pread(fd, at - start, start)
            assert _pwrite(copy, data, start) == len(data)
    return copy


def pattern(start: int) -> bytes:
    """What a range that starts there is filled with here: two pages and a bit."""
    return start.to_bytes(8, "big") * 1100


def hold_range(store: Store, key: str) -> None:
    """What is done for a process with a ring."""
    start = store.allocate(len(pattern(0)))
    os.pwrite(store.fd, pattern(start), start)
    store.begin(key, {"name": key, "range": (start, len(pattern(0)))})


def end_range(store: Store, key: str) -> None:
    """What is done at the end of such a process."""
    start, size = store.entries[key]["range"]
    store.erase(key)
    store.free(start, size)


def leave_orphan(store: Store) -> None:
    """What a papad leaves that is killed before it writes the entry of a range."""
    start = store.allocate(100_000)
    os.pwrite(store.fd, b"x" * 100_000, start)


def check_ranges(store: Store) -> None:
    for _, entry in store.of("process:"):
        if "range" in entry:
            start, size = entry["range"]
            assert os.pread(store.fd, size, start) == pattern(start)


def furnish(store: Store) -> None:
    """A bit of everything."""
    os.pwrite(store.fd, TURN, module.TURN_OFFSET)
    for number in range(5):
        store.begin(f"value:{number}", {"value": "x" * 100 * number})
    store.begin("value:large", {"value": "y" * 3 * PAGE})
    for number in range(3):
        hold_range(store, f"process:{number}")
    store.write("process:1", {"pid": 1, "started": 1.5})
    store.erase("value:4")


def write_and_compact(store: Store) -> None:
    """A change that is large enough for a compaction."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SLACK", -store._live)
        store.write("process:2", {"exit": [1, 2.5]})


def sweep_after_orphans(store: Store) -> None:
    leave_orphan(store)
    restarted(store).sweep()


ACTS: dict[str, Act] = {
    "begin": lambda store: store.begin("value:new", {"value": "caf\u00e9 \udce9"}),
    "begin large": lambda store: store.begin("value:new", {"value": "z" * 5 * PAGE}),
    "amend": lambda store: store.write("process:1", {"exit": [0, 2.5], "pid": 2}),
    "remove a field": lambda store: store.write("process:1", {"pid": None, "started": None, "exit": [0, 2.5]}),
    "overwrite large": lambda store: store.write("value:large", {"value": "w" * 4 * PAGE}),
    "erase": lambda store: store.erase("value:3"),
    "erase large": lambda store: store.erase("value:large"),
    "compact": Store.compact,
    "allocate and begin": lambda store: hold_range(store, "process:3"),
    "erase and free": lambda store: end_range(store, "process:1"),
}
MORE_ACTS: dict[str, Act] = ACTS | {
    "write and compact": write_and_compact,
    "sweep": Store.sweep,
    "sweep after orphans": sweep_after_orphans,
}


# ---- what is written is read ----

keys = st.sampled_from(("value:a", "process:1", "process:2", "server"))
scalars = st.integers() | st.text(max_size=5) | st.booleans() | st.floats(allow_nan=False)
values = st.dictionaries(st.sampled_from("xyz"), st.none() | scalars | st.lists(scalars, max_size=3))
changes = st.one_of(
    st.tuples(st.just("write"), keys, values),
    st.tuples(st.just("begin"), keys, values),
    st.tuples(st.just("erase"), keys),
    st.tuples(st.just("compact")),
    st.tuples(st.just("restart")),
)


def model_of(model: Content, key: str, fields: dict[str, Any]) -> None:
    entry = model.setdefault(key, {})
    for name, value in fields.items():
        if value is None:
            entry.pop(name, None)
        else:
            entry[name] = value


@settings(max_examples=150, deadline=None)
@given(st.lists(changes, max_size=40), st.sampled_from((0, 200, 1 << 20)))
def test_after_any_changes_and_restarts_all_is_as_a_dict_would_have_it(steps: list[Any], slack: int) -> None:
    model: Content = {}
    with pytest.MonkeyPatch.context() as patch, no_new_fds():
        patch.setattr(module, "_SLACK", slack)
        store = Store.create()
        for kind, *rest in steps:
            if kind == "write":
                store.write(*rest)
                model_of(model, *rest)
            elif kind == "begin" and rest[0] in model:
                with pytest.raises(Error, match="is kept for a papad that can use it"):
                    store.begin(*rest)
            elif kind == "begin":
                store.begin(*rest)
                model_of(model, *rest)
            elif kind == "erase":
                store.erase(rest[0])
                model.pop(rest[0], None)
            elif kind == "compact":
                store.compact()
                assert store._length == sum(len(module._line(key, fields)) for key, fields in model.items())
            else:
                store = restarted(store)
            assert content(store) == content(restarted(store)) == model
            assert store._length < max(2 * store._live + slack, 1) or kind == "restart"
            assert store._live == restarted(store)._live
        store.close()


def test_entries_are_found_by_kind(store: Store) -> None:
    for key in ("value:a", "value:a:b", "value:", "process:1", "valued"):
        store.write(key, {"x": key})
    assert sorted(store.of("value:")) == [("", {"x": "value:"}), ("a", {"x": "value:a"}), ("a:b", {"x": "value:a:b"})]


def test_the_names_are_those_of_all_descriptors_of_living_entries(store: Store) -> None:
    store.write("process:1", {"fds": ["out-1", "err-1"]})
    store.write("process:2", {"fds": ["out-2"]})
    store.write("process:3", {"fds": []})
    store.write("kind of a later version:1", {"fds": ["new"], "other": 1})
    store.write("value:a", {"value": "x"})
    store.write("process:1", {"fds": ["err-1"]})
    store.erase("process:2")
    assert store.names == restarted(store).names == {"err-1", "new"}
    store.write("process:1", {"fds": None})
    assert store.names == restarted(store).names == {"new"}


def test_erasing_what_is_unknown_writes_nothing(store: Store) -> None:
    store.erase("value:nothing")
    assert store._length == 0


def test_many_values_that_are_set_twice_are_read_back(store: Store) -> None:
    for turn in range(2):
        for number in range(45_000):
            store.write(f"value:{number}", {"value": f"{turn} {number}"})
    found = restarted(store)
    assert len(found.entries) == 45_000
    assert all(entry == {"value": f"1 {name}"} for name, entry in found.of("value:"))


# ---- a SIGKILL ----


@contextlib.contextmanager
def images_of(store: Store) -> Iterator[list[int]]:
    """Copies of the file after each write to it and each hole in it, and in the middle of those that can be split."""
    taken: list[int] = []

    def pwrite(fd: int, data: Any, offset: int) -> int:
        half = len(data) // 2 if offset >= PAGE else 0  # SIGKILL splits no write within a page, as the header's are
        if half:
            assert _pwrite(fd, data[:half], offset) == half
            taken.append(image(fd))
        written = half + _pwrite(fd, data[half:], offset + half)
        taken.append(image(fd))
        return written

    def punch(fd: int, start: int, size: int) -> None:
        half = size // 2 // PAGE * PAGE
        if half:
            _punch(fd, start, half)
            taken.append(image(fd))
        _punch(fd, start + half, size - half)
        taken.append(image(fd))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        patch.setattr(module, "_punch", punch)
        try:
            yield taken
        finally:
            while taken:
                os.close(taken.pop())


def check_images(store: Store, act: Act) -> int:
    """Each image means the state before `act` or that after it, and is as good as any store. Returns their number."""
    before = content(store)
    with images_of(store) as images:
        act(store)
        taken, images[:] = images[:], []
    after = content(store)
    seen = []
    try:
        for fd in taken:
            found = Store(fd)
            assert all(json.loads(line) for line in os.pread(fd, found._length, found._start).splitlines())
            assert content(found) in (before, after)
            assert os.pread(fd, len(TURN), module.TURN_OFFSET) == TURN
            seen.append(content(found) == after)
            check_ranges(found)
            found.write("value:next", {"value": "of the next papad"})
            found.sweep()
            found.compact()
            check_ranges(found)
            again = Store(fd)
            assert content(again) == (after if seen[-1] else before) | {"value:next": {"value": "of the next papad"}}
            assert memory(again) == least_memory(again)
    finally:
        for fd in taken:
            os.close(fd)
    assert before == after or seen == sorted(seen), "what had been done was undone"
    assert before == after or seen[-1]
    return len(seen)


def least_memory(store: Store) -> int:
    ranges = sum(module._pages(entry["range"][1]) for entry in store.entries.values() if "range" in entry)
    return PAGE + module._pages(store._length) + ranges


@pytest.mark.parametrize("act", MORE_ACTS.values(), ids=MORE_ACTS)
def test_a_kill_anywhere_leaves_the_state_before_or_after(store: Store, act: Act) -> None:
    furnish(store)
    assert check_images(store, act) >= 2


steps = st.lists(
    st.tuples(st.sampled_from(("write", "large", "erase", "ring", "orphan", "compact")), st.integers(0, 2)), max_size=12
)


@settings(max_examples=40, deadline=None)
@given(steps, st.sampled_from((0, 2 * PAGE)))
def test_the_same_holds_for_any_of_many_changes(steps: list[tuple[str, int]], slack: int) -> None:
    def act(kind: str, number: int) -> Act:
        ring = f"process:{number}"
        return {
            "write": lambda store: store.write(f"value:{number}", {"value": "v" * (number + 1)}),
            "large": lambda store: store.write(f"value:{number}", {"value": "v" * 2 * PAGE}),
            "erase": lambda store: store.erase(f"value:{number}"),
            "ring": lambda store: (end_range if ring in store.entries else hold_range)(store, ring),
            "orphan": leave_orphan,
            "compact": Store.compact,
        }[kind]

    with pytest.MonkeyPatch.context() as patch, no_new_fds():
        patch.setattr(module, "_SLACK", slack)
        store = Store.create()
        os.pwrite(store.fd, TURN, module.TURN_OFFSET)
        for step in steps:
            check_images(store, act(*step))
        store.close()


def test_what_a_papad_leaves_that_is_killed_in_a_compaction_is_freed_by_the_next_one(store: Store) -> None:
    """Killed by a real SIGKILL, in another process, as it happens."""
    furnish(store)
    before, step = content(store), 0

    def papad() -> None:
        mine = restarted(store)
        leave_orphan(mine)
        mine.compact()

    while dies_at(step, ((os, "pwrite"), (module, "_punch")), papad):
        found = restarted(store)
        assert content(found) == before
        found.sweep()
        check_ranges(found)
        assert memory(found) == least_memory(found)
        step += 1
    assert step >= 8


# ---- memory that is lacking ----


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
@pytest.mark.parametrize("code", [errno.ENOMEM, errno.ENOSPC], ids=["ENOMEM", "ENOSPC"])
def test_a_write_that_fails_changes_nothing_and_the_store_goes_on(store: Store, act: Act, code: int) -> None:
    furnish(store)
    before, step = content(store), 0
    while fails_at(step, code, lambda: act(store)):
        assert content(store) == content(restarted(store)) == before
        check_ranges(store)
        assert os.pread(store.fd, len(TURN), module.TURN_OFFSET) == TURN
        step += 1
    assert step >= 2
    store.write("value:next", {"value": "x"})
    store.sweep()
    store.compact()
    assert content(store) == content(restarted(store))
    assert memory(store) == least_memory(store)
    check_ranges(store)


def fails_at(step: int, code: int, function: Callable[[], None]) -> bool:
    """Whether `function` fails if there is no memory from its `step`-th write on, of which half is done."""
    writes = iter(range(1000))

    def pwrite(fd: int, data: Any, offset: int) -> int:
        number = next(writes)
        if number == step and offset >= PAGE:
            return _pwrite(fd, data[: len(data) // 2], offset)
        return _fail(code) if number >= step else _pwrite(fd, data, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        try:
            function()
        except OSError as error:
            failed = error.errno
        else:
            return False
    assert failed == code
    return True


def _fail(code: int) -> int:
    raise OSError(code, os.strerror(code))


def test_a_write_that_the_kernel_refuses_half_way_changes_nothing(store: Store) -> None:
    """RLIMIT_FSIZE makes a write end at a byte, as a lack of memory would."""
    store.write("value:a", {"value": "x"})
    end = store._start + store._length
    before = content(store)

    def child() -> None:
        for allowed in (0, 1, 10, 5000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (end + allowed, resource.RLIM_INFINITY))
            with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
                store.write("value:b", {"value": "y" * 10_000})
            with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
                store.compact()
            assert content(store) == content(restarted(store)) == before
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.write("value:b", {"value": "y" * 10_000})

    assert in_child(child) == 0
    assert content(restarted(store)) == before | {"value:b": {"value": "y" * 10_000}}


def test_without_memory_for_its_header_there_is_no_store_and_nothing_stays_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "pwrite", lambda *_: _fail(errno.ENOMEM))
    with no_new_fds(), pytest.raises(OSError, match="memory"):
        Store.create()


def test_a_compaction_that_fails_is_logged_and_tried_again_later(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_SLACK", 10_000)
    tried = []

    def punch(fd: int, start: int, size: int) -> None:
        tried.append(start)
        _punch(fd, start, size)

    monkeypatch.setattr(module, "_punch", punch)
    with pytest.MonkeyPatch.context() as patch:
        new_log = store._next
        patch.setattr(os, "pwrite", lambda fd, data, at: _pwrite(fd, data, at) if at < new_log else _fail(errno.ENOMEM))
        for number in range(300):
            store.write("value:a", {"value": f"{number} {'x' * 100}"})
    assert 1 < len(tried) < 10, "it is not tried with every record"
    assert len(caplog.records) == len(tried)
    assert "cannot compact the store; continuing with it as it is: Cannot allocate memory" in caplog.text
    lengths = []
    for _ in range(400):
        store.write("value:a", {"value": "y" * 100})
        lengths.append(store._length)
    assert lengths[0] > 20_000
    assert max(lengths[100:]) < 11_000
    assert content(restarted(store)) == {"value:a": {"value": "y" * 100}}


def test_a_log_that_is_full_because_no_compaction_worked_is_compacted_when_there_is_memory(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOG_ROOM", 8 * PAGE)
    store._retry_at = 1 << 40  # as if all had failed
    store.write("value:b", {"value": "x"})
    new_log = store._next
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, at: _pwrite(fd, data, at) if at < new_log else _fail(errno.ENOMEM))
        with pytest.raises(OSError, match="memory"):
            while True:
                store.write("value:a", {"value": "y" * 100})
        with pytest.raises(OSError, match="memory"):
            store.write("value:a", {"value": "z" * 100})
    assert content(restarted(store))["value:a"] == {"value": "y" * 100}
    store.write("value:a", {"value": "z" * 100})
    store.erase("value:b")
    assert content(store) == content(restarted(store)) == {"value:a": {"value": "z" * 100}}


def test_the_limit_is_said_and_what_is_there_can_still_be_erased(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LIVE", 1 << 20)
    number = 0
    with pytest.raises(Error, match=r"papad remembers 1 MiB already, which is its limit; remove something"):
        for number in range(100):
            store.begin(f"value:{number}", {"value": "x" * 20_000})
    assert number == 52
    with pytest.raises(Error, match="its limit"):
        store.write("value:0", {"value": "x" * 30_000})
    assert content(store) == content(restarted(store)) == {f"value:{n}": {"value": "x" * 20_000} for n in range(52)}
    store.erase("value:7")
    store.begin("value:new", {"value": "y" * 19_000})
    with pytest.raises(Error, match="its limit"):
        restarted(store).begin("value:another", {"value": "y" * 20_000})
    for name, _ in store.of("value:"):
        store.erase(f"value:{name}")
    assert content(restarted(store)) == {}
    for _ in range(200):  # what is overwritten does not count
        store.write("value:a", {"value": "x" * 20_000})


def test_at_the_limit_what_becomes_of_an_entry_is_still_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LIVE", 2000)
    store.begin("process:1", {"name": "web"})
    with pytest.raises(Error, match="its limit"):
        for number in range(100):
            store.begin(f"value:{number}", {"value": "x" * 100})
    store.write("value:0", {"value": "y" * 100})
    for number in range(50):
        store.write("process:1", {"exit": [number, 1.5]})
    assert restarted(store).entries["process:1"] == {"name": "web", "exit": [49, 1.5]}


def test_one_record_beyond_the_limit_is_refused(store: Store) -> None:
    with pytest.raises(Error, match="papad remembers 64 MiB already"):
        store.write("value:a", {"value": "x" * module.MAX_LIVE})
    assert memory(store) == PAGE


# ---- memory that comes back ----


def test_the_memory_of_a_ring_comes_back_when_it_is_freed(store: Store) -> None:
    store.write("value:a", {"value": "x"})
    before = memory(store)
    start = store.allocate(10 << 20)
    os.pwrite(store.fd, b"x" * (10 << 20), start)
    store.begin("process:1", {"range": (start, 10 << 20)})
    assert memory(store) == before + (10 << 20)
    store.erase("process:1")
    store.free(start, 10 << 20)
    assert memory(store) == before


def test_the_memory_of_a_freed_range_that_ends_within_a_page_comes_back_too(store: Store) -> None:
    start, behind = store.allocate(PAGE + 1), store.allocate(1)
    os.pwrite(store.fd, b"x" * (PAGE + 1), start)
    os.pwrite(store.fd, b"y", behind)
    store.free(start, PAGE + 1)
    assert memory(store) == 2 * PAGE
    assert os.pread(store.fd, 1, behind) == b"y"


def test_the_memory_of_what_was_overwritten_or_erased_comes_back_by_itself(store: Store) -> None:
    for _ in range(50):
        store.write("value:a", {"value": "x" * (1 << 20)})
        assert memory(store) < 6 << 20
    for number in range(20):
        store.write(f"value:{number}", {"value": "x" * (1 << 20)})
    assert memory(store) > 21 << 20
    for name, _ in store.of("value:"):
        store.erase(f"value:{name}")
    assert memory(store) < 2 << 20
    store.compact()
    assert memory(store) == PAGE


def test_after_a_restart_too(store: Store) -> None:
    for number in range(20):
        store.write(f"value:{number}", {"value": "x" * (1 << 20)})
    found = restarted(store)
    for number in range(20):
        found.erase(f"value:{number}")
    assert memory(store) < 2 << 20


def test_what_belongs_to_nothing_is_swept_and_all_else_stays(store: Store) -> None:
    furnish(store)
    leave_orphan(store)
    hold_range(store, "process:8")
    leave_orphan(store)
    store.compact()
    leave_orphan(store)
    found = restarted(store)
    before = content(found)
    found.sweep()
    assert memory(found) == least_memory(found)
    assert content(restarted(found)) == before
    check_ranges(found)


def test_a_range_that_makes_no_sense_is_no_obstacle(store: Store) -> None:
    """It can only be of a later papad, or of a damaged one."""
    odd: list[Any] = ["x", [1], [1, 2, 3], [-5, 10], [10, -5], [1 << 70, 1], [1, 1 << 70], ["a", "b"], {}, [[], []], 7]
    for number, value in enumerate(odd):
        store.write(f"odd:{number}", {"range": value})
    hold_range(store, "process:1")
    found = restarted(store)
    found.sweep()
    hold_range(found, "process:2")
    found.compact()
    check_ranges(found)
    assert [entry["range"] for _, entry in found.of("odd:")] == odd


# ---- ranges ----

SPACE, LOG_ROOM = 64, 4  # pages
ranges = st.lists(
    st.tuples(st.just("allocate"), st.integers(1, 12 * PAGE))
    | st.tuples(st.sampled_from(("erase", "compact", "restart", "sweep")), st.integers(0, 100)),
    max_size=60,
)
BACK_AND_FORTH = [("allocate", 9 * PAGE)] * 6 + [("erase", 1), ("erase", 2), *[("allocate", 5 * PAGE)] * 3] * 3


def fill(number: int, size: int) -> bytes:
    return bytes([number % 255 + 1]) * size


def largest_gap(store: Store) -> int:
    """In pages, for one more range."""
    taken = bytearray(SPACE)
    for start, size in [(0, PAGE), (store._start, LOG_ROOM * PAGE)] + [entry["range"] for _, entry in store.of("r:")]:
        for page in range(start // PAGE, -(-(start + size) // PAGE)):
            assert not taken[page], "two ranges overlap"
            taken[page] = 1
    return max(map(len, bytes(taken).split(b"\1")))


@settings(max_examples=150, deadline=None)
@given(ranges)
@example(BACK_AND_FORTH)
@example([("allocate", (SPACE - LOG_ROOM - 1) * PAGE), ("sweep", 0), ("restart", 0), ("allocate", 1)])
def test_no_range_overlaps_another_and_gaps_are_used_again_when_the_end_is_reached(
    steps: list[tuple[str, int]],
) -> None:
    with pytest.MonkeyPatch.context() as patch, no_new_fds():
        patch.setattr(module, "_SIZE", SPACE * PAGE)
        patch.setattr(module, "_LOG_ROOM", LOG_ROOM * PAGE)
        patch.setattr(module, "_SLACK", 400)
        store = Store.create()
        for number, (kind, argument) in enumerate(steps):
            keys = [f"r:{name}" for name, _ in store.of("r:")]
            if kind == "allocate":
                gap = largest_gap(store)
                if argument > gap * PAGE:
                    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
                        store.allocate(argument)
                else:
                    start = store.allocate(argument)
                    assert not os.pread(store.fd, argument, start).strip(b"\0")
                    os.pwrite(store.fd, fill(number, argument), start)
                    store.begin(f"r:{number}", {"range": (start, argument)})
            elif kind == "erase" and keys:
                end_range(store, keys[argument % len(keys)])
            elif kind == "compact":
                with contextlib.suppress(OSError):  # no gap is large enough for another log
                    store.compact()
            elif kind == "restart":
                store = restarted(store)
            elif kind == "sweep":
                store.sweep()
            for name, entry in store.of("r:"):
                start, size = entry["range"]
                assert os.pread(store.fd, size, start) == fill(int(name), size)
            largest_gap(store)
            assert content(store) == content(restarted(store))
        assert os.fstat(store.fd).st_size == SPACE * PAGE
        store.close()


def test_a_range_larger_than_the_file_is_refused(store: Store) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        store.allocate(module._SIZE)
    hold_range(store, "process:1")
    check_ranges(store)


def test_a_tebibyte_is_allocated_and_takes_no_memory(store: Store) -> None:
    starts = [store.allocate(1 << 40) for _ in range(100)]
    assert [after - before for before, after in itertools.pairwise(starts)] == [1 << 40] * 99
    assert memory(store) == PAGE


def test_a_hole_that_cannot_be_made_is_an_error(store: Store, tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file, pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        module._punch(file.fileno(), 0, -1)


# ---- its homes ----


def test_the_next_papad_finds_it_in_the_homes() -> None:
    with no_new_fds():
        service, nursery = FdStore(), FdStore()
        homes = Homes(service, nursery)
        store = opened_store(homes)
        store.write("value:a", {"value": "x"})
        assert service.kept.keys() == nursery.kept.keys() == {"store"}
        store.close()
        service, nursery = service.next(), nursery.next()
        homes = Homes(service, nursery)
        homes.collect(service.stored, nursery.stored, set())
        service.stored, nursery.stored = {}, {}
        store = opened_store(homes)
        assert content(store) == {"value:a": {"value": "x"}}
        store.close()
        service.close()
        nursery.close()


def test_a_store_in_a_later_format_stays_in_its_homes() -> None:
    with no_new_fds():
        service, nursery = FdStore(), FdStore()
        later = os.memfd_create("later")
        os.pwrite(later, b"papad/st" + (2).to_bytes(8, sys.byteorder), 0)
        homes = Homes(service, nursery)
        homes.collect({"store": later}, {}, set())
        with pytest.raises(LaterFormat, match="stored in format 2, and this papad knows 1"):
            opened_store(homes)
        assert service.kept == {}
        assert [os.fstat(fd).st_ino for fd in nursery.kept.values()] == [os.fstat(later).st_ino]
        os.close(later)
        service.close()
        nursery.close()
