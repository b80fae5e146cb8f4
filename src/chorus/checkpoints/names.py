"""One list of names for each model, that of its architecture: wrappers taken off, what is ignored left out, the rest
told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from chorus.architectures.classes import FSDP, UnknownClassError, architecture
from chorus.architectures.inventory import UNMERGED, Inventory, Review
from chorus.architectures.layouts import inventory_of, other_class
from chorus.checkpoints.adapter_names import unwrapped
from chorus.checkpoints.lazy_tensor import Checkpoint, LazyTensor
from chorus.checkpoints.model import Model
from chorus.errors import CheckpointError, some
from chorus.plain import JsonObject


def named(model: Model) -> Model:
    """The model under names that its architecture has; `CheckpointError` where they are not its.

    What is left out is told in `warnings`. A model whose architecture nobody knows is returned as it is.
    """
    if model.spelling:
        return model
    try:
        inventory = inventory_of(model.config, model.checkpoint)
    except UnknownClassError:  # whoever needs its layout tells it
        return model
    except ValueError as error:
        raise CheckpointError(f"{model.label}: {error}", "mend its config.json, or download it again") from error
    tensors: Mapping[str, LazyTensor] = model.checkpoint
    if not inventory.shapes.keys() >= set(tensors):  # nearly always they are
        tensors = _unwrapped(model, inventory)
    review = inventory.review({name: tensor.shape for name, tensor in tensors.items()})
    warnings = [*model.warnings, *_wrapped(model, tensors)]
    if review.foreign:
        warnings.append(_left_out(model, inventory, review))
    _refuse(model, inventory, review)
    if review.ignored:
        warnings.append(f"{model.label}: {some(review.ignored)} left out, which transformers ignores")
    checkpoint = model.checkpoint
    if len(warnings) > len(model.warnings):
        own = set(review.names.values())
        checkpoint = Checkpoint({name: tensor for name, tensor in tensors.items() if name in own}, model.label)
    return replace(
        model,
        checkpoint=checkpoint,
        config=_with_class(model.config, inventory),
        warnings=warnings,
        known_as=inventory.architecture,
        spelling=review.names,
    )


def _unwrapped(model: Model, inventory: Inventory) -> dict[str, LazyTensor]:
    """The tensors without what wrapped their modules: known words anywhere, and what all names begin with."""
    tensors = {unwrapped(name): tensor for name, tensor in model.checkpoint.items()}
    if len(tensors) < len(model.checkpoint):
        raise CheckpointError(f"{model.label}: holds tensors with and without _orig_mod. before them", "save it again")

    def foreign(names: Iterable[str]) -> bool:
        return any(inventory.place(name) is None and not inventory.passes_over(name) for name in names)

    def doubled(names: Iterable[str]) -> bool:
        return all(name.startswith(f"{name.partition('.')[0]}." * 2) for name in names)

    stripped = tensors
    # `module.`, `model.`, `base_model.model.`: whatever it is called, it stands before all. Lightning's `model.model.`
    # loads as it is, but nobody else would know it
    while foreign(stripped) or doubled(stripped):
        first = {name.partition(".")[0] for name in stripped}
        if len(first) != 1 or not all("." in name for name in stripped):
            return tensors
        stripped = {name.partition(".")[2]: tensor for name, tensor in stripped.items()}
    return stripped


def _wrapped(model: Model, tensors: Mapping[str, LazyTensor]) -> list[str]:
    if tensors is model.checkpoint:
        return []
    changed = next(((a, b) for a, b in zip(model.checkpoint, tensors, strict=True) if a != b), None)
    if changed is None:
        return []
    return [f"{model.label}: saved with its wrapper, which is taken off the names: {changed[0]} is {changed[1]}"]


def _left_out(model: Model, inventory: Inventory, review: Review) -> str:
    """What is said of tensors of another head of the same model; `CheckpointError` where they are nobody's."""
    unmerged = [name for name in review.foreign if UNMERGED.search(name)]
    if unmerged:
        raise CheckpointError(
            f"{model.label}: an unmerged adapter in the model file: {some(unmerged)}",
            "merge it with PEFT's merge_and_unload and save the model; or save the adapter and name it on its base",
        )
    every = [*review.names, *review.foreign]
    other = other_class(model.config, every) or other_class(model.config, review.foreign)
    if other is None:
        raise CheckpointError(
            f"{model.label}: {some(review.foreign)}: {inventory.architecture} has no tensor of that name",
            "the file is of another model than its config.json, or of another class: then write the model as "
            "{model: ..., override_architecture: CLASS}",
        )
    return f"{model.label}: {some(review.foreign)} left out: of {other}, not of {inventory.architecture}"


def _refuse(model: Model, inventory: Inventory, review: Review) -> None:
    if review.twice:
        first, second = review.twice[0]
        raise CheckpointError(f"{model.label}: {first} and {second} are one tensor under two names", "save it again")
    if review.missing:
        raise CheckpointError(
            f"{model.label}: lacks {some(review.missing)}, which {inventory.architecture} has by its config.json",
            "the file is not whole, or its config.json is another model's; save or download it again"
            + (
                "; where the head is the embedding, its config.json must say tie_word_embeddings: true"
                if all(name.startswith(("lm_head.", "proj_out.")) for name in review.missing)
                else ""
            ),
        )
    if review.misshapen:
        name, shape, wanted = review.misshapen[0]
        more = f", and {len(review.misshapen) - 1} more do not fit" if len(review.misshapen) > 1 else ""
        raise CheckpointError(
            f"{model.label}: {name} has the shape {list(shape)}, by its config.json it is {list(wanted)}{more}",
            "the config.json is another model's, or was not changed with the weights (vocab_size after a resize)",
        )


def _with_class(config: JsonObject, inventory: Inventory) -> JsonObject:
    """The config with a class, where it names none or what wrapped it; a hub's own name for a class stays."""
    written = config.get("architectures")
    if isinstance(written, list) and written and architecture({"architectures": written}):
        own = str(written[0]).removeprefix(FSDP)
        return config if own == written[0] else {**config, "architectures": [own]}
    return {**config, "architectures": [inventory.architecture]}
