"""A model's weights, tokenizer and feature extractor through transformers: one way, for training and evaluation."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chorus.architectures.classes import architecture
from chorus.architectures.inventory import UNUSED
from chorus.checkpoints.composite import COMPOSITES
from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.checkpoints.model import OpenOptions
from chorus.checkpoints.reference import Reference
from chorus.checkpoints.sidecar import VOCABULARIES, write_json
from chorus.errors import CheckpointError
from chorus.files import read_json, shown
from chorus.lazy import lazy
from chorus.models.kind import Kind, named_class
from chorus.models.limits import Limits, with_generation
from chorus.models.parts import Parts
from chorus.models.registry import covered, kind_of
from chorus.plain import JsonObject

if TYPE_CHECKING:
    import torch
    import transformers
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, SequenceFeatureExtractor
else:
    torch, transformers = lazy("torch"), lazy("transformers")


# of Qwen3-ASR's first repositories, which come with code of their own
OLD_LAYOUT = "its layout is none of transformers', which has the repositories whose names end in -hf"


@dataclass(frozen=True)
class Origin:
    """Where a model is loaded from: `place` is a directory or a hub id.

    label               what messages call it
    tensors             in place of the directory's weights
    tokenizer           where the tokenizer is, where not at `place`
    config, generation  in place of the directory's settings
    """

    place: str | Path
    revision: str | None = None
    label: str = ""
    tensors: Mapping[str, LazyTensor] | None = None
    tokenizer: Path | None = None
    config: JsonObject | None = None
    generation: JsonObject | None = None

    def __str__(self) -> str:
        return self.label or str(self.place)


def read_config(origin: Origin) -> JsonObject:
    """The model's config.json, without its weights and without transformers; `CheckpointError` where there is none."""
    if origin.config is not None:
        return origin.config
    try:
        directory, _ = directory_of(origin)
        return read_json(directory / "config.json")
    except CheckpointError as error:
        hint = "name a model directory or a hub id"
        raise CheckpointError(f"{origin}: not a model ({error.message})", hint) from None


def directory_of(origin: Origin) -> tuple[Path, str | None]:
    """Where the configs of a model or adapter are, and the hub's commit; None for a directory on disk.

    (transformers tells the commit no more; seen in 5.23.)
    """
    place = Path(origin.place)
    if place.is_dir():
        return place, None
    from chorus.checkpoints.hub import download  # huggingface_hub is imported for these alone

    return download(Reference(str(origin.place), origin.revision), OpenOptions(), ["*config.json"])


def kind_at(origin: Origin, verb: str) -> Kind:
    """The kind of a model; `CheckpointError` where there is none that can be trained, or decoded (`verb`)."""
    config = read_config(origin)
    kind = kind_of(config)

    def able(one: Kind) -> bool:
        return bool(one.backbone if verb == "trained" else one.decoder)

    if kind is not None and able(kind):
        return kind
    called = architecture(config) or config.get("model_type", "unnamed model")
    why = kind.why(config) if kind is not None else OLD_LAYOUT if "thinker_config" in config else ""
    told = f"{why}; " if why else ""
    raise CheckpointError(f"{origin}: {called} cannot be {verb} here", f"{told}what can: {covered(able)}")


def load_parts(
    kind: Kind,
    origin: Origin,
    dtype: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    more: Mapping[str, object] | None = None,
    fresh: Sequence[str] = (),
) -> Parts:
    """Model, tokenizer and extractor. `tokenizer` goes before the directory's; `more` are settings of the class.

    What of the model may begin at random, a new head, is `fresh`: parts of tensors' names.
    """
    tokenizer = tokenizer if tokenizer is not None else load_tokenizer(kind, origin)
    extractor = load_extractor(kind, origin) if kind.extractor_class else None
    return Parts(str(origin), load_model(kind, origin, dtype, more or {}, fresh=fresh), tokenizer, extractor)


def load_model(
    kind: Kind, origin: Origin, dtype: str, more: Mapping[str, object], *, fresh: Sequence[str] = ()
) -> PreTrainedModel:
    """The model, of safetensors only, or of the origin's tensors; `CheckpointError` where a part would be random."""
    cls = _class(kind.model_class(read_config(origin)))
    more = {**more, "dtype": getattr(torch, dtype), "output_loading_info": True}  # by name: deciding needs no torch
    try:
        if origin.tensors is None:
            model, info = cls.from_pretrained(origin.place, revision=origin.revision, use_safetensors=True, **more)
        else:
            tensors, config = _of_class(cls, origin.tensors, _config_object(origin))
            state = {name: tensor.read().clone() for name, tensor in tensors.items()}  # the engine infers
            model, info = cls.from_pretrained(None, config=config, state_dict=state, **more)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{origin}: cannot be loaded ({error})", "only safetensors are read") from None
    _refuse_random(origin, info["missing_keys"], info["unexpected_keys"], fresh)
    if origin.tensors is not None:
        _take_generation(model, origin)
    return model


def _of_class(
    cls: type[PreTrainedModel], tensors: Mapping[str, LazyTensor], config: transformers.PretrainedConfig
) -> tuple[Mapping[str, LazyTensor], transformers.PretrainedConfig]:
    """Tensors and config of a class that is part of what they are of: Omni's thinker, without all that speaks."""
    found = next((one for one in COMPOSITES if one.part == cls.__name__ and hasattr(config, one.key)), None)
    if found is None:
        return tensors, config
    # no other tensor is read; without the prefix, as the class itself saves them
    start = len(found.prefix)
    own = {name[start:]: tensor for name, tensor in tensors.items() if name.startswith(found.prefix)}
    return own, getattr(config, found.key)


def _refuse_random(origin: Origin, missing: Iterable[str], unexpected: Iterable[str], fresh: Sequence[str]) -> None:
    """What a file lacks transformers draws at random, and only says so in a log."""
    lacking = sorted(n for n in missing if not UNUSED.search(n) and not any(part in n for part in fresh))
    if not lacking:
        return
    besides = sorted(unexpected)
    other = f"; it has {len(besides)} of other names, such as {shown(besides[0])}" if besides else ""
    raise CheckpointError(
        f"{origin}: {len(lacking)} tensors of the model are not in its file, such as {lacking[0]}{other}",
        "they would be random: save the whole model, without what wrapped it; or write it anew by a merge of it alone",
    )


def _class(name: str) -> Any:
    if ":" in name:
        return named_class(name)
    found = getattr(transformers, name, None)
    if found is None:
        raise CheckpointError(f'"{name}" is unknown to this transformers', "update transformers")
    return found


def _config_object(origin: Origin) -> transformers.PretrainedConfig:
    if origin.config is None:
        return transformers.AutoConfig.from_pretrained(origin.place, revision=origin.revision)
    with tempfile.TemporaryDirectory() as folder:  # AutoConfig chooses the class by the file
        write_json(Path(folder) / "config.json", origin.config)
        return transformers.AutoConfig.from_pretrained(folder)


def _take_generation(model: PreTrainedModel, origin: Origin) -> None:
    """The generation settings that a merge decides on, else the directory's."""
    if origin.generation is not None:
        model.generation_config = transformers.GenerationConfig.from_dict(origin.generation)
    elif (Path(origin.place) / "generation_config.json").exists():
        model.generation_config = transformers.GenerationConfig.from_pretrained(origin.place)


def load_tokenizer(kind: Kind, origin: Origin) -> PreTrainedTokenizerBase:
    """The tokenizer; `CheckpointError` where there is none.

    transformers 5 makes an empty tokenizer of a directory without one, so that the files are looked for first.
    """
    place = origin.tokenizer or origin.place
    if Path(place).is_dir() and not has_vocabulary(place):
        raise CheckpointError(f"{place}: no tokenizer (none of {', '.join(VOCABULARIES)})", "copy the base's")
    return _load_side(kind.tokenizer_class, place, origin, "tokenizer")


def load_extractor(kind: Kind, origin: Origin) -> SequenceFeatureExtractor:
    """The feature extractor; `CheckpointError` where there is none."""
    return _load_side(kind.extractor_class, origin.place, origin, "feature extractor")


def _load_side(class_name: str, place: str | Path, origin: Origin, what: str) -> Any:
    revision = origin.revision if place == origin.place else None  # a tokenizer from elsewhere has its own history
    try:
        return _class(class_name).from_pretrained(place, revision=revision)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{place}: no {what} ({reason})", f"copy the {what}'s files beside the weights") from None


def has_vocabulary(place: str | Path) -> bool:
    """Whether a directory holds a tokenizer; of a hub model it is taken for granted."""
    return not Path(place).is_dir() or any((Path(place) / name).exists() for name in VOCABULARIES)


def put_weights(model: PreTrainedModel, tensors: Mapping[str, LazyTensor]) -> None:
    """Replace the weights of a loaded model by others of the same names and shapes, in place.

    `CheckpointError`, and nothing is changed, where the model calls its weights otherwise than its file does (speech
    language models do): such a model is loaded anew.
    """
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    unknown = next((name for name in tensors if name not in own), None)
    if unknown is not None:
        raise CheckpointError(f"{unknown}: not in the loaded model", "load it anew")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor.read())
    if set(own) - set(tensors):  # tied heads are not stored: they follow what they are tied to
        model.tie_weights()


def limits_of(model: str) -> Limits:
    """The limits that texts and audio must keep to be learnt by a model (a directory or hub id)."""
    origin = Origin(model)
    config = read_config(origin)
    kind = kind_of(config)
    if kind is None:
        raise CheckpointError(f"{model}: {architecture(config)} is of no known kind", f"known: {covered(bool)}")
    settings = directory_of(origin)[0] / "generation_config.json"
    if settings.exists():
        config = with_generation(config, read_json(settings))
    return kind.limits(config, load_tokenizer(kind, origin))
