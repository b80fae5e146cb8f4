"""Every report that this project took up has a test of its own, found by its mark."""

from __future__ import annotations

import ast
from pathlib import Path

MERGING = (
    "torch-compile-prefix", "unmerged-base-layer", "own-head", "missing-tensor", "empty-adapter", "zero3-adapter",
    "stale-index", "state-space-stacks", "same-last-part", "omni-of-the-hub", "side-files-in-no-list",
    "old-processor-form", "two-spellings", "no-generation-config", "other-tokenizer-of-equal-size",
    "activated-and-adaptive-lora", "directories-as-left", "published-recipe-keys",
)  # fmt: skip
RECORDINGS = (
    "quotes-that-open", "unquoted-commas", "flac-without-length", "locales", "spaces-in-characters", "language-names",
    "loops", "invisible-characters", "kaldi-end", "special-tokens-in-texts", "first-token-forbidden", "other-tokenizer",
    "half-precision", "pipe-in-ctc", "translation-unit", "cut-transcript",
)  # fmt: skip


def names(mark: ast.expr) -> list[str]:
    """The names in one `@pytest.mark.reported("...", ...)`; none of another decorator."""
    if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Attribute) and mark.func.attr == "reported":
        return [ast.literal_eval(argument) for argument in mark.args]
    return []


def marked() -> dict[str, list[str]]:
    """The tests of each report, by the name in their marks."""
    tests: dict[str, list[str]] = {}
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        whole = [node.value for node in tree.body if isinstance(node, ast.Assign) and "pytestmark" in ast.dump(node)]
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
                for name in (name for mark in [*whole, *function.decorator_list] for name in names(mark)):
                    tests.setdefault(name, []).append(f"{file.name}::{function.name}")
    return tests


def test_every_report_has_a_test() -> None:
    assert len(MERGING) == 18
    assert len(RECORDINGS) == 16
    assert set(marked()) == {*MERGING, *RECORDINGS}
