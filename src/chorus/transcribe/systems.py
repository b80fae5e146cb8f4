"""What can be evaluated: a model's directory, an adapter on its base, a planned merge, a converted model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chorus.checkpoints.lazy_tensor import Checkpoint
from chorus.checkpoints.model import Model, OpenOptions, read_json
from chorus.checkpoints.open import locate, open_model
from chorus.checkpoints.reference import Reference, parse_reference, public_name
from chorus.errors import CheckpointError, UsageError
from chorus.identity import file_hash, fingerprint

CONVERTED = "model.bin"  # what CTranslate2's converter writes, beside a vocabulary
SIDE_FILES = ("config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json")


@dataclass(frozen=True)
class System:
    """One thing that hears. `directory` holds config, tokenizer and the like; `tensors`, where given, the weights.

    kind: model, adapter, merge (weights in `tensors`) or converted (CTranslate2).
    role: base, specialist, joint, merge, or empty; `home` is what a specialist was trained on: {column: value}.
    """

    label: str
    kind: str
    directory: Path
    identity: str
    tensors: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    role: str = ""
    home: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)  # of a merge: method and its settings
    tokenizer: Path | None = None  # where the tokenizer is, where not in `directory`
    config: dict[str, Any] | None = field(default=None, compare=False, repr=False)  # in place of the directory's
    generation: dict[str, Any] | None = field(default=None, compare=False, repr=False)


def open_system(name: str, *, label: str = "", offline: bool = False) -> System:
    """A directory, hub id, `base+adapter`, or adapter directory; `CheckpointError` says what is wrong.

    Recipes are planned first: `from_plan(chorus.plan("recipe.yml"))`.
    """
    path = Path(name).expanduser()
    if path.is_dir() and (path / CONVERTED).exists() and not (path / "model.safetensors").exists():
        return System(label or path.name, "converted", path, fingerprint(model=_files(path, "*")))
    reference = _adapter_on_its_base(path) or _parsed(name)
    options = OpenOptions(offline=offline)
    if reference.adapter is not None:
        model = open_model(reference, options)
        adapter, _ = locate(reference.adapter, options, "adapter")
        if model.directory is None:
            raise CheckpointError(f"{reference}: its base has no config and tokenizer", "name a model directory")
        mark = fingerprint(base=_files(model.directory, "*.safetensors"), adapter=_files(adapter, "*.safetensors"))
        role, home = role_of(adapter)
        return System(label or reference.name, "adapter", model.directory, mark, model.checkpoint, role, home)
    model = open_model(reference, options)
    if model.directory is None:
        raise CheckpointError(f"{name}: a file of weights without config and tokenizer", "convert it to a directory")
    role, home = role_of(model.directory)
    label = label or public_name(name)
    return System(label, "model", model.directory, _identity(model), role=role, home=home)


def from_plan(plan: Any, *, label: str = "", variant: str | None = None) -> System:
    """A planned merge (`chorus.plan`) as a system: nothing is written, each tensor is computed when it is loaded."""
    donor: Model = plan.models[plan.donor]
    side: Model = plan.models[plan.tokenizer]
    if donor.directory is None or side.directory is None:
        raise CheckpointError("the recipe's models have no config and tokenizer", "name model directories")
    names = [v.name for v in plan.variants]
    if len(names) > 1 and variant is None:
        raise UsageError(f"the recipe has several outputs: {', '.join(names)}", "name one: RECIPE:OUTPUT")
    if variant is not None and variant not in names:
        raise UsageError(f'the recipe has no output "{variant}"; it has {", ".join(names)}')
    recipe = plan.recipe.recipe
    mark = fingerprint(
        recipe=recipe.model_dump(mode="json"), variant=variant, seed=plan.seed,
        models=[_files(m.directory, "*.safetensors") for m in plan.models if m.directory]
        + [[file_hash(p) for p in m.adapter_paths.values()] for m in plan.models],
    )  # fmt: skip
    chosen = next(v for v in plan.variants if variant in (None, v.name))
    return System(
        label or Path(plan.recipe.source).stem, "merge", donor.directory, mark, plan.model(variant).checkpoint, "merge",
        parameters={"method": recipe.merge_method}, tokenizer=side.directory, config=chosen.config,
        generation=chosen.generation,
    )  # fmt: skip


def in_memory(label: str, directory: Path, tensors: Mapping[str, Any], mark: str, **facts: Any) -> System:
    """Weights that are already here, with the side files of a directory."""
    return System(label, "merge", directory, mark, Checkpoint(dict(tensors), label), "merge", **facts)


def _parsed(name: str) -> Reference:
    try:
        return parse_reference(name)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _adapter_on_its_base(path: Path) -> Reference | None:
    """An adapter's directory alone stands for itself on the base that it names."""
    if not (path / "adapter_config.json").exists() or (path / "config.json").exists():
        return None
    base = read_json(path / "adapter_config.json").get("base_model_name_or_path")
    if not base:
        raise CheckpointError(f"{path}: names no base", f'write "BASE+{path}"')
    return Reference(str(base), None, Reference(str(path)))


def _identity(model: Model) -> str:
    assert model.directory is not None
    weights = sorted(model.paths.values()) or sorted(model.directory.glob("*.safetensors"))
    side = [model.directory / name for name in SIDE_FILES]
    return fingerprint(model=[file_hash(p) for p in [*weights, *side] if p.exists()])


def _files(directory: Path | None, pattern: str) -> list[str]:
    if directory is None:
        return []
    return [f"{p.name} {file_hash(p)}" for p in sorted(directory.glob(pattern)) if p.is_file()]


def role_of(directory: Path) -> tuple[str, dict[str, Any]]:
    """What a model is to others, as its provenance tells it: a specialist of what, a joint fine-tune, a merge."""
    path = directory / "chorus.json"
    if not path.exists():
        return "", {}
    facts = read_json(path)
    if facts.get("kind") != "train":
        return ("merge", {}) if "recipe" in facts else ("", {})
    wheres = [source.get("where") or {} for source in facts.get("config", {}).get("data", {}).get("train", [])]
    narrowed = {column: value for where in wheres for column, value in where.items() if column != "split"}
    several = any(isinstance(value, list) and len(value) > 1 for value in narrowed.values())
    return ("specialist", narrowed) if narrowed and not several else ("joint", {})


def unique_labels(systems: Iterable[System]) -> None:
    """Raise where two systems would share a folder."""
    seen: set[str] = set()
    for system in systems:
        if folder_of(system.label) in seen:
            raise UsageError(f'two models are called "{system.label}"', "name them: NAME=MODEL")
        seen.add(folder_of(system.label))


def folder_of(label: str) -> str:
    """A label as the name of a folder.

    >>> folder_of("openai/whisper-small")
    'openai--whisper-small'
    """
    return re.sub(r"[^\w.+-]", "_", label.replace("/", "--")).lstrip(".") or "_"
