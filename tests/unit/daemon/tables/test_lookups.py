"""Look-ups happen aside, and have a deadline."""

from __future__ import annotations

import asyncio
import os
import pwd
import threading
import time

import pytest

from papad.daemon.tables import lookups
from papad.daemon.tables.lookups import aside, groups_of, owner
from papad.errors import Error
from tests.support.waiting import wait_until


def test_it_returns_or_raises_what_the_function_does() -> None:
    assert asyncio.run(aside(divmod, 7, 3)) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(aside(divmod, 7, 0))


def test_the_loop_goes_on_meanwhile() -> None:
    async def run() -> int:
        task, turns = asyncio.ensure_future(aside(time.sleep, 0.2)), 0
        while not task.done():
            await asyncio.sleep(0.01)
            turns += 1
        return turns

    assert asyncio.run(run()) > 5


def test_after_the_deadline_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "_DEADLINE", 0.1)
    hanging = threading.Event()

    async def run() -> None:
        with pytest.raises(Error, match=r"has not answered within 0\.1 s"):
            await aside(hanging.wait)
        assert len(lookups.DIRECTORY.running) == 1
        hanging.set()
        async with asyncio.timeout(10):
            while lookups.DIRECTORY.running:  # noqa: ASYNC110 - a thread ends it
                await asyncio.sleep(0.01)

    asyncio.run(run())


def test_what_hangs_on_files_takes_no_thread_of_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "_DEADLINE", 0.01)
    monkeypatch.setattr(lookups, "_MOST", 1)
    hanging = threading.Event()

    async def run() -> None:
        with pytest.raises(Error, match="the file system of an env_file has not answered within"):
            await aside(hanging.wait, source=lookups.FILES)
        with pytest.raises(Error, match="the file system of an env_file does not answer; try again later, or give"):
            await aside(divmod, 7, 3, source=lookups.FILES)
        monkeypatch.setattr(lookups, "_DEADLINE", 10.0)
        assert await aside(divmod, 7, 3) == (2, 1)
        hanging.set()
        async with asyncio.timeout(10):
            while lookups.FILES.running:  # noqa: ASYNC110 - a thread ends it
                await asyncio.sleep(0.01)

    asyncio.run(run())


def test_the_groups_of_a_user_are_those_that_the_system_knows() -> None:
    for entry in pwd.getpwall():
        assert sorted(groups_of(entry.pw_name, entry.pw_gid)) == sorted(os.getgrouplist(entry.pw_name, entry.pw_gid))
    assert groups_of("nobody", 4711)[0] == 4711


WWW = pwd.getpwnam("www-data")
OWNERS = {
    "www-data": f"{WWW.pw_uid}",
    "www-data:": f"{WWW.pw_uid}:{WWW.pw_gid}",
    f"{WWW.pw_uid}:": f"{WWW.pw_uid}:{WWW.pw_gid}",
    "www-data:root": f"{WWW.pw_uid}:0",
    "www-data:4711": f"{WWW.pw_uid}:4711",
    "4711:root": "4711:0",
    "4711": "4711",
    ":root": ":0",
    ":4711": ":4711",
}


@pytest.mark.parametrize("text", OWNERS)
def test_an_owner_is_found_as_by_chown(text: str) -> None:
    assert owner(text) == OWNERS[text]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nosuchuser:root", "'nosuchuser' is not a valid user name"),
        ("root:nosuchgroup", "No such group: 'nosuchgroup'"),
        ("4711:", "User 4711 has no group of its own; write owner=4711:GROUP"),
    ],
)
def test_an_owner_that_is_not_there_is_named(text: str, why: str) -> None:
    with pytest.raises(Error) as caught:
        owner(text)
    assert str(caught.value) == why


def test_there_are_only_so_many_that_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "_DEADLINE", 0.01)
    monkeypatch.setattr(lookups, "_MOST", 3)
    hanging = threading.Event()

    async def run() -> None:
        for _ in range(3):
            with pytest.raises(Error, match="has not answered"):
                await aside(hanging.wait)
        with pytest.raises(Error, match="does not answer; try again later"):
            await aside(divmod, 7, 3)
        hanging.set()
        await asyncio.sleep(0.1)

    asyncio.run(run())
    wait_until(lambda: not any(thread.name == "look-up" for thread in threading.enumerate()), "all have ended")
    lookups.DIRECTORY.running.clear()


def test_a_loop_that_has_ended_is_left_alone() -> None:
    ended = threading.Event()

    def slow() -> None:
        time.sleep(0.1)
        ended.set()

    async def run() -> None:
        task = asyncio.ensure_future(aside(slow))
        await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(run())
    assert ended.wait(10)
    wait_until(lambda: not any(thread.name == "look-up" for thread in threading.enumerate()), "the thread has ended")
    lookups.DIRECTORY.running.clear()
