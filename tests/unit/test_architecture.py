"""docs/architecture.md walks through the source; here each step is taken."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.papad import REPOSITORY

PAGE = (REPOSITORY / "docs/architecture.md").read_text()
STEPS = re.findall(r"`([\w/]+\.py): ([\w.]+)`", " ".join(PAGE.split()))
FILES = sorted(set(re.findall(r"`([\w/]+/\w+\.py)`", PAGE)))


def test_there_are_three_journeys() -> None:
    assert re.findall(r"^\*\*(.*?)\.\*\*", PAGE, re.MULTILINE) == ["A command", "A byte of output", "An exit"]
    assert len(STEPS) > 20


@pytest.mark.parametrize(("file", "name"), STEPS)
def test_each_step_is_in_the_file_that_it_names(file: str, name: str) -> None:
    body: list[ast.stmt] = ast.parse((REPOSITORY / "papad" / file).read_text()).body
    for part in name.split("."):
        (found,) = (node for node in body if getattr(node, "name", None) == part)
        body = getattr(found, "body", [])


@pytest.mark.parametrize("file", FILES)
def test_each_file_that_is_named_is_there(file: str) -> None:
    found = [path for path in (REPOSITORY / "papad").rglob("*.py") if path.as_posix().endswith(f"/{file}")]
    assert found or (REPOSITORY / file).exists(), file
