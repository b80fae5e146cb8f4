"""References, sizes, types, errors, the registry: small parts that everything rests on."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from chorus.checkpoints.dtypes import parse_dtype, promote
from chorus.checkpoints.reference import parse_reference
from chorus.errors import MissingExtraError, RecipeError, UsageError, install_hint, nearest
from chorus.registry import Registry
from chorus.sizes import parse_size

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "path", "revision", "adapter"),
    [
        ("org/name", "org/name", None, None),
        ("org/name@v1", "org/name", "v1", None),
        ("org/name+ad", "org/name", None, "ad"),
        ("org/name@v1+org/ad@v2", "org/name", "v1", "org/ad"),
    ],
)
def test_references_are_read(text, path, revision, adapter):
    found = parse_reference(text)
    assert (found.path, found.revision) == (path, revision)
    assert (found.adapter and found.adapter.path) == adapter
    assert str(found) == text


def test_a_real_path_may_hold_plus_and_at(tmp_path):
    odd = tmp_path / "a+b@c"
    odd.mkdir()
    assert parse_reference(str(odd)).path == str(odd)
    assert parse_reference({"model": {"path": "x+y", "revision": "r"}, "lora": "z"}).path == "x+y"


@pytest.mark.parametrize(
    ("value", "message"),
    [("a@b@c", 'more than one "@"'), ("a+b+c", 'more than one "\\+"'), ("@x", "empty name"), ("", "named by"),
     ({"modle": "a"}, "has the keys"), (None, "named by"), (3, "named by")],
)  # fmt: skip
def test_wrong_references_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        parse_reference(value)


def test_an_adapter_named_twice_is_refused():
    with pytest.raises(ValueError, match="named twice"):
        parse_reference("a+b", "c")


def test_names_hide_absolute_paths(tmp_path):
    assert parse_reference(str(tmp_path / "models" / "mine")).name == "mine"
    assert parse_reference("org/name").name == "org/name"


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500_000_000), ("5GB", 5_000_000_000), ("5B", 5_000_000_000), ("1GiB", 2**30), ("1.5k", 1500), ("7", 7)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


def test_a_wrong_size_says_how_to_write_one():
    with pytest.raises(ValueError, match="500MB"):
        parse_size("lots")


def test_dtypes():
    assert parse_dtype("torch.bfloat16") == "bfloat16"
    with pytest.raises(ValueError, match='write "bfloat16"'):
        parse_dtype("bf16")
    with pytest.raises(ValueError, match='did you mean "float32"'):
        parse_dtype("flaot32")
    assert promote(["float16", "bfloat16"]) == "float32"
    assert promote(["bfloat16", "bfloat16"]) == "bfloat16"
    assert promote(["float64", "float16"]) == "float64"


def test_errors_carry_exit_codes_and_hints():
    assert (RecipeError(["a"]).exit_code, MissingExtraError("audio", "reading audio").exit_code) == (2, 3)
    assert str(RecipeError(["a", "b"], source="r.yml")).startswith("r.yml: 2 problems")
    assert nearest("zzz", ["a", "b"]) == "; known: a, b"


def test_every_install_hint_names_the_distribution_and_not_the_import():
    name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    assert name == "chorus-merge"
    assert install_hint("audio") == 'pip install "chorus-merge[audio]"'
    assert 'pip install "chorus-merge[audio]"' in str(MissingExtraError("audio", "x"))
    pattern = re.compile(r"(?:pip|uv|pipx)[ a-z]* install\s+(?:-\S+\s+)*[\"']?(chorus[\w-]*)")
    seen = []
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py")]:
        seen += pattern.findall(path.read_text())
    assert len(seen) >= 2
    assert set(seen) == {"chorus-merge"}


def test_the_registry_names_the_nearest_and_refuses_doubles():
    registry = Registry("thing", "chorus.no_such_group", lambda: None)
    registry.add("alpha", 1)
    with pytest.raises(UsageError, match='did you mean "alpha"'):
        registry.get("alhpa")
    with pytest.raises(UsageError, match="registered twice"):
        registry.add("alpha", 2)
    assert ("alpha" in registry, len(registry), list(registry)) == (True, 1, [1])


def test_importing_chorus_imports_neither_torch_nor_transformers():
    code = "import chorus, sys; chorus.plan; chorus.load_recipe; print([m for m in HEAVY if m in sys.modules])"
    code = code.replace("HEAVY", "('torch', 'transformers')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
