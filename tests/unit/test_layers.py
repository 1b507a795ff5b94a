"""Imports point one way: a module may import only what stands above it here. Imports inside functions count too."""

from __future__ import annotations

import ast
from pathlib import Path

import papad

LAYERS = [
    {"papad"},
    {"papad.errors"},
    {"papad.wire"},
    # the client's side
    {"papad.incoming"},
    {"papad.requests"},
    {"papad.client"},
    {"papad.start"},
    {"papad.watcher"},
    {"papad.papa"},
    {"papad.aio.connection"},
    {"papad.aio.watcher"},
    {"papad.aio.papa"},
    {"papad.aio"},
    {"papad.ctl.advice"},
    {"papad.ctl.parser"},
    {"papad.ctl.declared", "papad.ctl.render", "papad.ctl.times", "papad.ctl.tunnel"},
    {"papad.ctl.connect", "papad.ctl.lines"},
    {"papad.ctl.completion", "papad.ctl.help", "papad.ctl.output"},
    {"papad.ctl.remote", "papad.ctl.shell", "papad.ctl.watch"},
    {"papad.ctl.things"},
    {"papad.ctl.main"},
    {"papad.ctl"},
    # the kernel's side
    {"papad.kernel"},
    {"papad.kernel.parcel", "papad.kernel.pidfd", "papad.kernel.peers", "papad.kernel.service", "papad.kernel.grammar"},
    {"papad.kernel.nursery", "papad.kernel.vault", "papad.kernel.ring"},
    {
        "papad.kernel.capture",
        "papad.kernel.journal",
        "papad.kernel.spawner",
        "papad.kernel.values",
        "papad.kernel.sockets",
    },
    {"papad.kernel.launch"},
    {"papad.kernel.processes"},
    {"papad.kernel.watch", "papad.kernel.output", "papad.kernel.describe"},
    {"papad.kernel.commands"},
    {"papad.kernel.connection"},
    {"papad.kernel.server"},
    {"papad.kernel.main"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
ROOT = Path(papad.__file__).parent


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> set[str]:
    """The modules of ours that are imported when this one runs; what only type checkers see does not count."""
    names = set()
    for node in ast.walk(_Running().visit(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
            names.add(node.module)
    return {name for name in names if name in modules()}


class _Running(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST:
        return ast.Pass() if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else node


def test_every_module_has_its_place() -> None:
    assert modules().keys() == RANK.keys()


def test_imports_point_upwards_only() -> None:
    wrong = {
        f"{module} imports {name}"
        for module, path in modules().items()
        for name in imports(path)
        if RANK[name] >= RANK[module] and name != module
    }
    assert not wrong


def test_the_client_knows_nothing_of_the_kernel() -> None:
    outside = {module: path for module, path in modules().items() if not module.startswith("papad.kernel")}
    assert not {name for path in outside.values() for name in imports(path) if name.startswith("papad.kernel")}


def test_only_these_know_asyncio() -> None:
    """The tables below processes, and all that both sides share, are plain functions of their input."""
    knowing = {module for module, path in modules().items() if "import asyncio" in path.read_text()}
    kernel = {f"papad.kernel.{name}" for name in ("spawner", "processes", "connection", "server", "main")}
    assert knowing == kernel | {"papad.aio.connection", "papad.aio.papa"}
