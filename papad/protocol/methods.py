"""Makes methods of requests, with their signatures, for both `Papa`s.

It is apart from requests.py because `inspect` takes longer to import than all that papactl needs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import Any, Literal, Protocol, TypeVar, overload

from papad.protocol.requests import Text

Made = TypeVar("Made", covariant=True)
Watching = TypeVar("Watching", covariant=True)
F = TypeVar("F", bound=Callable[..., object])


def as_method(method: F, request: Callable[..., object], name: str = "") -> F:
    """Give `method` the name, docstring and signature of `request`, for help() and IDEs.

    The parameters of `request` follow `self`.
    """
    assert isinstance(method, FunctionType)
    assert isinstance(request, FunctionType)
    method.__name__ = name or request.__name__
    method.__qualname__ = f"Papa.{method.__name__}"
    method.__doc__ = request.__doc__
    parameters = inspect.signature(request).parameters.values()
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    returned = str(request.__annotations__["return"]).removeprefix("Request[").removesuffix("]")
    method.__signature__ = inspect.Signature([own, *parameters], return_annotation=returned)  # type: ignore[attr-defined]
    return method


class MakeProcess(Protocol[Made, Watching]):
    """`make_process` as a method.

    It returns a watcher if `watch_immediately` is set, otherwise the process.
    """

    @overload
    def __call__(
        self,
        name: Text,
        executable: Text | None = None,
        args: object = None,
        env: Mapping[Any, Any] | None = None,
        working_dir: Text | None = None,
        uid: int | Text | None = None,
        gid: int | Text | None = None,
        rlimits: Mapping[str, Any] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        bufsize: int | str | None = None,
        watch_immediately: Literal[False] | None = None,
        *,
        shell: bool | None = None,
        listen: Text | Iterable[Text] | None = None,
        journal: bool | None = None,
        **others: object,
    ) -> Made: ...

    @overload
    def __call__(
        self,
        name: Text,
        executable: Text | None = None,
        args: object = None,
        env: Mapping[Any, Any] | None = None,
        working_dir: Text | None = None,
        uid: int | Text | None = None,
        gid: int | Text | None = None,
        rlimits: Mapping[str, Any] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        bufsize: int | str | None = None,
        *,
        watch_immediately: Literal[True],
        shell: bool | None = None,
        listen: Text | Iterable[Text] | None = None,
        journal: bool | None = None,
        **others: object,
    ) -> Watching: ...

    @overload
    def __call__(
        self,
        name: Text,
        executable: Text | None = None,
        args: object = None,
        env: Mapping[Any, Any] | None = None,
        working_dir: Text | None = None,
        uid: int | Text | None = None,
        gid: int | Text | None = None,
        rlimits: Mapping[str, Any] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        bufsize: int | str | None = None,
        watch_immediately: bool | None = None,
        *,
        shell: bool | None = None,
        listen: Text | Iterable[Text] | None = None,
        journal: bool | None = None,
        **others: object,
    ) -> Made | Watching: ...
