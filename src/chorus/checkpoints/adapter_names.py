"""The names in files of adapters: whatever wrapped the model when it was saved, the module, what a tensor is to it."""

from __future__ import annotations

import re

# modules that wrap others while a model is trained, wherever they stand: torch.compile, FSDP, checkpointing, Fairscale,
# Lightning
WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_fpw_module|_forward_module)\.")
SLOTS = {
    ("lora_A", "weight"): "a",
    ("lora_B", "weight"): "b",
    # parameters themselves, not modules with a weight: AdaLoRA's, and all of an embedding's
    ("lora_A", ""): "a",
    ("lora_B", ""): "b",
    ("lora_E", ""): "e",
    ("lora_embedding_A", ""): "a",
    ("lora_embedding_B", ""): "b",
    # files keep the first form: PEFT turned the parameter into a module and renames on loading and saving
    ("lora_magnitude_vector", ""): "magnitude",
    ("lora_magnitude_vector", "weight"): "magnitude",
    ("lora_B", "bias"): "bias",
}
# the name of the adapter itself may stand behind: `lora_A.default.weight`
FACTOR = re.compile(rf"(.+)\.({'|'.join(sorted({part for part, _ in SLOTS}))})(?:\.([^.]+))??(?:\.(weight|bias))?")
# what acts in training only: samplers, and the rank that AdaLoRA counts anew
IN_TRAINING = (".lora_monteclora_sampler.", ".lora_velora_", ".ranknum")
ORIGINAL = ".original_module."  # the base's own values, which a wrapper keeps beside those it saves


def unwrapped(name: str) -> str:
    """A name without the modules that wrap others while a model is trained.

    >>> unwrapped("_orig_mod.encoder.layers.0._checkpoint_wrapped_module.fc1.weight")
    'encoder.layers.0.fc1.weight'
    """
    return WRAPPERS.sub("", name)


def bare_name(name: str) -> str:
    """A tensor's name as the base has it, or would have it, without what wrapped the model.

    >>> bare_name("base_model.model._orig_mod.score.modules_to_save.default.weight")
    'score.weight'
    """
    bare = unwrapped(name).removeprefix("module.").removeprefix("base_model.model.").removeprefix("module.")
    for wrapped in (".base_layer.", ".modules_to_save.default.", ".modules_to_save."):
        bare = bare.replace(wrapped, ".")
    return bare


def split_name(name: str) -> tuple[str, str] | None:
    """(module, what the tensor is to it) for a factor; None for other tensors.

    >>> split_name("base_model.model.layers.0.q_proj.lora_A.default.weight")
    ('layers.0.q_proj', 'a')
    """
    found = FACTOR.fullmatch(bare_name(name))
    slot = SLOTS.get((found[2], found[4] or "")) if found else None
    return (found[1], slot) if found and slot else None


def is_embedding(name: str) -> bool:
    """Whether a factor's name is that of an embedding's."""
    return ".lora_embedding_" in name


def acts_in_training_only(name: str) -> bool:
    """Whether nothing of the merged weights depends on a tensor."""
    return ORIGINAL in name or any(part in name for part in IN_TRAINING)


def canonical(name: str) -> str:
    """A name without the segments that differ between versions of transformers.

    Files of one model, and adapters trained on it, differ in where `model` and `language_model` stand.

    >>> canonical("language_model.model.layers.0.mlp") == canonical("model.language_model.layers.0.mlp")
    True
    """
    return ".".join(part for part in name.split(".") if part not in ("model", "thinker", "language_model"))
