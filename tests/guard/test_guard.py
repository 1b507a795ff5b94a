"""No operation takes more work, or less, than is recorded; and what would be said if one did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.guard.counting import PAPACTL, RECOVERY, missing
from tests.guard.operations import OPERATIONS
from tests.guard.record import (
    HOW_TO_RECORD,
    KEYS,
    MEASURES,
    different_calls,
    different_instructions,
    different_modules,
    recorded,
)
from tests.support.papad import no_new_fds


@pytest.fixture
def counting() -> Iterator[None]:
    if why := missing():
        pytest.skip(why)
    with no_new_fds():
        yield


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize(("what", "count", "compare"), MEASURES)
def test_each_operation_takes_what_is_recorded(
    what: str, count: Callable[[Path], Any], compare: Callable[[Any, Any], Iterator[str]], tmp_path: Path
) -> None:
    key, of_all = KEYS[what], recorded(what)
    if key not in of_all:
        pytest.skip(f"no {what} are recorded for Python {key}; `make recount` does it")
    different = list(compare(of_all[key], count(tmp_path / "counted")))
    assert not different, "\n".join([f"recorded → counted, in {what}:", *different, HOW_TO_RECORD])


def test_each_operation_is_recorded() -> None:
    names = {each.name for each in OPERATIONS} | {RECOVERY}
    assert all(set(found) == names for found in recorded("system calls").values())
    commands = {" ".join(["papactl", *words]) for words in PAPACTL}
    assert all(set(found) == names | commands for found in recorded("instructions").values())
    assert all(set(found) == commands for found in recorded("modules").values())


@pytest.mark.parametrize(
    ("compare", "before", "now", "said"),
    [
        (different_calls, {"set": {"pwrite64": 2}}, {"set": {"pwrite64": 2}}, []),
        (
            different_calls,
            {"set": {"pwrite64": 2, "recvfrom": 1}},
            {"set": {"pwrite64": 3, "recvfrom": 1, "pread64": 1}},
            ["set: 3 → 5 system calls: pwrite64 2 → 3, pread64 0 → 1"],
        ),
        (
            different_calls,
            {"set": {"pwrite64": 2}, "gone": {"read": 1}},
            {"set": {}},
            ["set: 2 → 0 system calls: pwrite64 2 → 0", "gone: 1 → 0 system calls: read 1 → 0"],
        ),
        (different_calls, {"a": {"epoll_wait": 9, "poll": 5}}, {"a": {"epoll_wait": 18, "poll": 3}}, []),
        (different_calls, {"a": {"epoll_wait": 9}}, {"a": {"epoll_wait": 19}}, ["a: 9 → 19 system calls: epoll_wait 9 → 19"]),
        (different_calls, {"a": {"poll": 5}}, {"a": {"poll": 2}}, ["a: 5 → 2 system calls: poll 5 → 2"]),
        (different_calls, {"a": {"epoll_wait": 1}}, {"a": {"epoll_wait": 2}}, ["a: 1 → 2 system calls: epoll_wait 1 → 2"]),
        (different_instructions, {"get": 1000}, {"get": 1029}, []),
        (different_instructions, {"get": 1000}, {"get": 1040}, ["get: 1,000 → 1,040 instructions (+4.0 %)"]),
        (different_instructions, {"get": 1000}, {"get": 900}, ["get: 1,000 → 900 instructions (-10.0 %)"]),
        (different_modules, {"status": ["a", "b"]}, {"status": ["b", "c"]}, ["status: 2 → 2 modules: +c -a"]),
    ],
)  # fmt: skip
def test_what_is_different_is_named(
    compare: Callable[[Any, Any], Iterator[str]], before: Mapping[str, Any], now: Mapping[str, Any], said: list[str]
) -> None:
    assert list(compare(before, now)) == said
