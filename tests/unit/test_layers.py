"""The law of imports, typing-only ones and those within functions included: a folder may import what stands before it in its list."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import papad

COMMON = ["papad.version papad.errors", "papad.protocol"]
CLIENT = [*COMMON, "papad.client", "papad.aio", "papad.ctl"]
DAEMON = [
    *COMMON,
    "papad.daemon.durable",
    "papad.daemon.output papad.daemon.nursery",
    "papad.daemon.tables",
    "papad.daemon.delivery",
    "papad.daemon.commands",
    "papad.daemon",
]
FACADE = "papad"  # re-exports names of the client's side; nothing of ours imports it

ROOT = Path(papad.__file__).parent
MODULES = {
    ".".join(["papad", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def imports(module: str) -> set[str]:
    """The modules of ours that this one names in an import."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            within = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from package import module` is about the module, not the package.
            names.update(within if within & MODULES.keys() else {node.module})
    return (names & MODULES.keys()) - {module}


def folder(module: str) -> str:
    """What of the lists a module belongs to: the folder that it is in, or itself where it stands alone."""
    is_package = MODULES[module].name == "__init__.py"
    return module if is_package or module.count(".") == 1 else module.rpartition(".")[0]


def test_imports_point_one_way() -> None:
    rank = {name: at for layers in (CLIENT, DAEMON) for at, names in enumerate(layers) for name in names.split()}
    assert {folder(module) for module in MODULES} == rank.keys() | {FACADE}
    sides = [{name for names in layers for name in names.split()} for layers in (CLIENT, DAEMON)]
    for module in MODULES.keys() - {FACADE}:
        for other in imports(module):
            here, there = folder(module), folder(other)
            assert here == there or rank[there] < rank[here], f"{module} imports {other}"
            assert any({here, there} <= side for side in sides), f"{module} imports {other}"


def test_no_import_circle() -> None:
    graphlib.TopologicalSorter({module: imports(module) for module in MODULES}).prepare()


def test_a_package_is_only_its_docstring() -> None:
    """The nursery and papactl are quick to start because what they import imports nothing else by the way."""
    for module, path in MODULES.items():
        if path.name == "__init__.py" and module not in (FACADE, "papad.aio", "papad.ctl"):
            assert [type(node) for node in ast.parse(path.read_text()).body] == [ast.Expr], module


def test_only_these_know_asyncio() -> None:
    """The tables below that of processes, and all that both sides share, are plain functions of their input."""
    knowing = {module for module, path in MODULES.items() if "import asyncio" in path.read_text()}
    tables = {f"tables.{name}" for name in ("process", "processes", "lifecycle")}
    daemon = {"main", "server", "connection", "nursery.spawner", "delivery.batches", *tables}
    daemon |= {"durable.homes", "durable.systemd", "paths"}  # they wait until something is let go
    daemon |= {"loop", "stream"}
    daemon |= {
        "log",
        "tables.lookups",
        "peers",
        "commands.table",
    }  # they wait for room, for a directory, for others' turns
    assert knowing == {f"papad.daemon.{name}" for name in daemon} | {
        f"papad.aio.{name}" for name in ("connection", "later", "papa")
    }
