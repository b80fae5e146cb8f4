"""The one door: from a text, a path, a reference, a plan or a model to a model, no weight read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from chorus.checkpoints.adapter import CONFIG, open_adapter
from chorus.checkpoints.adapter_places import apply_adapter
from chorus.checkpoints.directory import open_directory
from chorus.checkpoints.formats import FORMATS, format_of
from chorus.checkpoints.lineage import PROVENANCE
from chorus.checkpoints.model import TOKENIZER_FILES, Model, OpenOptions, stacked_paths
from chorus.checkpoints.names import named
from chorus.checkpoints.reference import Reference, is_hub_id, looks_local, parse_reference
from chorus.checkpoints.task_vector import TASK_VECTOR, apply_task_vector
from chorus.checkpoints.weights import is_converted
from chorus.checkpoints.whereabouts import nearest_path
from chorus.errors import CheckpointError, UsageError
from chorus.files import expanded, read_json


@runtime_checkable
class Planned(Protocol):
    """A merge that is planned (`chorus.Plan`): one of its outputs as a model, computed when it is read."""

    def model(self, variant: str | None = None) -> Model: ...
    def fingerprint(self, variant: str | None = None) -> str: ...  # so that nothing passes that only has a `model`


Source = str | Path | Reference | Planned | Model


def on_its_base(source: Source, options: OpenOptions | None = None) -> Source:
    """An adapter that is named alone, on the base that its config names; everything else as it is.

    Raises `CheckpointError` where it names none.
    """
    if not isinstance(source, str | Path):
        return source
    reference = reference_to(source)
    config = _config_alone(reference, options or OpenOptions())
    if config is None:
        return source
    base = read_json(config).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(f"{source}: an adapter that names no base", f"name it on its base: BASE+{source}")
    return replace(reference_to(base), adapter=reference)


def _config_alone(reference: Reference, options: OpenOptions) -> Path | None:
    """The config of an adapter that is named without a base; None where something else is named."""
    if reference.adapter is not None or reference.given is not None:
        return None
    if is_hub_id(reference.path):
        from chorus.checkpoints.hub import adapter_config  # as below

        return adapter_config(reference, options)
    path = expanded(reference.path)
    return path / CONFIG if _is_adapter(path) else None


def _is_adapter(path: Path) -> bool:
    # trainers leave the base's config beside an adapter
    return (path / CONFIG).exists() and not ((path / "config.json").exists() and _has_weights(path))


def open_model(source: Source, options: OpenOptions | None = None) -> Model:
    """Open a model without reading a weight, in whatever form it is given.

    A text or path names a directory, a hub id (`org/name@revision`), `base+adapter`, an openai-whisper file, a recipe
    (`recipe.yml`, `recipe.yml:output`), or any form of `chorus.formats`. A plan is its only output.

    Raises `CheckpointError` for what is missing or damaged, `UsageError` for what is no name of a model, and what a
    plan raises where a recipe is named.

    >>> open_model("openai/whisper-small").config["model_type"]  # doctest: +SKIP
    'whisper'
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, Reference):
        return _open(source, options or OpenOptions())
    if isinstance(source, Planned):
        return source.model()
    return _open(reference_to(source), options or OpenOptions())


def reference_to(source: Source) -> Reference:
    """A text, a path, a plan or a model as a reference; `UsageError` where it cannot be one."""
    try:
        return parse_reference(source)
    except ValueError as error:
        raise UsageError(str(error), "name a directory, a hub id, or a recipe") from None


def _open(reference: Reference, options: OpenOptions) -> Model:
    """What a reference names, opened once under these options: an adapter stands on the very base that is merged."""
    if reference not in options.known:
        options.known[reference] = _opened(reference, options)
    return options.known[reference]


def _opened(reference: Reference, options: OpenOptions) -> Model:
    if reference.adapter is not None:
        base = _open(reference.without_adapter, options)
        directory, _ = locate(reference.adapter, options, "adapter")
        # PEFT's config decides where both are there: task vectors have none
        if (directory / TASK_VECTOR).exists() and not (directory / CONFIG).exists():
            return apply_task_vector(base, directory, reference.name)
        adapter = open_adapter(directory, reference.adapter.name, allow_pickle=options.allow_pickle)
        model = apply_adapter(base, adapter, reference.name)
        model.adapter_config = adapter.config
        # for its identity in chorus.json
        model.adapter_paths = stacked_paths(base, directory, (CONFIG, adapter.file.name))
        return model
    if reference.given is not None:
        return named(open_model(reference.given.source, options))
    found = _in_a_form(reference, options)
    # forms first: `recipe.yml:output` is no path that exists, and would pass for a hub id
    if found is not None:
        model = found
    elif not looks_local(reference.path):
        from chorus.checkpoints.hub import open_hub_model  # huggingface_hub is imported only for these

        model = open_hub_model(reference, options)
    else:
        model = _open_local(expanded(reference.path), reference, options)
    if reference.override_architecture:
        model = replace(model, config={**model.config, "architectures": [reference.override_architecture]})
    return named(model)


def locate(reference: Reference, options: OpenOptions, kind: str) -> tuple[Path, str | None]:
    """The local directory of a reference, downloaded if need be, and the hub's commit."""
    if looks_local(reference.path):
        path = expanded(reference.path)
        if not path.is_dir():
            raise CheckpointError(f"{path}: no such directory{nearest_path(path)}", f"check the path of the {kind}")
        return path, None
    from chorus.checkpoints.hub import download

    # with the weights what a directory on disk is asked for: what it learnt from, and a training's tokenizer
    return download(reference, options, ["adapter_*", TASK_VECTOR, PROVENANCE, *TOKENIZER_FILES])


def _open_local(path: Path, reference: Reference, options: OpenOptions) -> Model:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or directory{nearest_path(path)}", "check the path of the model")
    if reference.revision:
        raise CheckpointError(f"{reference}: a local directory has no revisions", 'drop the "@..."')
    if _is_adapter(path):
        base = read_json(path / CONFIG).get("base_model_name_or_path") or "its base"
        raise CheckpointError(
            f"{path}: an adapter, not a model",
            f'name it on its base: "{base}+{path}", or model: {base} with lora: {path}',
        )
    return open_directory(path, reference.name, allow_pickle=options.allow_pickle)


def _has_weights(path: Path) -> bool:
    """Whether a directory holds weights beside an adapter's."""
    endings = (".safetensors", ".bin", ".pt", ".json")
    return any(p.name.startswith(("model", "pytorch_model")) and p.name.endswith(endings) for p in path.iterdir())


def _in_a_form(reference: Reference, options: OpenOptions) -> Model | None:
    """A file, or part of one, in one of the forms of `chorus.formats`; None where the path is a directory or hub id."""
    path, part = expanded(reference.path), ""
    # `recipe.yml:output`; only where no such file is there, for a colon may stand in a real name
    if not path.exists() and ":" in path.name:
        name, _, part = path.name.rpartition(":")
        path = path.with_name(name) if name else path
    # a model directory is none, whatever it also holds
    if not path.exists() and path.suffix in (".yml", ".yaml"):
        raise CheckpointError(f"{path}: no such file", "check the path of the recipe")
    own = (path / "config.json").exists() and not is_converted(path)
    if not path.exists() or own or (path / CONFIG).exists():
        return None
    form = format_of(path)
    if reference.revision and (form is not None or path.is_file()):
        raise CheckpointError(f"{reference}: a file has no revisions", 'drop the "@..."')
    if form is not None:
        return form.open(path, part, reference.name, options)
    if path.is_file():
        known = ", ".join(FORMATS.names())
        raise CheckpointError(f"{path}: not a model", f"name a model directory, a hub id, or a file ({known})")
    return None
