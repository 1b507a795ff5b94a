"""What can be caught as what."""

from __future__ import annotations

import inspect
import re

import pytest

import papad
from papad import errors

OURS = dict(inspect.getmembers(errors, inspect.isclass))


def test_the_drawing_shows_the_classes_as_they_are() -> None:
    drawn, above = {}, ["RuntimeError"]
    for line in (errors.__doc__ or "").split("\n\n")[1].splitlines():
        found = re.match(r"([│├└─ ]*)(\w+) ", line)
        assert found, line
        above[len(found[1]) // 4 + 1 :] = [found[2]]
        drawn[found[2]] = above[-2]
    assert drawn == {name: error.__bases__[0].__name__ for name, error in OURS.items()}


@pytest.mark.parametrize("name", OURS)
def test_each_is_exported(name: str) -> None:
    assert getattr(papad, name) is OURS[name]
    assert getattr(papad.aio, name) is OURS[name]


def test_a_timeout_is_caught_as_any_other() -> None:
    assert issubclass(errors.TimedOut, TimeoutError)
    assert not issubclass(errors.Unreachable, OSError), "it is no error of the system's, for which there are errnos"
