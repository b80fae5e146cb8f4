"""Claim: a calibration step costs at most 1.3 times one adapter's training step, whatever the number of adapters.

    python benchmarks/calibrate.py [--counts 1,3,7] [--rank 16] [--batch 2] [--repeats 7] [--width 384] [--layers 4]

A Whisper of whisper-tiny's size (or another) with random weights, thirty-second windows, float32. The rivals take turns
in one process on the same batch: PEFT's LoRA of one adapter on every linear map of encoder and decoder, trained by
AdamW, against the update of the weights of 1, 3 and 7 such adapters in groups. Seconds a step are medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import torch
import train as training

TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


def adapter_on(base: Path, place: Path, rank: int, seed: int) -> Path:
    """A random adapter."""
    wrapped = trained(base, rank)
    torch.manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    wrapped.save_pretrained(place)
    return place


def trained(base: Path, rank: int) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS))


def training_step(base: Path, rank: int, batch: dict[str, Any]) -> Callable[[], None]:
    """One update of one adapter."""
    model = trained(base, rank).train()
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=1e-4, fused=True)

    def step() -> None:
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def calibration_step(base: Path, adapters: list[Path], batch: dict[str, Any]) -> Callable[[], None]:
    """One update of the weights of several adapters."""
    from transformers import WhisperForConditionalGeneration

    import chorus
    from chorus.calibrate.deltas import deltas_of
    from chorus.calibrate.forms import Weights
    from chorus.calibrate.groups import groups_of, starting_weights
    from chorus.train.live import Live

    models = [{"model": str(base), "lora": str(path), "parameters": {"weight": 1 / len(adapters)}} for path in adapters]
    planned = chorus.plan({"merge_method": "task_arithmetic", "base_model": str(base), "models": models})
    groups = groups_of(planned, "group", 4)
    model = WhisperForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    stored = planned.variant().tensors
    live = Live(model, deltas_of(planned, groups), (len(groups.tasks), len(groups.every)), stored=stored)
    weights = Weights(starting_weights(planned, groups), "free", magnitude=2.0, shared=False)
    optimiser = torch.optim.Adam([weights.raw], lr=1e-3)

    def step() -> None:
        values = weights.values()
        live.set(values)
        model(**batch).loss.backward()
        optimiser.zero_grad()
        torch.autograd.backward(values, live.gradient())
        optimiser.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", default="1,3,7")
    for name, value in (("rank", 16), ("batch", 2), ("repeats", 7), ("width", 384), ("layers", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    counts = [int(n) for n in given.counts.split(",")]
    training.TINY = {
        "d_model": given.width, "layers": given.layers, "heads": given.width // 64, "ffn": 4 * given.width
    }  # fmt: skip
    with common.workplace() as place:
        base = training.make_base(place)
        adapters = [adapter_on(base, place / f"adapter-{i}", given.rank, i) for i in range(max(counts))]
        labels = torch.randint(0, 50000, (given.batch, 20), generator=torch.Generator().manual_seed(0))
        batch = {"input_features": torch.randn(given.batch, 80, 3000), "labels": labels}
        steps = {"training": training_step(base, given.rank, batch)}
        steps |= {f"{n} adapters": calibration_step(base, adapters[:n], batch) for n in counts}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        cpu: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(given.repeats + 1):
            for name, step in steps.items():
                started, used = time.perf_counter(), time.process_time()
                step()
                if turn:  # the first touches all memory
                    seconds[name].append(time.perf_counter() - started)
                    cpu[name].append(time.process_time() - used)
    rows = []
    for name in steps:
        rows.append({
            "step": name, "seconds": statistics.median(seconds[name]), "cpu_s": statistics.median(cpu[name]),
            "ratio": statistics.median(a / b for a, b in zip(seconds[name], seconds["training"], strict=True)),
            "cpu_ratio": statistics.median(a / b for a, b in zip(cpu[name], cpu["training"], strict=True)),
        })  # fmt: skip
    common.report("calibrate", rows)


if __name__ == "__main__":
    main()
