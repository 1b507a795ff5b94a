"""Look-ups of users, groups and hosts, and of files of users, aside and with a deadline.

A slow directory (nsswitch.conf(5)) holds up only who asks, and not for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import grp
import os
import pwd
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from papad.errors import Error

_DEADLINE = 5.0  # seconds
_MOST = 32  # threads; one that hangs stays as long as it hangs

_libc = ctypes.CDLL(None)
T = TypeVar("T")


@dataclass(eq=False)
class Source:
    """What may take long to answer. What hangs on one takes no threads of another."""

    what: str
    instead: str
    """What users can do if it does not answer."""
    running: set[threading.Thread] = field(default_factory=set)


DIRECTORY = Source("the directory of users, groups or hosts", "use numbers")
FILES = Source("the file system of an env_file", "give the variables with env.")


async def aside(function: Callable[..., T], *args: Any, source: Source = DIRECTORY) -> T:
    """Return what a function returns that runs in a thread. Raises what it raises, or Error after a deadline.

    Then its outcome is of no interest any more.
    """
    if len(source.running) >= _MOST:
        raise Error(f"{source.what} does not answer; try again later, or {source.instead}")
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def finish(settle: Callable[[Any], None], with_what: Any) -> None:
        source.running.discard(thread)
        if not outcome.done():
            settle(with_what)

    def run() -> None:
        found: tuple[Callable[[Any], None], Any]
        try:
            found = outcome.set_result, function(*args)
        except BaseException as error:
            found = outcome.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(finish, *found)

    # A daemon thread: papad can end while it hangs.
    thread = threading.Thread(target=run, name="look-up", daemon=True)
    source.running.add(thread)
    thread.start()
    try:
        return await asyncio.wait_for(outcome, _DEADLINE)
    except TimeoutError:
        raise Error(f"{source.what} has not answered within {_DEADLINE:g} s; {source.instead}") from None


def groups_of(user: str, gid: int) -> list[int]:
    """Return the groups of a user, with `gid`, like os.getgrouplist, which would hold up all threads (CPython 3.13)."""
    size = 64
    while True:
        count, groups = ctypes.c_int(size), (ctypes.c_uint32 * size)()
        if _libc.getgrouplist(os.fsencode(user), ctypes.c_uint32(gid), groups, ctypes.byref(count)) >= 0:
            return groups[: count.value]
        size = max(count.value, 2 * size)


def user_named(name: str) -> pwd.struct_passwd:
    """Return the entry of a user. Raises Error."""
    try:
        return pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise Error(f"{name!r} is not a valid user name") from None


def group_named(name: str) -> int:
    """Return the number of a group. Raises Error."""
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise Error(f"No such group: {name!r}") from None


def owner(text: str) -> str:
    """Return USER, USER:GROUP, USER: or :GROUP by numbers; USER: adds the user's own group, as in chown(1).

    Raises Error.
    """
    user, colon, group = text.partition(":")
    uid = user if not user or user.isdecimal() else str(user_named(user).pw_uid)
    if group:
        return f"{uid}:{group if group.isdecimal() else group_named(group)}"
    if not colon:
        return uid
    try:
        return f"{uid}:{pwd.getpwuid(int(uid)).pw_gid}"
    except KeyError:
        raise Error(f"User {uid} has no group of its own; write owner={uid}:GROUP") from None
