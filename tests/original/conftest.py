"""Fixtures: a fresh papad, the unmodified client of papa 1.0.6, and ours, which takes its place."""

from __future__ import annotations

import gc
import socket
import sys
import warnings
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import papad as papad_package
from tests.original.servers import Server, running_papad
from tests.original.venv import original_venv, site_packages


@pytest.fixture(scope="session")
def venv() -> Path:
    """The environment that holds papa 1.0.6 and circus 0.17.2."""
    return original_venv()


@pytest.fixture
def papad(tmp_path: Path) -> Iterator[Server]:
    """A fresh papad, on TCP and on a Unix path."""
    with running_papad(tmp_path / "papad") as server:
        yield server


@pytest.fixture(scope="session")
def unmodified(venv: Path) -> Iterator[ModuleType]:
    """The unmodified client, loaded from its environment without anything else of it coming along.

    It would start a server of its own wherever none answers; `spawned` tells it that it has done so already.
    """
    folder = site_packages(venv) / "papa"
    spec = spec_from_file_location("papa", folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["papa"] = module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
    module.Papa.spawned = True
    yield module
    for name in [name for name in sys.modules if name == "papa" or name.startswith("papa.")]:
        del sys.modules[name]


@pytest.fixture(params=["papa", "papad"])
def papa(request: pytest.FixtureRequest, unmodified: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that tests import: the original, or ours, which is told the same."""
    if request.param == "papa":
        return unmodified
    for name in ("_default_port_or_path", "_default_connection_timeout"):
        monkeypatch.setattr(papad_package.Papa, name, getattr(papad_package.Papa, name))
    monkeypatch.setattr(papad_package.Papa, "spawned", True)
    return papad_package


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, papad: Server, papa: ModuleType) -> Iterator[int | str]:
    """Where a fresh papad answers, which is the client's default too. No call of the client blocks for ever."""
    assert papad.path is not None
    address = papad.port if request.param == "tcp" else papad.path
    socket.setdefaulttimeout(20)
    (papa.set_default_port if request.param == "tcp" else papa.set_default_path)(address)
    papa.set_default_connection_timeout(3)
    yield address
    papa.set_default_port(1)
    socket.setdefaulttimeout(None)
    gc.collect()


@pytest.fixture
def p(papa: ModuleType, address: int | str) -> Iterator[Any]:
    """A client, connected to a fresh papad."""
    with papa.Papa(address) as connection:
        yield connection
