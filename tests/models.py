"""Small models of the real classes, on disk, and ways to look at results."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

logging.getLogger("transformers").setLevel(logging.ERROR)

CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2": {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "max_position_embeddings": 64,
    },
    "whisper": {
        "vocab_size": 51865,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "num_mel_bins": 80,
        "max_source_positions": 50,
        "max_target_positions": 24,
        "pad_token_id": 50257,
        "bos_token_id": 50257,
        "eos_token_id": 50257,
        "decoder_start_token_id": 50258,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
    },
}
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 64}
CONFIGS |= {
    "qwen3": {**SMALL, "num_key_value_heads": 2, "head_dim": 8},
    "llama": {**SMALL, "num_key_value_heads": 2},
    "mistral": {**SMALL, "num_key_value_heads": 2},
}
CLASSES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "whisper": "WhisperForConditionalGeneration",
}


@dataclass(frozen=True)
class Family:
    """A base and fine-tunes of it."""

    kind: str
    base: Path
    tuned: tuple[Path, ...]

    def recipe(self, method: str, count: int | None = None, *, base: bool = True, **keys: Any) -> dict[str, Any]:
        """A recipe over the first `count` fine-tunes; `each` holds every model's parameters."""
        each = keys.pop("each", [{}] * len(self.tuned))
        models = [
            {"model": str(path), "parameters": dict(parameters)}
            for path, parameters in list(zip(self.tuned, each, strict=False))[:count]
        ]
        made: dict[str, Any] = {"merge_method": method, "models": models, **keys}
        if base:
            made["base_model"] = str(self.base)
        return made


def build(kind: str, seed: int = 0, **changes: Any) -> Any:
    """A randomly initialised model of the real class."""
    import transformers

    config = transformers.AutoConfig.for_model(kind, **{**CONFIGS[kind], **changes})
    torch.manual_seed(seed)
    return getattr(transformers, CLASSES[kind])(config)


def make_family(directory: Path, kind: str, count: int, *, spread: float = 3e-4) -> Family:
    """Save a base and `count` fine-tunes with deltas of standard deviation `spread`; the second one in shards."""
    model = build(kind)
    if kind == "whisper":
        model.generation_config = whisper_generation()
    paths = [directory / "base", *(directory / f"tuned-{i}" for i in range(count))]
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    original = {k: v.clone() for k, v in model.state_dict().items() if k not in tied}
    learned = {n for n, p in model.named_parameters() if p.requires_grad}
    numbers = torch.Generator().manual_seed(7)
    for i, path in enumerate(paths):
        state = {
            k: v + torch.randn(v.shape, generator=numbers) * spread * (i > 0) if k in learned else v
            for k, v in original.items()
        }
        model.load_state_dict(state, strict=False)
        model.save_pretrained(path, max_shard_size="40KB" if i == 2 and kind == "qwen2" else "5GB")
        licence = "apache-2.0" if i != 1 else "mit"
        (path / "README.md").write_text(f"---\nlicense: {licence}\nlanguage:\n- en\n---\n# A model\n")
        if kind == "whisper":
            whisper_extractor(path)
    return Family(kind, paths[0], tuple(paths[1:]))


def whisper_generation() -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        decoder_start_token_id=50258,
        eos_token_id=50257,
        pad_token_id=50257,
        bos_token_id=50257,
        lang_to_id={"<|en|>": 50259, "<|pt|>": 50267},
        task_to_id={"transcribe": 50359, "translate": 50358},
        is_multilingual=True,
        no_timestamps_token_id=50363,
        suppress_tokens=[1, 2, 7],
        begin_suppress_tokens=[220, 50257],
        alignment_heads=[[0, 0]],
        max_length=24,
    )


def whisper_extractor(path: Path) -> None:
    from transformers import WhisperFeatureExtractor

    WhisperFeatureExtractor(feature_size=80, chunk_length=1).save_pretrained(path)


def write_model(path: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> Path:
    """A model directory from tensors and a config as they are."""
    path.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(config))
    return path


def copy_model(source: Path, target: Path, *, dtype: torch.dtype | None = None, **config: Any) -> Path:
    """A copy in one file, perhaps in another dtype, with changes to its config."""
    tensors = {k: v.to(dtype or v.dtype) for k, v in load_all(source).items()}
    settings = json.loads((source / "config.json").read_text())
    write_model(target, tensors, {**settings, **config})
    for name in ("generation_config.json", "preprocessor_config.json", "README.md"):
        if (source / name).exists():
            (target / name).write_bytes((source / name).read_bytes())
    return target


def load_all(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a directory, whatever its shards."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def write_recipe(path: Path, recipe: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def files_of(path: Path) -> dict[str, bytes]:
    """Every file of a directory with its bytes."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
