"""Models for the benchmarks of export: real shapes, random weights, a tokenizer of their own."""

from __future__ import annotations

import json
from pathlib import Path

import common
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parents[1]
LARGE_V3 = 51866
WORDS = 4096  # of a language model's vocabulary, cut down: its rows are what matters
QWENS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LANGUAGE: dict[str, dict[str, object]] = {
    "qwen2.5-0.5b": common.QWEN_05B,
    "qwen2.5-1.5b": {
        **common.QWEN_05B, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12,
    },
    "llama-3.2-1b": {
        **common.QWEN_05B, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
        "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
}  # fmt: skip


def make_sample(directory: Path, name: str, layers: int) -> Path:
    """A few layers of a size in float32, so that every type rounds it."""
    whisper = name in common.CONFIGS and "whisper" in name
    config = dict(common.CONFIGS[name] if whisper else LANGUAGE[name])
    keys = ("encoder_layers", "decoder_layers") if whisper else ("num_hidden_layers",)
    config |= dict.fromkeys(keys, layers) | ({} if whisper else {"vocab_size": WORDS})
    path = directory / f"{name}-{layers}-layers"
    path.mkdir(parents=True, exist_ok=True)
    numbers = torch.Generator().manual_seed(0)
    shapes = common.shapes_of(config)
    # heavier tails than a normal distribution's, as trained weights have them: blocks with one large value
    tensors = {n: torch.randn(s, generator=numbers).sinh_().mul_(0.02) for n, s in shapes.items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}))
    write_tokens(path, whisper=whisper)
    return path


def write_tokens(directory: Path, *, whisper: bool) -> Path:
    """A tokenizer beside a model: every multilingual Whisper's, or bytes under Qwen2's rules."""
    return whisper_tokens(directory) if whisper else byte_tokens(directory)


def whisper_tokens(directory: Path) -> Path:
    """The demo's tokenizer, which is every multilingual Whisper's; large-v3 has a language more (yue)."""
    document = json.loads((ROOT / "examples/digits/base/tokenizer.json").read_text())
    if json.loads((directory / "config.json").read_text())["vocab_size"] == LARGE_V3:
        at = next(i for i, one in enumerate(document["added_tokens"]) if one["content"] == "<|translate|>")
        first = document["added_tokens"][at]["id"]
        for one in document["added_tokens"][at:]:
            one["id"] += 1
        document["added_tokens"].insert(at, {**document["added_tokens"][at], "id": first, "content": "<|yue|>"})
    path = directory / "tokenizer.json"
    path.write_text(json.dumps(document))
    return path


def byte_tokens(directory: Path) -> Path:
    """Bytes and one merge."""
    from chorus.export.whisper import printable_bytes

    letters = [*printable_bytes().values(), "th"]
    split = {"type": "Split", "pattern": {"Regex": QWENS}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    document = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "decoder": level,
        "model": {"type": "BPE", "vocab": {letter: i for i, letter in enumerate(letters)}, "merges": [["t", "h"]]},
    }
    path = directory / "tokenizer.json"
    path.write_text(json.dumps(document))
    return path
