"""Claim: `chorus train` is within ten percent of a bare PyTorch loop on the same batches, and never waits for data.

    python benchmarks/train.py [--steps 12] [--batch 4] [--repeats 3]

Whisper-tiny's size with random weights, thirty-second windows, float32. The rivals take turns in one process: the
bare loop runs forward, backward, clipping, AdamW and schedule over batches that lie ready in memory; ours is the
whole of `chorus.train` without measuring and saving, on cached features. Seconds a step are medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

ROOT = Path(__file__).parents[1]
TOKENIZER = ROOT / "examples" / "digits" / "base"
TINY = {"d_model": 384, "layers": 4, "heads": 6, "ffn": 1536}


def make_base(place: Path) -> Path:
    """A Whisper of the real size with random weights, and the real vocabulary."""
    import shutil

    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=51865, num_mel_bins=80, d_model=TINY["d_model"], encoder_layers=TINY["layers"],
        decoder_layers=TINY["layers"], encoder_attention_heads=TINY["heads"], decoder_attention_heads=TINY["heads"],
        encoder_ffn_dim=TINY["ffn"], decoder_ffn_dim=TINY["ffn"], pad_token_id=50257, bos_token_id=50257,
        eos_token_id=50257, decoder_start_token_id=50258,
    )  # fmt: skip
    WhisperForConditionalGeneration(config).save_pretrained(place / "base")
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json"):
        shutil.copy(TOKENIZER / name, place / "base" / name)
    return place / "base"


def make_speech(place: Path, rows: int) -> Path:
    """Noise with words, three to nine seconds."""
    from chorus.data.audio import RATE, write_flac
    from chorus.data.manifest import Row, write_manifest

    numbers, made = np.random.default_rng(0), []
    for i in range(rows):
        audio = numbers.normal(0, 0.1, int(numbers.uniform(3, 9) * RATE)).astype(np.float32)
        write_flac(place / "speech" / f"{i}.flac", audio)
        made.append(Row(f"speech/{i}.flac", "so many words as a sentence has, more or less", "en", root=place))
    return write_manifest(made, place / "manifest.csv")


def bare(base: Path, batches: list[dict[str, Any]], rate: float) -> list[float]:
    """Seconds of each step of a plain loop."""
    from transformers import WhisperForConditionalGeneration, get_cosine_schedule_with_warmup

    model = WhisperForConditionalGeneration.from_pretrained(base, dtype=torch.float32).train()
    model.model.encoder.embed_positions.requires_grad_(False)
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=rate, weight_decay=0.01, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimiser, 1, len(batches))
    seconds = []
    for batch in batches:
        started = time.perf_counter()
        loss = model(input_features=batch["input_features"], labels=batch["labels"]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - started)
    return seconds


def ours(config: Any, seen: list[dict[str, Any]]) -> tuple[list[float], float]:
    """Seconds of each step of `chorus.train`, and the share of its time that it waited for data."""
    from transformers import TrainerCallback

    import chorus
    from chorus.train import trainer

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            marks.append(time.perf_counter())

        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            marks.append(time.perf_counter())

    marks: list[float] = []
    original, kept = trainer.callbacks, trainer.SpeechTrainer.training_step

    def step(self: Any, model: Any, inputs: Any, *arguments: Any, **more: Any) -> Any:
        seen.append({k: v.clone() for k, v in inputs.items() if k != "rows"})
        return kept(self, model, inputs, *arguments, **more)

    def with_clock(settings: Any, given: Any, **more: Any) -> Any:
        return original(settings, [*given, Clock()], **more)

    trainer.callbacks = with_clock
    if not seen:
        trainer.SpeechTrainer.training_step = step
    try:
        result = chorus.train(config, restart=True)
    finally:
        trainer.callbacks, trainer.SpeechTrainer.training_step = original, kept
    return [b - a for a, b in pairwise(marks)], result.waited_share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with common.workplace() as place:
        os.environ["CHORUS_CACHE"] = str(place / "cache")
        base, manifest = make_base(place), make_speech(place, args.steps * args.batch)
        from chorus.train.layers import load_train_config

        config = load_train_config(
            {
                "model": {"base": str(base)},
                "data": {"train": str(manifest), "dev": []},
                "train": {"steps": args.steps, "batch_size": args.batch, "learning_rate": 1e-5}
                | {"optimizer": "adamw_torch_fused"},
                "output": str(place / "out"),
                "logs": str(place / "logs"),
            }
        )  # fmt: skip
        batches: list[dict[str, Any]] = []
        _, cold = ours(config, batches)  # fills the cache and keeps the batches
        rows: dict[str, list[float]] = {"chorus": [], "bare": []}
        waits = []
        for _ in range(args.repeats):
            seconds, waited = ours(config, batches)
            rows["chorus"] += seconds[1:]
            waits.append(waited)
            rows["bare"] += bare(base, batches, 1e-5)[1:]
        medians = {name: statistics.median(values) for name, values in rows.items()}
        common.report(
            "train",
            [
                {
                    "model": "whisper-tiny",
                    "batch": args.batch,
                    "threads": torch.get_num_threads(),
                    "chorus s/step": round(medians["chorus"], 3),
                    "bare s/step": round(medians["bare"], 3),
                    "ratio": round(medians["chorus"] / medians["bare"], 3),
                    "waited for data, cached": round(statistics.median(waits), 4),
                    "waited for data, first run": round(cold, 4),
                }
            ],
        )


if __name__ == "__main__":
    main()
