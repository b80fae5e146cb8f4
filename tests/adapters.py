"""Random adapters on small models, and what PEFT makes of an adapter."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from models import build

QWEN = ("q_proj", "v_proj", "up_proj")
WHISPER = ("q_proj", "v_proj", "fc1")


def make_adapters(directory: Path, kind: str, count: int, **settings: Any) -> tuple[Path, list[Path]]:
    """Save a base, and adapters on it of ranks 4, 5, ...; returns their paths."""
    from peft import LoraConfig, get_peft_model

    base = directory / "base"
    build(kind).save_pretrained(base)
    targets = list(QWEN if kind == "qwen2" else WHISPER)
    paths = []
    for i in range(count):
        given = {"r": 4 + i, "lora_alpha": 16, "target_modules": targets, "base_model_name_or_path": "org/base"}
        tuned = get_peft_model(build(kind), LoraConfig(**{**given, **settings}))
        numbers = torch.Generator().manual_seed(i)
        for name, parameter in tuned.named_parameters():
            if parameter.requires_grad:
                scale = 0.1 if "magnitude" in name else 0.1 * parameter.data.abs().mean() + 0.02
                parameter.data += torch.randn(parameter.shape, generator=numbers) * scale
        paths.append(directory / f"adapter-{i}")
        tuned.save_pretrained(paths[-1])
        config = paths[-1] / "adapter_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "org/base"}))
    return base, paths


def recipe_of(method: str, base: Path, adapters: list[Path], *, weight: bool = True, **parameters: Any) -> dict:
    """A recipe that merges adapters on their base."""
    each = [{"weight": 0.3 + 0.2 * i} if weight else {} for i in range(len(adapters))]
    return {
        "merge_method": method,
        "base_model": str(base),
        "out_dtype": "float32",
        "models": [
            {"model": str(base), "lora": str(path), "parameters": p} for path, p in zip(adapters, each, strict=True)
        ],
        "parameters": parameters,
    }


def untie(model: Any) -> Any:
    """A model whose tied tensors are copies: PEFT merges what two modules have into the one tensor that they share."""
    for name, source in model.all_tied_weights_keys.items():
        module, _, last = name.rpartition(".")
        setattr(model.get_submodule(module), last, torch.nn.Parameter(model.get_parameter(source).detach().clone()))
    model.all_tied_weights_keys = {}
    model.config.tie_word_embeddings = False
    return model


def loaded_by_peft(kind: str, base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The base with an adapter on it, loaded and merged by PEFT; under a head of its own where the base ties it."""
    import transformers
    from peft import PeftModel

    from models import CLASSES

    with warnings.catch_warnings():
        for word in ("missing", "unexpected", "mismatch"):  # of keys, of which PEFT only warns
            warnings.filterwarnings("error", message=f"(?s).*{word}")
        model = getattr(transformers, CLASSES[kind]).from_pretrained(base, dtype=torch.float32)
        return PeftModel.from_pretrained(untie(model), adapter).merge_and_unload().state_dict()


def worst_error(
    found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], base: dict[str, torch.Tensor]
) -> float:
    """The largest relative error of a tensor's delta; tensors that do not change must not change."""
    worst, changed = 0.0, 0
    base = {"lm_head.weight": base.get("model.embed_tokens.weight"), **base}  # where an adapter unties it
    for name, value in wanted.items():
        size = float((value - base[name]).norm())
        error = float((found[name].float() - value).norm())
        if size <= 1e-6 * float(value.norm()):  # rounding
            assert error < 1e-6 * float(value.norm()) + 1e-12, name
        else:
            changed += 1
            worst = max(worst, error / size)
    assert changed >= 3
    return worst
