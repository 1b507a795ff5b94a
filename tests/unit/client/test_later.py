"""A watch that goes on with later processes: how it begins, and begins anew, whatever papad says."""

from __future__ import annotations

from pathlib import Path

import pytest

from papad import Error, Papa, TimedOut, Unreachable
from tests.support.peer import Peer
from tests.support.twins import LATERS, REFUSING, data, outcome


def papa(peer: Peer) -> Papa:
    return Papa(peer.path, 20, timeout=20, autostart=False)


@pytest.mark.parametrize("name", LATERS)
def test_every_record_comes_once(tmp_path: Path, name: str) -> None:
    case = LATERS[name]
    with Peer(tmp_path / "s", case.answers) as peer, papa(peer) as p:
        with outcome(case.expected) as found, p.watch_processes(case.pattern, later=True) as watcher:
            batches = (data(batch) for batch in watcher)
            found.append([next(filter(None, batches)) for _ in case.expected])  # type: ignore[attr-defined]
        assert not watcher
        assert watcher.exit_code == case.exit_code
        assert watcher.read(timeout=1) is None
    assert sorted(peer.heard) == sorted(line for line, said in case.answers.items() for _ in said)


def test_it_is_closed_where_it_cannot_begin(tmp_path: Path) -> None:
    with (
        Peer(tmp_path / "s", {b"%describe processes x*\n": [b"Error: no such thing\n> "]}) as peer,
        papa(peer) as p,
        pytest.raises(Error, match="no such thing"),
    ):
        p.watch_processes("x*", later=True)


def test_it_can_be_read_again_after_papad_was_away_for_longer_than_was_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> None:
        raise Unreachable("papad does not answer")

    case = LATERS["over a restart"]
    with Peer(tmp_path / "s", case.answers) as peer, papa(peer) as p:
        watcher = p.watch_processes("x", later=True)
        watcher.read()
        with monkeypatch.context() as patch:
            patch.setattr(p, "another", nobody)
            with pytest.raises(Unreachable):
                watcher.read()
        assert watcher
        assert watcher.ready, "it is no use to wait"
        assert [data(watcher.read() or ()) for _ in range(2)] == [[b"two"], [4]]
        watcher.close()
        assert not watcher.ready
        with pytest.raises(Error, match="the watcher is closed"):
            watcher.fileno()


def test_what_papad_refuses_is_told(tmp_path: Path) -> None:
    with (
        Peer(tmp_path / "s", REFUSING) as peer,
        papa(peer) as p,
        p.watch_processes("x*", later=True) as watcher,
        pytest.raises(Error, match="not that"),
    ):
        watcher.read(timeout=10)


def test_it_waits_no_longer_than_it_is_told(tmp_path: Path) -> None:
    case = LATERS["of nothing"]
    with (
        Peer(tmp_path / "s", case.answers) as peer,
        papa(peer) as p,
        p.watch_processes(case.pattern, later=True) as watcher,
        pytest.raises(TimedOut, match="in time"),
    ):
        watcher.read(timeout=0)
