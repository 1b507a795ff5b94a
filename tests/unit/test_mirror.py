"""The unit tests are laid out like the code: each module has its test file, and each test file its module."""

from __future__ import annotations

from pathlib import Path

import papad

ROOT = Path(papad.__file__).parent
TESTS = Path(__file__).parent
ABOUT_ALL = {"test_architecture", "test_layers", "test_limits", "test_mirror", "test_neighbours"}


def test_each_module_has_its_unit_tests() -> None:
    for module in ROOT.rglob("*.py"):
        relative = module.relative_to(ROOT)
        if relative.name not in ("__init__.py", "version.py"):
            expected = TESTS / relative.parent / f"test_{relative.name}"
            assert expected.exists(), f"{expected} is missing"


def test_each_unit_test_is_of_a_module() -> None:
    """`test_sockets_reuseport.py` is of `sockets.py`, as `test_sockets.py` is."""
    for path in TESTS.rglob("test_*.py"):
        if path.stem not in ABOUT_ALL:
            folder = ROOT / path.parent.relative_to(TESTS)
            assert any(path.stem.startswith(f"test_{module.stem}") for module in folder.glob("*.py")), path
