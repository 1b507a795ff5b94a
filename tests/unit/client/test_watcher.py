"""A watch: what comes of it, whatever happens to its connection, and what becomes of that."""

from __future__ import annotations

from pathlib import Path

import pytest

from papad import ConnectionLost, Error, Papa
from tests.support.peer import Last, Peer
from tests.support.twins import BEGIN, END, LIST, LISTED, NO_MORE, ONE, WATCH, WATCHERS, data, outcome, timeout
from tests.support.waiting import wait_until

STOP, STOPPED = b"q\n", b"Stopped watching\n> "


def papa(peer: Peer, timeout: float = 20) -> Papa:
    return Papa(peer.path, 20, timeout=timeout, autostart=False)


@pytest.mark.parametrize("name", WATCHERS)
def test_every_record_comes_once(tmp_path: Path, name: str) -> None:
    case = WATCHERS[name]
    with Peer(tmp_path / "s", case.answers) as peer, papa(peer, timeout(case.expected)) as p:
        with outcome(case.expected) as found, p.watch_processes(case.pattern) as watcher:
            found.append([data(batch) for batch in iter(watcher.read, None)])
        assert not watcher
        assert watcher.exit_code == case.exit_code
        assert watcher.read(timeout=1) is None
        with pytest.warns(RuntimeWarning, match="the watch has ended"):
            assert watcher.read() == ([], [], [])
    assert len(peer.heard) == sum(map(len, case.answers.values()))


@pytest.mark.parametrize("stopped", [False, True], ids=["at its end", "when it is closed"])
def test_the_papa_gets_its_connection_back(tmp_path: Path, stopped: bool) -> None:
    with (
        Peer(tmp_path / "s", {WATCH: [BEGIN], b"\n": [NO_MORE], STOP: [STOPPED], LIST: [LISTED]}) as peer,
        papa(peer) as p,
    ):
        watcher = p.watch_processes("x")
        assert (len(watcher), p.fileno()) == (1, None)
        watcher.read()
        if stopped:
            watcher.close()
        else:
            assert watcher.read() is None
        assert len(watcher) == 0
        assert list(p.list_processes()) == ["x"]
        assert peer.connections == 1


def test_a_papa_that_has_another_connection_keeps_that(tmp_path: Path) -> None:
    with Peer(tmp_path / "s", {WATCH: [BEGIN], b"\n": [NO_MORE], LIST: [LISTED] * 2}) as peer, papa(peer) as p:
        watcher = p.watch_processes("x")
        for _ in range(2):
            assert list(p.list_processes()) == ["x"]
            while watcher and watcher.read() is not None:
                pass
        assert peer.connections == 2


CLOSED: dict[str, tuple[bool, bool, list[bytes]]] = {
    "before anything was read": (False, True, [WATCH]),
    "with an acknowledgement": (True, True, [WATCH, STOP]),
    "without": (True, False, [WATCH]),
}


@pytest.mark.parametrize("how", CLOSED)
def test_closing_acknowledges_what_was_read_if_told_so(tmp_path: Path, how: str) -> None:
    read, acknowledge, heard = CLOSED[how]
    with Peer(tmp_path / "s", {WATCH: [BEGIN], STOP: [STOPPED]}) as peer, papa(peer) as p:
        watcher = p.watch_processes("x")
        if read:
            watcher.read()
        watcher.close(acknowledge=acknowledge)
        watcher.close()
        assert peer.heard == heard


def test_closing_is_no_error_where_papad_is_gone(tmp_path: Path) -> None:
    with Peer(tmp_path / "s", {WATCH: [Last(BEGIN)]}) as peer, papa(peer) as p:
        watcher = p.watch_processes("x")
        watcher.read()
        wait_until(lambda: peer.left, "papad is gone")
        watcher.acknowledge()
        watcher.close()
        assert not watcher


def test_it_is_ready_once_there_is_something_to_read(tmp_path: Path) -> None:
    batches = ONE + b"] " + END + b"] "
    with Peer(tmp_path / "s", {WATCH: [b"Watching 1\n"], b"\n": [Last(batches)]}) as peer, papa(peer) as p:
        watcher = p.watch_processes("x")
        assert not watcher.ready
        assert watcher.connection is not None
        watcher.connection.acknowledge()
        wait_until(lambda: watcher.ready, "a batch has come")
        watcher.read()
        assert watcher.ready, "another batch came with it, which no select() would tell"
        watcher.close(acknowledge=False)
        assert not watcher.ready
        with pytest.raises(Error, match="the watcher is closed"):
            watcher.fileno()


def test_a_watch_goes_on_after_papad_was_away_for_longer_than_was_waited(tmp_path: Path) -> None:
    answers = {WATCH: [BEGIN, BEGIN], LIST: [Last(b""), LISTED], b"\n": [Last(b""), NO_MORE]}
    with Peer(tmp_path / "s", answers) as peer, papa(peer) as p:
        watcher = p.watch_processes("x")
        watcher.read()
        p.connection = p.another()
        p.connection_timeout = -1.0
        with pytest.raises(ConnectionLost):
            watcher.read()
        p.connection_timeout = 20.0
        assert watcher
        assert watcher.read() == ([], [], [])
        assert watcher.read() is None
