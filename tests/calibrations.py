"""Small speech models with random adapters and fine-tunes on them, and recipes that weigh those."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sounds import BASE, tiny

WEIGHTS = (0.7, -0.4, 0.3)
SEED = 30
TARGETS = {"whisper": ["q_proj", "v_proj", "fc1"], "qwen2_audio": ["q_proj", "v_proj", "up_proj", "fc2", "linear"]}


def loaded(kind: str, base: Path) -> Any:
    import transformers

    name = {"whisper": "WhisperForConditionalGeneration", "qwen2_audio": "Qwen2AudioForConditionalGeneration"}[kind]
    return getattr(transformers, name).from_pretrained(base, dtype=torch.float32)


def base_of(place: Path, kind: str) -> Path:
    return BASE if kind == "whisper" else tiny(place / "base", kind)


def adapters_on(base: Path, kind: str, place: Path, count: int, **settings: Any) -> list[Path]:
    """Random adapters of ranks 2, 3, ... whose effect is large enough to be told from rounding."""
    from peft import LoraConfig, get_peft_model

    paths = []
    for i in range(count):
        given = {"r": 2 + i, "lora_alpha": 8, "target_modules": TARGETS[kind], **settings}
        torch.manual_seed(SEED + i)  # of the factors that are drawn, not zeros
        tuned = get_peft_model(loaded(kind, base), LoraConfig(**given))
        numbers = torch.Generator().manual_seed(i + 1)
        for _, parameter in tuned.named_parameters():
            if parameter.requires_grad:
                size = parameter.data.abs().mean() if parameter.data.dim() < 2 else 0.2
                parameter.data += torch.randn(parameter.shape, generator=numbers) * size * 0.5
        paths.append(place / f"adapter-{i}")
        tuned.save_pretrained(paths[-1])
        config = paths[-1] / "adapter_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "org/base"}))
    return paths


def fine_tunes_of(base: Path, kind: str, place: Path, count: int) -> list[Path]:
    """Models that differ from the base everywhere that a training changes."""
    paths = []
    for i in range(count):
        model = loaded(kind, base)
        numbers = torch.Generator().manual_seed(i + 1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "encoder.embed_positions" not in name and "audio_tower.embed_positions" not in name:
                    parameter += torch.randn(parameter.shape, generator=numbers) * 0.02
        paths.append(place / f"tuned-{i}")
        model.save_pretrained(paths[-1])
    return paths


def recipe_for(base: Path, models: list[Path], *, adapters: bool, **more: Any) -> dict[str, Any]:
    each = [
        {"model": str(base), "lora": str(path)} if adapters else {"model": str(path)} for path in models
    ]  # fmt: skip
    entries = [{**one, "parameters": {"weight": w}} for one, w in zip(each, WEIGHTS, strict=False)]
    return {
        "merge_method": "task_arithmetic", "base_model": str(base), "models": entries, "out_dtype": "float32", **more
    }  # fmt: skip


def cases(place: Callable[[str], Path]) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """By case, such as `whisper adapters`: the base, and a recipe of two models on it; each made once."""
    known: dict[str, tuple[Path, dict[str, Any]]] = {}

    def find(case: str) -> tuple[Path, dict[str, Any]]:
        if case not in known:
            kind, form = case.split()
            folder = place("models")
            base = base_of(folder, kind)
            make = adapters_on if form == "adapters" else fine_tunes_of
            known[case] = base, recipe_for(base, make(base, kind, folder, 2), adapters=form == "adapters")
        return known[case]

    return find


def doubled(monkeypatch: Any) -> None:
    """transformers' language models take norms and losses through float32, in which no slope could be told."""
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

    def norm(self: Any, x: torch.Tensor) -> Any:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    monkeypatch.setattr(Qwen2RMSNorm, "forward", norm)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
