"""Every format of export and of verification keeps its contract, one of others too; what breaks it is noticed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import chorus
import chorus.testing
import commands
from chats import language_model
from chorus.errors import CheckpointError
from chorus.export.protocol import Making, Requirement
from chorus.export.registry import EXPORTERS
from chorus.verify.protocol import Subject, TensorProof
from chorus.verify.registry import VERIFIERS
from chorus.verify.verdict import holds
from sounds import BASE

# format -> how many types the model here is written in: k-quants need rows of 256 values, q8_0 factors of a rank of 32
TYPES = {"ctranslate2": 8, "ggml": 9, "gguf": 9, "gguf-adapter": 3, "hf": 4, "onnx": 3, "openai": 2}
PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
PACKAGE = {"my_export": "chorus.exporters", "my_verifier": "chorus.verifiers"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Format -> a model that it takes."""
    for package in ("gguf", "pywhispercpp"):  # what types are written with
        pytest.importorskip(package)
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    place = tmp_path_factory.mktemp("models")
    base = language_model(place / "qwen", "qwen2", tie_word_embeddings=True)
    settings = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(place / "lora")
    language, adapted = str(base), f"{base}+{place / 'lora'}"
    return dict.fromkeys(TYPES, str(BASE)) | {"gguf": language, "gguf-adapter": adapted}


def test_the_registries_have_all() -> None:
    assert EXPORTERS.names() == sorted(TYPES)
    assert {*VERIFIERS.names(), "onnx"} == set(TYPES)


@pytest.mark.parametrize("name", sorted(TYPES))
def test_every_format_keeps_the_contract(name: str, models: dict[str, str]) -> None:
    assert chorus.testing.check_exporter(name, models[name]) == TYPES[name]


# not of an adapter's file: that holds nothing of the base, whose largest tensor is what the contract changes
@pytest.mark.parametrize(("name", "kind", "checks"), [
    ("ggml", "f16", 12), ("ggml", "q4_0", 13), ("ctranslate2", "int8", 14), ("openai", "float16", 9),
    ("hf", "bfloat16", 11), ("onnx", "int8", 11), ("gguf", "f16", 15), ("gguf", "q5_0", 15),
])  # fmt: skip
def test_every_verifier_keeps_the_contract(
    name: str, kind: str, checks: int, models: dict[str, str], tmp_path: Path
) -> None:
    written = chorus.export(models[name], tmp_path / "exported", name, types=kind).places[kind]
    assert chorus.testing.check_verifier(name, written, models[name]) == checks


# ---- what others add: the worked example of docs/extending.md ----


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's two files as an installed package, as pip leaves it: modules, and an entry point for each."""
    place = tmp_path_factory.mktemp("site")
    block = re.compile(r"^```python\n# file: (my_export|my_verifier)\.py\n(.*?)^```", re.MULTILINE | re.DOTALL)
    files = dict(block.findall(PAGE.read_text()))
    assert sorted(files) == sorted(PACKAGE)
    for module, text in files.items():
        (place / f"{module}.py").write_text(text)
        assert len(text.splitlines()) <= 55, "as short as the page says"
    facts = place / "chorus_npz-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: chorus-npz\nVersion: 1.0\n")
    points = "\n".join(f"[{group}]\nnpz = {module}\n" for module, group in PACKAGE.items())
    (facts / "entry_points.txt").write_text(points)
    return place


def test_a_format_of_others_is_exported_and_verified(site: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> Any:
        paths = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        return commands.chorus(*arguments, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths})

    written = run("export", BASE, "--to", "npz", "--type", "float16,float32", "-o", tmp_path)
    assert written.returncode == 0, written.stderr
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["npz-base-float16.npz", "npz-base-float16.npz.json", "npz-base.npz", "npz-base.npz.json"]
    assert "values are numbers" not in written.stderr
    for file in files[::2]:
        found = run("verify", file, "--against", BASE, "--level", "1")
        assert found.returncode == 0, found.stdout + found.stderr
        assert "as it was written" in found.stdout
        assert f"tensors in {'float16' if '16' in file else 'float32'}" in found.stdout
    (tmp_path / files[0]).write_bytes((tmp_path / files[2]).read_bytes()[:-9])
    damaged = run("verify", files[0], "--against", BASE, "--level", "1")
    assert (damaged.returncode, "no npz that can be read" in damaged.stdout) == (1, True), damaged.stdout
    unknown = run("export", BASE, "--to", "npy", "-o", "x")
    assert (unknown.returncode, 'did you mean "npz"' in unknown.stderr) == (2, True)
    mistyped = run("export", BASE, "--to", "npz", "--type", "float61", "-o", "x.npz")
    assert (mistyped.returncode, 'did you mean "float16"' in mistyped.stderr) == (2, True)


# ---- what breaks the contract ----


@pytest.fixture
def npz(site: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The classes of the worked example; the registries are as they were afterwards."""
    monkeypatch.syspath_prepend(site)
    for registry in (EXPORTERS, VERIFIERS):
        registry.names()
        monkeypatch.setattr(registry, "_items", dict(registry._items))
    for module in PACKAGE:
        monkeypatch.delitem(sys.modules, module, raising=False)
    import my_export
    import my_verifier

    return my_export.Npz, my_verifier.NpzVerifier


def reads_for_each(made: Any) -> Callable[..., Making]:
    def write(self: Any, model: Any, places: Any, options: Any, progress: Any) -> Making:
        for kind, place in places.items():
            made.write(self, model, {kind: place}, options, progress)
        return Making()

    return write


def writes_how_many(made: Any) -> Callable[..., Making]:
    def write(self: Any, model: Any, places: Any, *rest: Any) -> Making:
        done: Making = made.write(self, model, places, *rest)
        for place in places.values():
            place.write_bytes(place.read_bytes() + b" " * len(places))
        return done

    return write


def writes_the_place(made: Any) -> Callable[..., Making]:
    def write(self: Any, model: Any, places: Any, *rest: Any) -> Making:
        done: Making = made.write(self, model, places, *rest)
        for place in places.values():
            place.write_bytes(place.read_bytes() + str(place.parent).encode()[-9:])
        return done

    return write


def says_a_hash(made: Any) -> Callable[..., Making]:
    def write(*arguments: Any) -> Making:
        made.write(*arguments)
        return Making(hashes=dict.fromkeys(made.types, "0" * 32))

    return write


WRONG: dict[str, tuple[str, Callable[[Any], object]]] = {
    "float64, the default": ("default", lambda _: "float64"),
    "is none of": ("default", lambda _: "f32"),
    "says what it is": ("types", lambda _: {"float32": ""}),
    "no settings of": ("uses", lambda _: frozenset({"bits"})),
    "npz": ("suffix", lambda _: "npz"),
    "nothing is said": ("check", lambda _: lambda *_: []),
    "without a remedy": ("check", lambda _: lambda *_: [Requirement("a model", "it is none")]),
    "were foreseen": ("nbytes", lambda _: lambda *_: 0),
    "foreseen for": ("nbytes", lambda _: lambda *_: 10**9),
    "read more than once for 2": ("write", reads_for_each),
    "other bytes than alone": ("write", writes_how_many),
    "not the hash of its file": ("write", says_a_hash),
    "its own file is another's": ("ours", lambda _: lambda *_: False),
    "anybody's file is its own": ("ours", lambda _: lambda *_: True),
}


@pytest.mark.parametrize("told", WRONG)
def test_what_breaks_the_contract_of_exports_is_noticed(told: str, npz: tuple[Any, Any]) -> None:
    name, change = WRONG[told]
    changed: dict[str, object] = {name: change(npz[0])}
    if told == "float64, the default":
        changed |= {
            "types": {"float16": "half", "float64": "double"},
            "check": lambda _self, _model, types, _options: [
                Requirement("room", "none for 64" if "float64" in types else "", "take float16")
            ],
        }
    EXPORTERS.add("broken", type("Broken", npz[:1], changed)())
    with pytest.raises(AssertionError, match=re.escape(told)):
        chorus.testing.check_exporter("broken", BASE)


def blind(*_: Any) -> TensorProof:
    return TensorProof("all", "float32", True, 0.0)


@pytest.mark.parametrize("told", ["of another model passes", "half a file passes", "nothing of level 1", "is taken"])
def test_what_breaks_the_contract_of_verifiers_is_noticed(
    told: str, npz: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = chorus.export(BASE, tmp_path / "base.npz", "npz").places["float32"]
    _, made = npz
    whole = made.open

    def trusting(self: Any, path: Path, source: Any) -> Any:
        try:
            return whole(self, path, source)
        except CheckpointError:
            return Subject(path, "npz", "float32", True, [holds(0, "names")], [blind()], ())

    def skips(self: Any, path: Path, source: Any) -> Any:
        found = whole(self, path, source)
        found.tensors = ()
        return found

    if told == "of another model passes":
        monkeypatch.setattr(sys.modules["my_verifier"], "proof", blind)
    elif told == "half a file passes":
        monkeypatch.setattr(made, "open", trusting)
    elif told == "nothing of level 1":
        monkeypatch.setattr(made, "open", skips)
    else:
        monkeypatch.setattr(made, "takes", lambda self, path: path.suffix == ".npz" or path.name == "nothing")
    with pytest.raises(AssertionError, match=told):
        chorus.testing.check_verifier("npz", written, BASE)


def test_the_worked_example_keeps_both_contracts(npz: tuple[Any, Any], tmp_path: Path) -> None:
    assert chorus.testing.check_exporter("npz", BASE) == 2
    written = chorus.export(BASE, tmp_path / "base.npz", "npz", types="float16").places["float16"]
    assert chorus.testing.check_verifier("npz", written, BASE) == 5
