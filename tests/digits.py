"""Real digits of some speakers, and the demo's Whisper moved away from what it has learnt of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from models import load_all, write_model
from sounds import BASE, DIGITS


def as_model(place: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Weights as a directory with all that stands beside the demo's Whisper."""
    write_model(place, tensors, json.loads((BASE / "config.json").read_text()))
    for file in BASE.iterdir():
        if file.name not in ("model.safetensors", "README.md", "config.json"):
            (place / file.name).write_bytes(file.read_bytes())
    return place


def spoilt_whisper(place: Path, spread: float, seed: int = 0) -> Path:
    """Noise on every matrix: at 1 some digits are still heard, at 2 none."""
    draw = torch.Generator().manual_seed(seed)
    return as_model(place, {
        name: value if "embed_positions" in name or value.ndim < 2
        else value + spread * value.abs().mean() * torch.randn(value.shape, generator=draw)
        for name, value in load_all(BASE).items()
    })  # fmt: skip


def some_digits(place: Path, speakers: Sequence[str], each: int) -> Path:
    """A manifest of the first so many of every third test recording of each speaker."""
    with (DIGITS / "data" / "manifest.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    chosen = [row for name in speakers for row in [one for one in rows if one["domain"] == name][::3][:each]]
    with place.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(chosen[0]))
        writer.writeheader()
        writer.writerows({**row, "path": str(DIGITS / "data" / row["path"])} for row in chosen)
    return place
