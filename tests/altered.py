"""The demo's base with something changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sounds import BASE

EMBEDDING = "model.decoder.embed_tokens.weight"


def changed(tmp_path: Path, *, vocabulary: int = 0, **tensors: Any) -> Path:
    """The demo's base with tensors changed, or with more rows in its vocabulary."""
    place = tmp_path / "model"
    shutil.copytree(BASE, place)
    weights = load_file(place / "model.safetensors")
    for name, value in tensors.items():
        weights[name.replace("__", ".")] = value
    if vocabulary:
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps({**config, "vocab_size": vocabulary}))
    save_file(weights, place / "model.safetensors", {"format": "pt"})
    return place


def grown(rows: torch.Tensor) -> torch.Tensor:
    """The base's embedding with more rows."""
    return torch.cat([load_file(BASE / "model.safetensors")[EMBEDDING], rows.half()])
