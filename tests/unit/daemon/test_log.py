"""papad's log: what nobody takes is dropped and counted, and holds nothing up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from papad.daemon import log as module
from papad.daemon.log import Handler
from papad.daemon.output.journal import Journald
from tests.support.papad import REPOSITORY, Talk, no_new_fds
from tests.support.waiting import wait_until


class Receiver:
    """Who reads the journal's socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(path))

    def entries(self) -> list[dict[str, str]]:
        found = []
        while select.select([self.socket], [], [], 0)[0]:
            data, entry = self.socket.recv(1 << 18), {}
            while data:
                name, _, data = data.partition(b"\n")
                size = int.from_bytes(data[:8], "little")
                entry[name.decode()], data = data[8 : 8 + size].decode(), data[9 + size :]
            found.append(entry)
        return found

    def messages(self) -> list[str]:
        return [entry["MESSAGE"] for entry in self.entries()]


def logger_to(journald: Journald | None) -> logging.Logger:
    """A logger that pytest does not know, or it would be given another handler."""
    logger = logging.Logger("test")  # noqa: LOG001
    logger.addHandler(Handler(journald))
    return logger


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    found = Receiver(tmp_path / "socket")
    yield found
    found.socket.close()


@pytest.fixture
def log(tmp_path: Path, receiver: Receiver) -> Iterator[logging.Logger]:
    """A log of its own, to the receiver."""
    with no_new_fds():
        journald = Journald(str(tmp_path / "socket"))
        yield logger_to(journald)
        journald.close()


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The other end of a pipe in the place of standard error, which is pytest's."""
    reader, writer = os.pipe()
    monkeypatch.setattr(module, "_STDERR", writer)
    os.set_blocking(reader, False)
    yield reader
    os.close(writer)
    os.close(reader)


def test_an_entry_has_the_fields_that_journalctl_shows(log: logging.Logger, receiver: Receiver) -> None:
    log.warning("of %s\nand more", "caf\udce9")
    (entry,) = receiver.entries()
    assert entry.pop("CODE_LINE").isdigit()
    assert entry == {
        "MESSAGE": "of caf\\udce9\nand more",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "papad",
        "CODE_FILE": __file__,
        "CODE_FUNC": "test_an_entry_has_the_fields_that_journalctl_shows",
    }


def test_priorities_and_tracebacks(log: logging.Logger, receiver: Receiver) -> None:
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        log.log(level, "x")
    assert [entry["PRIORITY"] for entry in receiver.entries()] == list("76432")
    try:
        _ = 1 // 0
    except ZeroDivisionError:
        log.exception("internal error")
    (message,) = receiver.messages()
    assert message.startswith("internal error\nTraceback")
    assert "ZeroDivisionError" in message
    log.info("y" * 1_000_000)
    (message,) = receiver.messages()
    assert message == "y" * module._LONGEST


TOLD = "6 log messages were dropped, because nobody took them"


def handler_of(log: logging.Logger) -> Handler:
    (handler,) = log.handlers
    assert isinstance(handler, Handler)
    return handler


def overflow(log: logging.Logger) -> int:
    """Log until something is dropped, and five more; how many messages were taken, or wait."""
    handler, number = handler_of(log), 0
    while not handler._dropped:
        log.info("%d", number)
        number += 1
        assert number < 10_000
    for each in range(5):
        log.info("lost %d", each)
    assert handler._dropped == 6
    return number - 1


def test_what_is_not_taken_waits_and_more_of_it_is_dropped_and_told(log: logging.Logger, receiver: Receiver) -> None:
    taken, found = overflow(log), []
    assert taken >= module._MOST
    while not handler_of(log)._deliver():
        found += receiver.messages()
    assert found + receiver.messages() == [*map(str, range(taken)), TOLD]
    log.info("next")
    assert receiver.messages() == ["next"]


def test_a_burst_comes_whole_and_in_order(log: logging.Logger, receiver: Receiver) -> None:
    found = []
    for number in range(500):
        log.info("%d", number)
    for number in range(500, 600):
        found += receiver.messages()
        log.info("%d", number)
    handler_of(log).flush()
    while not handler_of(log)._deliver():
        found += receiver.messages()
    assert found + receiver.messages() == [*map(str, range(600))]


def test_it_is_told_by_the_loop_as_soon_as_there_is_room(log: logging.Logger, receiver: Receiver) -> None:
    async def run() -> None:
        taken, found = overflow(log), []
        async with asyncio.timeout(20):
            while not found or found[-1] != TOLD:
                await asyncio.sleep(0.001)
                found += receiver.messages()
        assert found == [*map(str, range(taken)), TOLD]
        await asyncio.sleep(0.1)
        assert not asyncio.get_running_loop().remove_writer(handler_of(log)._journald)  # type: ignore[arg-type]

    asyncio.run(run())


def test_without_journald_it_goes_to_standard_error(tmp_path: Path, stderr: int) -> None:
    journald = Journald(str(tmp_path / "nothing"))
    logger = logger_to(journald)
    logger.error("here")
    assert os.read(stderr, 1000) == b"papad: ERROR: here\n"
    journald.close()


def test_standard_error_that_nobody_reads_holds_nothing_up(stderr: int) -> None:
    logger = logger_to(None)
    taken, read = overflow(logger), b""
    began = time.monotonic()
    handler_of(logger).flush()
    assert 0.9 < time.monotonic() - began < 10
    while not handler_of(logger)._deliver():
        read += os.read(stderr, 1 << 16)
    logger.error("x" * 10_000)
    with contextlib.suppress(BlockingIOError):
        while True:
            read += os.read(stderr, 1 << 16)
    *lines, told, long = read.decode().splitlines()
    assert lines == [f"papad: INFO: {number}" for number in range(taken)]
    assert told == f"papad: WARNING: {TOLD}"
    assert long == f"papad: ERROR: {'x' * 10_000}"


def test_papad_answers_while_nobody_reads_what_it_logs(tmp_path: Path) -> None:
    path = tmp_path / "papad.sock"
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "papad.daemon.main", "-u", str(path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=writer) as popen:
        wait_until(path.exists, "papad listens")
        with Talk(str(path)) as talk:
            assert "is home" in os.read(reader, 1000).decode()
            os.set_blocking(writer, False)
            with pytest.raises(BlockingIOError):
                while True:
                    os.write(writer, b"\n" * 4096)
            for number in range(20):
                assert "pid=" in talk.ask(f"make process p{number} /bin/true")
        os.set_blocking(reader, False)
        said = b""

        def told() -> bool:
            nonlocal said
            with contextlib.suppress(BlockingIOError):
                said += os.read(reader, 1 << 16)
            return b"started process p19" in said

        wait_until(told, "what waited is told")
        popen.terminate()
        assert popen.wait(20) == 0
    os.close(reader)
    os.close(writer)
