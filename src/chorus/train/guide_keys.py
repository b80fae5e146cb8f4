"""The flat JSON keys of whisper.cpp-finetuning's second script, as Chorus's.

`TABLE` is what docs/whisper-finetuning.md shows; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping

from chorus.errors import RecipeError, nearest

TABLE: dict[str, str] = {
    "base_model": "model.base",
    "train_csv": "data.train",
    "val_csv": "data.dev",
    "outdir": "output",
    "language": "data.language",
    "seed": "seed",
    "epochs": "train.epochs",
    "lr": "train.learning_rate",
    "warmup_ratio": "train.warmup",
    "per_dev_batch": "train.batch_size",
    "grad_accum": "train.accumulation",
    "logging_steps": "train.log_steps",
    "save_steps": "train.save_steps",
    "eval_steps": "dev.every_steps",
    "fp16": "train.precision: float16",
    "bf16": "train.precision: bfloat16",
    "lora_r": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "use_dora": "adapter.type: dora",
    "dora_ephemeral_offload": "adapter.runtime.ephemeral_gpu_offload",
    "lora_runtime_config": "adapter.runtime",
    "lora_init": "adapter.type or adapter.init",
    "lora_rank_pattern": "adapter.rank_pattern",
    "lora_alpha_pattern": "adapter.alpha_pattern",
    "lora_target_modules": "adapter.modules",
    "modules_to_save": "adapter.save_modules",
    "merge_lora": "adapter.merge",
    "freeze_encoder": "model.freeze: [encoder]",
}
DEFAULTS: dict[str, dict[str, float]] = {  # of that script, where they are not Chorus's
    "train": {"epochs": 5, "learning_rate": 5e-5, "warmup": 0.08, "batch_size": 2, "accumulation": 4},
    "adapter": {"rank": 16, "alpha": 32, "dropout": 0.05},
}
KINDS = ("pissa", "olora", "eva")


def is_guide(document: Mapping[str, object]) -> bool:
    """Whether a configuration has the flat keys: several of them, and none of Chorus's sections."""
    return bool(set(document) & {"base_model", "train_csv", "val_csv", "lora_r"}) and not (
        set(document) & {"model", "data", "train", "adapter"}
    )


def translate(document: Mapping[str, object], source: str) -> dict[str, object]:
    """The same settings in Chorus's keys. `RecipeError` names unknown keys and values."""
    problems = [f"{key}: unknown key{nearest(key, TABLE)}" for key in document if key not in TABLE]
    result: dict[str, object] = {section: dict(values) for section, values in DEFAULTS.items()}
    for key, value in document.items():
        target = TABLE.get(key, "")
        if value is None or not target:
            continue
        if key in ("fp16", "bf16", "use_dora"):
            if value:
                place, setting = target.split(": ")
                _put(result, place, setting)
        elif key == "freeze_encoder":
            if value:
                _put(result, "model.freeze", ["encoder"])
        elif key == "lora_init":
            problems += _start(result, value)
        elif key in ("lora_runtime_config", "lora_rank_pattern", "lora_alpha_pattern", "dora_ephemeral_offload"):
            _put(result, target, value)
        elif key in ("lora_target_modules", "modules_to_save"):
            names = str(value).replace(",", " ").split() if not isinstance(value, list) else value
            # the script's default asks for "o_proj", which Whisper calls out_proj
            _put(result, target, ["out_proj" if n == "o_proj" else n for n in names])
        else:
            _put(result, target, value)
    if problems:
        raise RecipeError(problems, "docs/whisper-finetuning.md has the whole table", source)
    return result


def _start(result: dict[str, object], value: object) -> list[str]:
    """`lora_init`: true, or a name."""
    name = str(value).lower()
    if name in ("true", "default"):
        return []
    if name in KINDS:
        _put(result, "adapter.type", name)
        return []
    if name in ("gaussian", "orthogonal"):
        _put(result, "adapter.init", name)
        return []
    return [f"lora_init: {value!r} is not known here{nearest(name, (*KINDS, 'gaussian', 'orthogonal', 'true'))}"]


def _put(document: dict[str, object], place: str, value: object) -> None:
    """Set a dotted key, opening its sections."""
    section, dot, rest = place.partition(".")
    if not dot:
        document[place] = value
        return
    inner = document.setdefault(section, {})
    assert isinstance(inner, dict)
    _put(inner, rest, value)
