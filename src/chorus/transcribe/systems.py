"""What can be transcribed with: whatever `open_model` opens, an adapter's directory alone, a converted model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chorus.architectures.salmonn import is_salmonn
from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.checkpoints.lineage import TRAINING, facts_in, lineage_of, wheres_in
from chorus.checkpoints.model import Model, OpenOptions
from chorus.checkpoints.open import Source, on_its_base, open_model
from chorus.checkpoints.reference import public_name
from chorus.errors import CheckpointError, UsageError
from chorus.export.ggml.reader import GgmlForm
from chorus.export.onnx.reader import find
from chorus.export.openai.archive import looks_so
from chorus.files import expanded
from chorus.identity import file_hash, fingerprint

# the kinds of what is converted -> (whose it is, the backend that runs it)
CT2, GGML, ONNX, OPENAI = "converted", "ggml", "onnx", "openai"
RUNTIMES = {
    CT2: ("CTranslate2", "faster-whisper"), GGML: ("whisper.cpp", "whisper.cpp"),
    ONNX: ("sherpa-onnx", "onnxruntime"), OPENAI: ("openai-whisper", "openai-whisper"),
}  # fmt: skip
CONVERTED = "model.bin"  # what CTranslate2's converter writes, beside a vocabulary


@dataclass(frozen=True)
class System:
    """One thing that transcribes. `directory` holds config, tokenizer and the like; `tensors`, where given, weights.

    kind: model, adapter, merge (weights in `tensors`), converted (CTranslate2), or ggml (whisper.cpp's file), openai
        (a `.pt`) and onnx (sherpa-onnx's graphs; one of them, where a file is named), which `directory` names.
    role: base, specialist, joint, merge, or empty; `home` is what a specialist was trained on: {column: value}.
    """

    label: str
    kind: str
    directory: Path
    identity: str  # by content
    tensors: Mapping[str, LazyTensor] | None = field(default=None, compare=False, repr=False)
    role: str = ""
    home: Mapping[str, object] = field(default_factory=dict)
    parameters: Mapping[str, object] = field(default_factory=dict)  # of a merge: method and its settings
    tokenizer: Path | None = None  # where the tokenizer is, where not in `directory`
    config: dict[str, object] | None = field(default=None, compare=False, repr=False)  # in place of the directory's
    generation: dict[str, object] | None = field(default=None, compare=False, repr=False)
    trained_on: Mapping[str, Sequence[str]] = field(default_factory=dict, compare=False)  # column -> values


def open_system(source: Source, *, label: str = "", options: OpenOptions | None = None) -> System:
    """Whatever `chorus.open_model` takes, a plan among it, adapters' directories alone, and models converted for
    CTranslate2, whisper.cpp, sherpa-onnx, or (where `options` allow pickle) openai-whisper.

    A merge is not written: each tensor is computed when it is loaded. `plan.model("name")` is one of a plan's outputs.
    """
    options = options or OpenOptions()
    if isinstance(source, str | Path):
        path = expanded(source)
        if GgmlForm().takes(path):
            return System(label or path.stem, GGML, path, fingerprint(files=[file_hash(path)]))
        # without leave it is opened as any other pickle is: refused, with the flag that allows it
        if options.allow_pickle and path.is_file() and looks_so(path):
            return System(label or path.stem, OPENAI, path, fingerprint(files=[file_hash(path)]))
        if path.is_dir() and (path / CONVERTED).exists() and not (path / "model.safetensors").exists():
            return System(label or path.name, CT2, path, _of_files(path))
        if (graphs := find(path)) is not None:
            hashes = [file_hash(one) for one in (graphs.encoder, graphs.decoder, graphs.tokens)]
            return System(label or path.name, ONNX, path, fingerprint(files=hashes))
    return _of_model(open_model(on_its_base(source, options), options), label)


def refuse_converted(system: System, *, unless: str = "") -> None:
    """`UsageError` for what another runtime alone takes; `unless` is the kind of the caller's own."""
    if system.kind in RUNTIMES and system.kind != unless:
        runtime, backend = RUNTIMES[system.kind]
        raise UsageError(f"{system.label} is converted for {runtime}", f"use --backend {backend}")


def _of_model(model: Model, label: str) -> System:
    if is_salmonn(model.config):
        raise CheckpointError(f"{model.label}: SALMONN is merged here, not run", "run it by its own code")
    if model.directory is None:
        raise CheckpointError(f"{model.label}: weights without config and tokenizer", "name a model's directory")
    identity = model.fingerprint()
    if model.method:
        return System(
            label or re.sub(r"\.ya?ml(?=:|$)", "", model.label), "merge", model.directory, identity, model.checkpoint,
            "merge", parameters={"method": model.method}, tokenizer=model.tokenizer_directory, config=model.config,
            generation=model.generation, trained_on=model.trained_on,
        )  # fmt: skip
    adapter = next((path.parent for path in reversed(model.adapter_paths.values())), None)  # the last put on
    role, home = role_of(adapter or model.directory)
    name = label or public_name(model.label)
    if adapter is not None:
        return System(
            name, "adapter", model.directory, identity, model.checkpoint, role, home, trained_on=lineage_of(model),
            config=model.config,  # an adapter may have untied what the directory's ties
            generation=model.generation,
        )  # fmt: skip
    tensors = None if model.as_stored else model.checkpoint
    return System(name, "model", model.directory, identity, tensors, role, home, trained_on=lineage_of(model))


def _of_files(directory: Path) -> str:
    """What a directory is by the content of its files."""
    return fingerprint(files=[f"{p.name} {file_hash(p)}" for p in sorted(directory.iterdir()) if p.is_file()])


def role_of(directory: Path) -> tuple[str, dict[str, object]]:
    """What a model is to others, as its provenance tells it: a specialist of what, a joint fine-tune, a merge."""
    facts = facts_in(directory)
    if facts.get("kind") != TRAINING:
        return ("merge", {}) if "recipe" in facts else ("", {})
    narrowed = {column: value for where in wheres_in(facts) for column, value in where.items()}
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
