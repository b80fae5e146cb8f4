"""Configuration files laid over one another, then the command line's `key=value`, then the check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import yaml

from chorus.documents import parse_yaml
from chorus.errors import RecipeError, UsageError, nearest
from chorus.settings import SPELLINGS, leaves, read_document, validated
from chorus.train.config import VERSION, TrainConfig
from chorus.train.guide_keys import is_guide, translate

ELSEWHERE = {  # what other tools call a key
    "num_train_epochs": "train.epochs",
    "max_steps": "train.steps",
    "lr": "train.learning_rate",
    "per_device_train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.accumulation",
    "warmup_ratio": "train.warmup",
    "warmup_steps": "train.warmup",
    "lr_scheduler_type": "train.schedule",
    "optim": "train.optimizer",
    "fp16": "train.precision: float16",
    "bf16": "train.precision: bfloat16",
    "eval_steps": "dev.every_steps",
    "metric_for_best_model": "dev.metric",
    "early_stopping_patience": "train.early_stopping",
    "dataloader_num_workers": "train.workers",
    "output_dir": "output",
    "logging_steps": "train.log_steps",
    "save_total_limit": "train.keep_checkpoints",
    "target_modules": "adapter.modules",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "r": "adapter.rank",
    "modules_to_save": "adapter.save_modules",
    "language": "data.language",
    "model_name_or_path": "model.base",
}


Layer = str | Path | Mapping[str, object]  # a file, or a map as one holds it


def load_train_config(*sources: Layer, overrides: Sequence[str] = (), task: str | None = None) -> TrainConfig:
    """Files (or maps), later ones over earlier, `key=value` over all. `RecipeError` with every problem found.

    With `task`, a `base.yaml` beside the first file is laid under it. Relative paths in a file count from the
    working directory, as on the command line. A file with the flat keys of whisper.cpp-finetuning is understood.
    """
    merged: dict[str, object] = {}
    names = []
    for source in _with_base(sources, task):
        document, name, _ = read_document(source)
        names.append(name)
        merged = lay_over(merged, translate(document, name) if is_guide(document) else document)
    for override in overrides:
        merged = lay_over(merged, parse_override(override))
    if task:
        merged["task"] = task
    source_name = " + ".join(names) or "settings"
    if "version" in merged and isinstance(merged["version"], int) and merged["version"] != VERSION:
        merged = {"version": merged["version"], **{k: v for k, v in merged.items() if k in ("model", "data")}}
    try:
        return validated(TrainConfig, merged, source=source_name)
    except RecipeError as error:
        problems = [_with_elsewhere(p) for p in error.problems]
        hint = "chorus train --print-config CONFIG shows the keys that hold; docs/train.md lists all"
        raise RecipeError(problems, hint, source_name) from None


def _with_base(sources: Sequence[Layer], task: str | None) -> list[Layer]:
    found = list(sources)
    if task and found and not isinstance(found[0], Mapping):
        first = Path(found[0])
        for name in ("base.yaml", "base.yml", "base.json"):
            beside = first.with_name(name)
            if beside.is_file() and beside != first and str(beside) not in map(str, found):
                return [beside, *found]
    return found


def lay_over(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """Maps merge key by key; anything else is replaced; null takes a key away."""
    merged = dict(below)
    for key, value in above.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(under := merged.get(key), Mapping):
            merged[key] = lay_over(under, value)
        else:
            merged[key] = value
    return merged


def parse_override(text: str) -> dict[str, object]:
    """`train.learning_rate=1e-5` as a map; the value is read as YAML.

    >>> parse_override("train.learning_rate=1e-5")
    {'train': {'learning_rate': 1e-05}}
    """
    given, equals, written = text.partition("=")
    key = ".".join(SPELLINGS.get(part, part) for part in given.split("."))
    if not equals or not key:
        raise UsageError(f"{text}: write KEY=VALUE, as in train.learning_rate=1e-5")
    known = list(leaves(TrainConfig))
    openings = {".".join(k.split(".")[:n]) for k in known for n in range(1, k.count(".") + 1)}
    inside = [k for k in known if key.startswith(f"{k}.")]  # a key of a map, such as adapter.rank_pattern.q_proj
    if key not in known and key not in openings and not inside:
        other = ELSEWHERE.get(key.split(".")[-1])
        hint = f'; here it is "{other}"' if other else nearest(key, known)
        raise UsageError(f'unknown key "{key}"{hint}')
    try:
        (value,) = parse_yaml(written, key) or [None]
    except (RecipeError, ValueError):
        value = written
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)  # YAML 1.1 takes 1e-5 for a text
    document = value
    for part in reversed(key.split(".")):
        document = {part: document}
    found: dict[str, object] = document
    return found


def _with_elsewhere(problem: str) -> str:
    """Keys of transformers and PEFT get the name that they have here."""
    where, _, rest = problem.partition(": ")
    other = ELSEWHERE.get(where.split(".")[-1].split("[")[0])
    return f'{where}: unknown key; here it is "{other}"' if rest.startswith("unknown key") and other else problem


def as_yaml(config: TrainConfig) -> str:
    """What holds, every key, as YAML that can be read again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
