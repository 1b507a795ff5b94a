"""Two homes of every descriptor: what one of them has is enough, and what nobody needs is in none."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from papad.daemon.commands.table import Tables
from papad.daemon.durable.homes import Homes
from papad.daemon.tables.sockets import specify
from papad.errors import Error
from tests.support.lives import Lives
from tests.support.papad import FdStore, no_new_fds


class Two:
    """Both homes, which outlive the papad that `homes` belongs to. What is in them are memfds with their names in them."""

    def __init__(self) -> None:
        self.service, self.nursery = FdStore(), FdStore()
        self.homes = Homes(self.service, self.nursery)
        self.fds: dict[str, int] = {}  # the papad's own

    def hold(self, name: str, *, nursery_only: bool = False) -> None:
        fd = self.fds[name] = os.memfd_create("test")
        os.write(fd, name.encode())
        (self.homes.hold_in_nursery if nursery_only else self.homes.hold)(name, fd)

    def take(self, name: str, *, nursery_only: bool = False) -> None:
        self.fds[name] = self.homes.take(name, nursery_only=nursery_only)

    def leave(self) -> None:
        for fd in (*self.fds.values(), *self.homes._found.values()):
            os.close(fd)
        self.fds = {}

    def restart(self, *, withheld: set[str] | None = None) -> None:
        """The next papad has met both homes; the nursery could not pass what is withheld."""
        self.leave()
        self.service, self.nursery = self.service.next(), self.nursery.next()
        for name in withheld or ():
            os.close(self.nursery.stored.pop(name))
        self.homes = Homes(self.service, self.nursery)
        self.homes.collect(self.service.stored, self.nursery.stored, withheld or set())
        self.service.stored, self.nursery.stored = {}, {}

    @property
    def kept(self) -> tuple[str, str]:
        """What is in the FD store, and in the nursery."""
        for name, fd in (*self.service.kept.items(), *self.nursery.kept.items()):
            assert content(fd) == name
        return " ".join(sorted(self.service.kept)), " ".join(sorted(self.nursery.kept))


def content(fd: int) -> str:
    return os.pread(fd, 100, 0).decode()


@pytest.fixture
def two() -> Iterator[Two]:
    with no_new_fds():
        made = Two()
        yield made
        made.leave()
        made.service.close()
        made.nursery.close()


def test_what_is_held_is_in_both_homes_until_it_is_dropped(two: Two) -> None:
    two.hold("a")
    two.hold("b")
    two.hold("pipe", nursery_only=True)
    assert two.kept == ("a b", "a b pipe")
    two.homes.drop("a")
    two.homes.drop("pipe")
    two.homes.drop("never held")
    assert two.kept == ("b", "b")
    os.fstat(two.fds["a"])  # it is still the caller's


@pytest.mark.parametrize("lost", ["nothing", "service", "nursery"])
def test_the_next_papad_takes_what_either_home_has_and_both_have_it_again(two: Two, lost: str) -> None:
    two.hold("a")
    two.hold("pipe", nursery_only=True)
    for home in [home for name, home in (("service", two.service), ("nursery", two.nursery)) if name == lost]:
        for name in home.kept:
            home.drop(name)
    two.restart()
    assert "a" in two.homes
    assert ("pipe" in two.homes) == (lost != "nursery")
    two.take("a")
    assert content(two.fds["a"]) == "a"
    assert "a" not in two.homes
    if lost != "nursery":
        two.take("pipe", nursery_only=True)
        assert content(two.fds["pipe"]) == "pipe"
    two.homes.settle([])
    assert two.kept == ("a", "a" if lost == "nursery" else "a pipe")


def test_each_home_gets_what_only_the_other_has(two: Two) -> None:
    for name in "abcd":
        two.hold(name)
    two.service.drop("a")
    two.nursery.drop("b")
    two.service.drop("c")
    two.restart()
    for name in "abcd":
        two.take(name)
    assert two.kept == ("a b c d", "a b c d")
    assert {name: content(fd) for name, fd in two.fds.items()} == {name: name for name in "abcd"}


def test_of_two_duplicates_one_is_closed(two: Two) -> None:
    for name in "abc":
        two.hold(name)
    two.leave()
    two.service, two.nursery = two.service.next(), two.nursery.next()
    both = [*two.service.stored.values(), *two.nursery.stored.values()]
    two.homes = Homes(two.service, two.nursery)
    two.homes.collect(two.service.stored, two.nursery.stored, set())
    two.service.stored, two.nursery.stored = {}, {}
    assert len(both) == 6
    assert sorted(content(fd) for fd in both if is_open(fd)) == ["a", "b", "c"]
    two.homes.settle([])
    assert not any(map(is_open, both))
    assert two.kept == ("", "")


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_what_nobody_takes_is_dropped_unless_it_is_needed(two: Two, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("taken", "needed", "only in the nursery", "unneeded", "unneeded too"):
        two.hold(name)
    two.hold("pipe", nursery_only=True)
    two.service.drop("only in the nursery")
    two.nursery.drop("unneeded too")
    two.restart()
    two.take("taken")
    assert two.homes.settle(["needed", "taken", "only in the nursery", "pipe", "nobody has it"])
    assert two.kept == ("needed taken", "needed only in the nursery pipe taken")
    assert {record.getMessage() for record in caplog.records} == {
        "dropping descriptor unneeded: nothing uses it",
        "dropping descriptor unneeded too: nothing uses it",
    }
    two.fds |= {name: fd for name, (fd, _) in two.homes._held.items() if name != "taken"}
    assert {name: content(fd) for name, fd in two.fds.items()} == {name: name for name in two.nursery.kept}


def test_a_new_nursery_gets_all_that_is_held_and_all_that_is_needed(two: Two) -> None:
    for name in ("taken", "needed", "dropped", "unneeded"):
        two.hold(name)
    two.hold("pipe", nursery_only=True)
    two.hold("needed pipe", nursery_only=True)
    two.restart()
    for name in ("taken", "dropped"):
        two.take(name)
    two.take("pipe", nursery_only=True)
    assert two.homes.settle(["needed", "needed pipe"])
    assert not two.homes.settle([]), "there is nothing left to drop"
    two.hold("new")
    two.homes.drop("dropped")
    for name in two.nursery.kept:
        two.nursery.drop(name)
    assert two.kept == ("needed new taken", "")
    two.homes.furnish()
    assert two.kept == ("needed new taken", "needed needed pipe new pipe taken")
    two.fds |= {name: two.homes._held[name][0] for name in ("needed", "needed pipe")}


def test_needed_things_are_needed_again_at_the_next_start(two: Two) -> None:
    two.hold("needed")
    for _ in range(3):
        two.restart()
        assert "needed" in two.homes
        two.homes.settle(["needed"])
        two.fds["needed"] = two.homes._held["needed"][0]
        assert two.kept == ("needed", "needed")


def test_what_the_nursery_withheld_is_left_there(two: Two) -> None:
    for name in ("a", "b"):
        two.hold(name)
    two.hold("pipe", nursery_only=True)
    two.service.drop("b")
    two.restart(withheld={"a", "b", "pipe"})
    assert two.homes.withheld == {"b", "pipe"}, "the FD store had the other"
    assert ("a" in two.homes, "b" in two.homes) == (True, False)
    with pytest.raises(KeyError):
        two.homes.take("b")
    two.homes.settle(["b", "pipe"])
    assert two.kept == ("", "b pipe")
    two.restart()
    assert two.homes.withheld == set()
    two.take("b")
    assert content(two.fds["b"]) == "b"
    assert two.kept == ("b", "b pipe")


def test_to_discard_is_to_close_and_drop_what_an_earlier_papad_left(two: Two) -> None:
    two.hold("a")
    two.hold("b")
    two.nursery.drop("a")
    two.restart()
    two.homes.discard("a")
    two.homes.discard("never there")
    assert "a" not in two.homes
    two.hold("a")
    assert two.kept == ("a b", "a b")
    two.homes.discard("a")  # it is of this papad
    assert two.kept == ("a b", "a b")


def test_a_papad_that_ends_leaves_nothing(two: Two) -> None:
    two.hold("a")
    two.hold("pipe", nursery_only=True)
    two.hold("needed")
    two.restart()
    two.take("a")
    two.take("pipe", nursery_only=True)
    two.homes.settle(["needed"])
    two.fds["needed"] = two.homes._held["needed"][0]
    two.homes.held_in_nursery("told by itself", two.fds["a"])
    two.nursery.hold("told by itself", two.fds["pipe"])
    two.homes.clear()
    assert two.kept == ("", "")


def test_a_service_manager_that_cannot_be_asked_changes_nothing(two: Two) -> None:
    two.hold("a")
    two.service.refusing = Error("systemd cannot be asked to keep this")
    fd = os.memfd_create("test")
    with pytest.raises(Error, match="cannot be asked"):
        two.homes.hold("b", fd)
    os.close(fd)
    two.hold("pipe", nursery_only=True)  # it is not asked
    assert two.kept == ("a", "a pipe")
    assert two.homes._held.keys() == {"a", "pipe"}


def test_a_start_at_which_the_service_manager_cannot_be_asked_has_everything_and_the_next_tries_again(
    two: Two, caplog: pytest.LogCaptureFixture
) -> None:
    """Its socket may be full just then: a papad that does not start is worse than one home too few."""
    two.hold("a")
    two.service.drop("a")
    two.restart()
    two.service.refusing = Error("systemd cannot be asked to keep this")
    two.take("a")
    assert content(two.fds["a"]) == "a"
    assert "descriptor a has one home only: systemd cannot be asked to keep this" in caplog.text
    assert two.kept == ("", "a")
    two.restart()
    two.take("a")
    assert two.kept == ("a", "a")


def test_what_is_taken_as_a_socket_and_is_none_is_dropped(two: Two) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        two.homes.hold("sock", sock.fileno())
        two.hold("memfd")
        two.restart()
        with two.homes.take_socket("sock") as taken:
            assert (taken.family, taken.type) == (sock.family, sock.type)
            assert os.fstat(taken.fileno()).st_ino == os.fstat(sock.fileno()).st_ino
    with pytest.raises(OSError, match="Socket operation on non-socket"):
        two.homes.take_socket("memfd")
    with pytest.raises(KeyError):
        two.homes.take_socket("memfd")
    assert two.service.kept.keys() == two.nursery.kept.keys() == {"sock"}


def test_the_barrier_waits_for_both(two: Two) -> None:
    passed = []

    class Slow(FdStore):
        async def barrier(self) -> None:
            await asyncio.sleep(0)
            passed.append(self)

    service, nursery = Slow(), Slow()
    asyncio.run(Homes(service, nursery).barrier())
    assert set(passed) == {service, nursery}
    service.close()
    nursery.close()


@pytest.mark.parametrize("lost", ["the FD store", "the nursery", "nothing"])
def test_with_a_real_nursery_one_of_the_two_may_be_lost(lives: Lives, lost: str) -> None:
    async def made(tables: Tables) -> list[int]:
        await tables.processes._spawner.ensure()  # as main does when there is something to hold
        sock = tables.sockets.make("web", specify({})).sock
        tables.values.set("a", "1")
        await tables.processes._homes.barrier()
        return [os.fstat(sock.fileno()).st_ino, tables.processes._spawner.pid]

    async def found(tables: Tables) -> list[int | str]:
        sock = tables.sockets.get("web")
        assert sock is not None
        await tables.processes._spawner.ensure()
        await tables.processes._homes.barrier()
        return [os.fstat(sock.sock.fileno()).st_ino, tables.processes._spawner.pid, tables.values.get("a")]

    inode, nursery = lives.report(made)
    for _ in range(2):
        assert lives.store.kept.keys() == {"store", "staging-r", "staging-w", "socket-64-web"}
        if lost == "the FD store":
            lives.store.close()
            lives.store = FdStore(runtime=lives.store.runtime)
        elif lost == "the nursery":
            os.kill(nursery, 9)
        now_inode, now_nursery, value = lives.report(found)
        assert (now_inode, value) == (inode, "1")
        assert (now_nursery != nursery) == (lost == "the nursery")
        nursery = now_nursery
