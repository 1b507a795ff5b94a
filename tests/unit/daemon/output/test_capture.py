"""Exactly once: papad is killed at every step of a capture, and the next one has every byte, once each, in order."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papad.daemon.durable.store import TURN_OFFSET
from papad.daemon.output import capture as capture_module
from papad.daemon.output.capture import Capture
from papad.daemon.output.ring import Ring
from tests.support.homes import StoreHome
from tests.support.papad import dies_at, in_child, no_new_fds

CALLS = ((os, "splice"), (os, "pwrite"), (os, "pread"), (fcntl, "fcntl"), (fcntl, "ioctl"))
SIZES = ((1 << 16, "large"), (100, "wraps around"), (7, "tiny"), (1, "one byte"))
NAMES = ("staging-r", "staging-w")


class Scene(StoreHome):
    """Two processes with two streams each; `start` is what a papad does with them when it starts."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.rings = {id: Ring.create(self.store, capacity) for id in (11, 12)}
        for id, ring in self.rings.items():
            self.store.begin(f"process:{id}", {"range": list(ring.range)})
        self.pipes = {(id, stream): os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) for id in self.rings for stream in (0, 1)}

    def write(self, id: int, stream: int, data: bytes) -> None:
        assert os.write(self.pipes[id, stream][1], data) == len(data)

    def start(self) -> Capture:
        """The next papad, in this process: the rings as the store has them, the staging pipe as it was held."""
        self.restart()
        self.rings = {id: Ring(self.store.fd, ring.start) for id, ring in self.rings.items()}
        capture = Capture(self.homes, self.store)
        capture.finish(self.rings.get)
        self.store.sweep()
        return capture

    def pump_all(self, capture: Capture) -> None:
        """One capture after another, taking turns, until nothing is left in the pipes."""
        waiting = list(self.pipes)
        while waiting:
            for id, stream in list(waiting):
                try:
                    assert capture.pump(self.pipes[id, stream][0], self.rings[id], id, stream) > 0
                except BlockingIOError:
                    waiting.remove((id, stream))

    def output(self, id: int, stream: int) -> bytes:
        chunks = self.rings[id].read(0, 1 << 40)
        return b"".join(chunk.data for chunk in chunks if chunk.stream == stream)

    def end(self) -> None:
        self.leave()
        self.fd_store.close()
        for pipe in self.pipes.values():
            for fd in pipe:
                os.close(fd)


@contextlib.contextmanager
def scene(capacity: int) -> Iterator[Scene]:
    made = Scene(capacity)
    try:
        yield made
    finally:
        made.end()


def close(capture: Capture) -> None:
    """Capture lives as long as papad, so it has no method for this."""
    for fd in (capture._null, capture._out, capture._in):
        os.close(fd)


SIZE = 35  # of what `fill` writes to each stream


def fill(made: Scene, mark: bytes) -> dict[tuple[int, int], bytes]:
    texts = {}
    for id, stream in made.pipes:
        texts[id, stream] = b"".join(b"%s%d%d%02d|" % (mark, id, stream, number) for number in range(SIZE // 7))
        made.write(id, stream, texts[id, stream])
    return texts


def assert_exactly_once(made: Scene, written: dict[tuple[int, int], bytes]) -> None:
    """What is kept of each stream is the end of what was written to it; what is not kept was counted."""
    for id, ring in made.rings.items():
        assert ring.staged is None
        total = sum(len(text) for (owner, _), text in written.items() if owner == id)
        kept = {stream: made.output(id, stream) for stream in (0, 1)}
        assert ring.state.tail == total
        assert sum(map(len, kept.values())) + ring.state.lost == total
        for stream, text in kept.items():
            assert written[id, stream].endswith(text)
        assert ring.state.tail - ring.state.head <= ring.capacity
        assert ring.state.lost == 0 or total > ring.capacity
        assert any(kept.values()) or not total


@pytest.mark.parametrize("capacity", [size for size, _ in SIZES], ids=[name for _, name in SIZES])
def test_killed_at_any_step_of_a_capture_the_next_papad_has_every_byte_once(capacity: int) -> None:
    step, killed = 0, 0
    most = 10_000 if capacity > 7 else 60
    while True:
        with scene(capacity) as made:
            first = made.start()
            early = fill(made, b"A")
            made.pump_all(first)  # so that positions are not at 0
            later = fill(made, b"B")
            alive = not dies_at(step, CALLS, lambda made=made, first=first: made.pump_all(first))
            close(first)
            second = made.start()
            last = fill(made, b"C")
            made.pump_all(second)
            assert_exactly_once(made, {key: early[key] + later[key] + last[key] for key in early})
            close(second)
        if alive or step >= most:
            break
        step, killed = step + 1, killed + 1
    assert killed > 30


def test_killed_at_any_step_of_captures_of_one_stream_the_next_papad_has_every_byte_once() -> None:
    """The turn is written at the first of them only. What waited has the time of the recovery: records are in order."""
    alive, step = False, 0
    while not alive:
        with scene(1 << 16) as made:
            first = made.start()

            def child(made: Scene = made, first: Capture = first) -> None:
                for number in range(4):
                    made.write(12, 1, b"line %d\n" % number)
                    assert first.pump(made.pipes[12, 1][0], made.rings[12], 12, 1) == 7

            alive = not dies_at(step, CALLS, child)
            close(first)
            second = made.start()
            made.pump_all(second)
            count = len(made.output(12, 1)) // 7
            assert made.output(12, 1) == b"".join(b"line %d\n" % number for number in range(count))
            assert made.rings[12].state.lost == made.rings[11].state.tail == 0
            times = [chunk.time for chunk in made.rings[12].read(0, 1000)]
            assert times == sorted(times)
            assert count == min(4, 1 + max(0, step - 2) // 10), "a line was not written, or not captured"
            close(second)
        step += 1
    assert step == 43, "the turn and 4 captures of 5 calls, with a step before and after each"


def test_the_turn_is_written_for_another_stream_or_process_and_after_output_was_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[tuple[int, int]] = []
    real = os.pwrite

    def noting(fd: int, data: bytes, offset: int) -> int:
        if offset == TURN_OFFSET:
            turns.append(struct.unpack_from("=QQ", data))
        return real(fd, data, offset)

    with scene(10_000) as made:
        capture = made.start()
        monkeypatch.setattr(os, "pwrite", noting)

        def take(id: int, stream: int) -> None:
            made.write(id, stream, b"a line\n")
            capture.pump(made.pipes[id, stream][0], made.rings[id], id, stream)

        for id, stream in ((11, 0), (11, 0), (11, 1), (12, 1), (12, 1), (11, 0)):
            take(id, stream)
        assert turns == [(11, 0), (11, 1), (12, 1), (11, 0)]

        def child() -> None:
            turns.clear()
            without_memory(made, ENDS["index"][0])
            take(11, 0)
            assert turns == [(11, 0), (0, 0)]  # the first one is marked
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            take(11, 0)
            assert turns[2:] == [(11, 0)]

        assert in_child(child) == 0
        close(capture)


def test_killed_at_any_step_of_the_recovery_too_the_one_after_has_every_byte_once() -> None:
    killed_twice = 0
    for step in range(16):  # one whole capture and the beginning of the next
        for again in range(40):
            with scene(50) as made:
                first = made.start()
                text = fill(made, b"A")
                dies_at(step, CALLS, lambda made=made, first=first: made.pump_all(first))
                close(first)
                assert made.fd_store.kept  # taken here, not by the child
                alive = not dies_at(again, CALLS, made.start)
                killed_twice += not alive
                third = made.start()
                made.pump_all(third)
                assert_exactly_once(made, text)
                close(third)
            if alive:
                break
    assert killed_twice > 50


def test_killed_while_the_staging_pipe_is_held_the_next_papad_makes_its_own() -> None:
    for step in range(100):
        with scene(100) as made:
            made.restart()
            calls = ((socket, "send_fds"), (os, "pipe2"))
            alive = not dies_at(step, calls, lambda made=made: Capture(made.homes, made.store))
            capture = made.start()
            assert made.fd_store.kept.keys() == {"store", *NAMES}
            text = fill(made, b"A")
            made.pump_all(capture)
            assert_exactly_once(made, text)
            close(capture)
        if alive:
            assert step == 6
            return
    raise AssertionError("it never ended")


@pytest.mark.parametrize("lost", [NAMES, NAMES[:1], NAMES[1:]], ids=["both ends", "end to read", "end to write"])
def test_killed_at_any_step_with_the_staging_pipe_lost_too_only_what_was_on_its_way_is_lost(
    lost: tuple[str, ...],
) -> None:
    """What was staged is lost, and counted if the ring was staged; nothing else can tell of it."""
    seen = set()
    alive, step = False, 0
    while not alive:
        with scene(1 << 16) as made:
            first = made.start()
            early = fill(made, b"A")
            made.pump_all(first)
            later = fill(made, b"B")
            alive = not dies_at(step, CALLS, lambda made=made, first=first: made.pump_all(first))
            in_pipe = first._staged()
            was_staged = [ring for ring in made.rings.values() if Ring(ring.fd, ring.start).staged]
            close(first)
            for name in lost:
                made.fd_store.drop(name)
            second = made.start()
            seen.add((bool(in_pipe), bool(was_staged)))
            counted = sum(ring.state.lost for ring in made.rings.values())
            gone = SIZE if was_staged else in_pipe
            assert counted == (SIZE if was_staged else 0)
            last = fill(made, b"C")
            made.pump_all(second)
            for (id, stream), text in later.items():
                whole = early[id, stream] + text + last[id, stream]
                kept = made.output(id, stream)
                if kept != whole:
                    assert kept == early[id, stream] + last[id, stream]
                    gone -= SIZE
            assert gone == 0
            close(second)
        step += 1
    assert seen == {(False, False), (True, False), (True, True), (False, True)}


def test_a_busy_pipe_grows_once_and_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = []
    real = fcntl.fcntl

    def noting(fd: int, command: int, *words: int) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            grown.append(fd)
        return real(fd, command, *words)

    with scene(1 << 21) as made:
        monkeypatch.setattr(capture_module.fcntl, "fcntl", noting)
        capture = made.start()
        reader, writer = made.pipes[11, 0]
        sent = b""
        while len(sent) < 3 << 19:
            piece = os.urandom(1 << 15) * 2
            sent += piece[: os.write(writer, piece)]
            with contextlib.suppress(BlockingIOError):
                capture.pump(reader, made.rings[11], 11, 0)
        made.pump_all(capture)
        assert fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) == 1 << 20
        assert grown == [capture._in, reader]
        assert made.output(11, 0) == sent
        close(capture)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.sampled_from((11, 12)), st.integers(0, 1), st.binary(min_size=1, max_size=99))),
)
def test_any_writes_into_any_ring_arrive_once_and_in_order(capacity: int, writes: list) -> None:
    written = {(id, stream): b"" for id in (11, 12) for stream in (0, 1)}
    with scene(capacity) as made:
        capture = made.start()
        for number, (id, stream, data) in enumerate(writes):
            made.write(id, stream, data)
            written[id, stream] += data
            if number % 3 == 0:
                made.pump_all(capture)
        made.pump_all(capture)
        assert_exactly_once(made, written)
        close(capture)


def test_an_empty_pipe_blocks_and_an_ended_one_gives_zero() -> None:
    with scene(100) as made:
        capture = made.start()
        reader, writer = os.pipe2(os.O_NONBLOCK)
        for take in (lambda: capture.pump(reader, made.rings[11], 11, 0), lambda: capture.drain(reader)):
            with pytest.raises(BlockingIOError):
                take()
        os.write(writer, b"last words")
        os.close(writer)
        assert capture.pump(reader, made.rings[11], 11, 0) == 10
        assert capture.pump(reader, made.rings[11], 11, 0) == 0
        assert capture.drain(reader) == 0
        os.close(reader)
        assert made.output(11, 0) == b"last words"
        close(capture)


def test_draining_takes_everything_and_keeps_nothing() -> None:
    with scene(100) as made:
        capture = made.start()
        made.write(11, 0, b"x" * 5000)
        assert capture.drain(made.pipes[11, 0][0]) == 5000
        assert made.rings[11].state.tail == 0
        close(capture)


def test_bytes_in_the_staging_pipe_of_a_process_that_is_gone_are_dropped() -> None:
    with scene(100) as made:
        first = made.start()
        made.write(11, 0, b"orphan")
        ring = made.rings[11]
        assert dies_at(2 * 2, CALLS, lambda: first.pump(made.pipes[11, 0][0], ring, 11, 0))  # after the first splice
        assert first._staged() == 6
        close(first)
        del made.rings[11]
        second = made.start()
        assert second._staged() == 0
        made.write(12, 1, b"next")
        assert second.pump(made.pipes[12, 1][0], made.rings[12], 12, 1) == 4
        assert made.output(12, 1) == b"next"
        close(second)


OUTPUT = b"".join(b"%03d" % number for number in range(300))

# Where memory ends: so far into the ring, and so many bytes of OUTPUT find room. The index is in the second page.
ENDS = {"index": (4096 + 16, 0), "data": (6592 + 8, 0), "part of the data": (6592 + 8 + 500, 500)}


def without_memory(made: Scene, end: int) -> None:
    """Make writes into a ring fail from there on, as a lack of memory would: no file may be longer."""
    end += made.rings[11].start
    resource.setrlimit(resource.RLIMIT_FSIZE, (end, resource.RLIM_INFINITY))


@pytest.mark.parametrize("end", ENDS)
def test_output_that_cannot_be_stored_is_counted_and_all_other_is_kept(end: str) -> None:
    limit, room = ENDS[end]
    with scene(10_000) as made:
        first = made.start()
        made.write(11, 0, b"earlier\n")
        made.pump_all(first)

        def child() -> None:
            without_memory(made, limit)
            for again in range(3):
                made.write(11, 0, OUTPUT)
                assert first.pump(made.pipes[11, 0][0], made.rings[11], 11, 0) == 900
                assert first._staged() == 0
                assert made.output(11, 0) == b"earlier\n" + OUTPUT[:room]
                assert made.rings[11].state.lost == 900 * (again + 1) - room

        assert in_child(child) == 0
        close(first)
        second = made.start()
        made.write(11, 0, b"next")
        made.pump_all(second)
        assert made.rings[11].state.lost == 2700 - room
        assert made.output(11, 0) == b"earlier\n" + OUTPUT[:room] + b"next"
        close(second)


@pytest.mark.parametrize("pipe_lost", [False, True], ids=["", "and the staging pipe is lost"])
@pytest.mark.parametrize("end", ENDS)
def test_killed_while_it_gives_up_output_that_cannot_be_stored_nothing_false_is_delivered(
    end: str, pipe_lost: bool
) -> None:
    limit, room = ENDS[end]
    found = set()
    step = 0
    alive = False
    while not alive:
        with scene(10_000) as made:
            first = made.start()
            made.write(11, 0, b"earlier\n")
            made.pump_all(first)
            made.write(11, 0, OUTPUT)

            def child(made: Scene = made, first: Capture = first) -> None:
                without_memory(made, limit)
                first.pump(made.pipes[11, 0][0], made.rings[11], 11, 0)

            alive = not dies_at(step, CALLS, child)
            untold = first._staged() if pipe_lost and not Ring(made.store.fd, made.rings[11].start).staged else 0
            close(first)
            for name in NAMES if pipe_lost else ():
                made.fd_store.drop(name)
            second = made.start()
            made.pump_all(second)
            kept = made.output(11, 0).removeprefix(b"earlier\n")
            assert OUTPUT.startswith(kept), f"step {step}"
            lost = made.rings[11].state.lost
            assert lost + len(kept) in (900, 900 - untold), f"step {step}"
            found.add(len(kept))
            made.write(11, 0, b"next")
            made.pump_all(second)
            assert made.output(11, 0) == b"earlier\n" + kept + b"next"
            assert made.rings[11].state.lost == lost
            close(second)
        step += 1
    assert step > 10
    assert found == {900, room} | ({0} if pipe_lost else set())


def test_what_was_given_up_is_not_counted_again_by_the_next_papad() -> None:
    """Even when the number of lost bytes has changed since: a watcher acknowledged some that were overwritten."""
    with scene(1800) as made:
        first = made.start()
        made.write(11, 0, b"x" * 1600)
        made.pump_all(first)
        made.write(11, 0, OUTPUT)

        def child() -> None:
            without_memory(made, 4096 + 64 * 16 + 1800 - 10)
            first.pump(made.pipes[11, 0][0], made.rings[11], 11, 0)
            assert made.rings[11].state.lost == 900 + 710
            made.rings[11].acknowledge(0, 900)

        assert in_child(child) == 0
        close(first)
        for _ in range(2):
            close(made.start())
            assert made.output(11, 0) == b"x" * 700 + OUTPUT[:190]
            assert made.rings[11].state.lost == 710


def test_a_capture_needs_no_new_descriptors() -> None:
    with no_new_fds(), scene(100) as made:
        capture = made.start()
        with no_new_fds():
            for _ in range(50):
                fill(made, b"A")
                made.pump_all(capture)
        close(capture)


def test_without_the_right_to_a_large_staging_pipe_it_works_in_smaller_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl

    def refuse(fd: int, command: int, *args: int) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError(errno.EPERM, "over the limit")
        return real(fd, command, *args)

    with scene(1 << 20) as made:
        reader, writer = made.pipes[11, 0]
        real(writer, fcntl.F_SETPIPE_SZ, 1 << 19)
        data = os.urandom(1 << 18)
        monkeypatch.setattr(capture_module.fcntl, "fcntl", refuse)
        capture = made.start()
        os.write(writer, data)
        assert capture.pump(reader, made.rings[11], 11, 0) == 1 << 16
        made.pump_all(capture)
        assert made.output(11, 0) == data
        close(capture)
