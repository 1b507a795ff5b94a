"""Methods that are made of requests look like them."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import get_overloads

from papad.protocol import methods, requests


def test_type_checkers_see_the_parameters_that_there_are() -> None:
    overloads = get_overloads(SimpleNamespace(__module__=methods.__name__, __qualname__="MakeProcess.__call__"))
    assert len(overloads) == 3
    wanted = inspect.signature(requests.make_process).parameters
    for overload in overloads:
        own, *found = inspect.signature(overload).parameters.values()
        assert own.name == "self"
        assert [each.name for each in found] == list(wanted)
        for each in found:
            if each.name != "watch_immediately":
                assert each == wanted[each.name]


def test_a_method_is_documented_as_its_request() -> None:
    def method(self: object, *args: object) -> None: ...

    made = methods.as_method(method, requests.get_value, "get")
    assert (made.__name__, made.__qualname__, made.__doc__) == ("get", "Papa.get", requests.get_value.__doc__)
    assert str(inspect.signature(made)) == "(self, name: 'Text') -> 'str | None'"
