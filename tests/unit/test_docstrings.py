"""The examples in docstrings say what happens."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in (SOURCE / "chorus").rglob("*.py")
    if ">>>" in path.read_text() and path.name != "__init__.py"
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_hold(name):
    assert doctest.testmod(import_module(name)).failed == 0


def test_most_modules_with_examples_run_some():
    ran = [name for name in WITH_EXAMPLES if doctest.testmod(import_module(name)).attempted]
    assert len(WITH_EXAMPLES) >= 25
    assert len(ran) >= len(WITH_EXAMPLES) - 7  # whole merges, extractions, exports are shown, not run
