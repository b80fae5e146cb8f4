"""Claim: merges of adapters never leave factor space, so they take a fraction of the dense route and of PEFT's.

    python benchmarks/adapters.py [--shapes whisper-small,whisper-large-v3] [--parts factors,peft,command]

factors  TSV-M and BoostedTSV-M on the factors of ten adapters (rank 32, all linear layers) against the same methods
         on their dense deltas: one tensor of each shape, times how many there are; after imports, nothing written
peft     the weighted sum of ten adapters, recompressed to rank 32, from directory to directory, against PEFT's
         add_weighted_adapter(combination_type="svd") on adapters that are loaded; a model of two layers a side
command  `chorus merge --as adapter` by boosted_tsv_m of 2, 10 and 20 adapters on the whole model: time and memory
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import time
from pathlib import Path

import common
import torch
from safetensors.torch import load_file, save_file

RANK = 32
LINEAR = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def linear_shapes(config: dict[str, object]) -> dict[str, tuple[int, ...]]:
    shapes = common.shapes_of(config)
    return {n: s for n, s in shapes.items() if n.endswith(".weight") and n.split(".")[-2] in LINEAR}


def factors_of(shape: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of a delta of standard deviation about 3e-4."""
    numbers = torch.Generator().manual_seed(seed)
    scale = (3e-4 / RANK**0.5) ** 0.5
    left = torch.randn(shape[0], RANK, generator=numbers) * scale
    return left, torch.randn(RANK, shape[1], generator=numbers) * scale


def cpu(function, repeats: int = 3) -> float:
    found = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        found.append(time.process_time() - started)
    return common.median(found)


def in_factors(shape_name: str, rows: list[dict[str, object]]) -> None:
    from chorus.linalg.lapack import one_blas_thread
    from chorus.linalg.low_rank import LowRank
    from chorus.merge.method import METHODS, compute_now

    counts = collections.Counter(linear_shapes(common.CONFIGS[shape_name]).values())
    for name in ("tsv_m", "boosted_tsv_m"):
        method = METHODS.get(name)
        given = {p.keyword: (p.default,) * 10 if p.per_model else p.default for p in method.parameters.values()}
        thin = dense = worst = 0.0
        with one_blas_thread(), torch.inference_mode():
            for shape, count in counts.items():
                deltas = [LowRank(*factors_of(shape, i), shape) for i in range(10)]
                engine = {"treatment": "matrix", "shape": shape, "memo": compute_now}
                whole = [d.dense() for d in deltas]

                def run(x, method=method, given=given, engine=engine):
                    return method.function(x, **given, **engine)

                found, wanted = run(deltas), run(whole)
                worst = max(worst, float((found.dense() - wanted).norm() / wanted.norm()))
                thin += count * cpu(lambda run=run, deltas=deltas: run(deltas), 5)
                dense += count * cpu(lambda run=run, whole=whole: run(whole), 1)
        row = {"part": f"factors {name}", "shape": shape_name, "chorus cpu_s": thin, "rival cpu_s": dense}
        rows.append({**row, "ratio": dense / thin, "error": worst})
        print(rows[-1], flush=True)


def write_adapters(place: Path, config: dict[str, object], count: int, dtype: torch.dtype) -> tuple[Path, list[Path]]:
    """A base directory and PEFT adapters on it."""
    shapes = common.shapes_of(config)
    base = place / "base"
    base.mkdir(parents=True, exist_ok=True)
    numbers = torch.Generator().manual_seed(0)
    if not (base / "config.json").exists():
        tensors = {n: (torch.randn(s, generator=numbers) * 0.02).bfloat16() for n, s in shapes.items()}
        save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
        (base / "config.json").write_text(json.dumps(config))
    paths = []
    for i in range(count):
        path = place / f"adapter-{i}"
        paths.append(path)
        if (path / "adapter_config.json").exists():
            continue
        path.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, shape in linear_shapes(config).items():
            left, right = factors_of(shape, hash((name, i)) % 2**31)
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors |= {f"{module}.lora_B.weight": left.to(dtype), f"{module}.lora_A.weight": right.to(dtype)}
        save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
        facts = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": list(LINEAR)}
        facts |= {"base_model_name_or_path": "base", "inference_mode": True, "bias": "none", "task_type": None}
        (path / "adapter_config.json").write_text(json.dumps(facts))
    return base, paths


def recipe_of(method: str, base: Path, adapters: list[Path], **each: object) -> dict[str, object]:
    models = [{"model": str(base), "lora": str(p), "parameters": each} for p in adapters]
    return {"merge_method": method, "base_model": str(base), "models": models}


def against_peft(shape_name: str, place: Path, rows: list[dict[str, object]]) -> None:
    import transformers
    from peft import PeftModel

    import chorus

    config = {**common.CONFIGS[shape_name], "encoder_layers": 2, "decoder_layers": 2}
    base, adapters = write_adapters(place / f"peft-{shape_name}", config, 10, torch.float32)
    recipe = recipe_of("task_arithmetic", base, adapters, weight=0.1)
    out = place / "merged"

    def ours() -> None:
        common.clean(out)
        chorus.merge_into_adapter(recipe, out, chorus.Options(jobs=1), ranks=chorus.RankRule(max_rank=RANK))

    ours()
    mine = cpu(ours)
    torch.set_num_threads(1)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(model, adapters[0], adapter_name="a0")
    for i, path in enumerate(adapters[1:], 1):
        tuned.load_adapter(path, adapter_name=f"a{i}")
    names = [f"a{i}" for i in range(10)]
    started = time.process_time()
    tuned.add_weighted_adapter(names, [0.1] * 10, "merged", combination_type="svd", svd_rank=RANK)
    theirs = time.process_time() - started
    found = load_file(out / "adapter_model.safetensors")
    state = {n: p for n, p in tuned.named_parameters() if ".merged." in n}
    inputs = [load_file(p / "adapter_model.safetensors") for p in adapters]
    worst = best = 0.0
    for name in linear_shapes(config):
        module = f"base_model.model.{name.removesuffix('.weight')}"
        b, a = found[f"{module}.lora_B.weight"].double(), found[f"{module}.lora_A.weight"].double()
        peft = state[f"{module}.lora_B.merged.weight"].double() @ state[f"{module}.lora_A.merged.weight"].double()
        exact = sum(0.1 * t[f"{module}.lora_B.weight"].double() @ t[f"{module}.lora_A.weight"].double() for t in inputs)
        u, s, vh = torch.linalg.svd(exact, full_matrices=False)
        truth = (u[:, :RANK] * s[:RANK]) @ vh[:RANK]
        worst = max(worst, float((b @ a - truth).norm() / truth.norm()))
        best = max(best, float((peft - truth).norm() / truth.norm()))
    row = {"part": "peft weighted sum", "shape": shape_name, "chorus cpu_s": mine, "rival cpu_s": theirs}
    rows.append({**row, "ratio": theirs / mine, "error": worst, "rival error": best})
    print(rows[-1], flush=True)
    common.clean(out)


def as_command(shape_name: str, place: Path, rows: list[dict[str, object]]) -> None:
    base, adapters = write_adapters(place / f"command-{shape_name}", common.CONFIGS[shape_name], 20, torch.bfloat16)
    for count in (2, 10, 20):
        file = common.write_recipe(place / "recipe.yml", recipe_of("boosted_tsv_m", base, adapters[:count]))
        out = place / "merged"
        for cut in ([], ["--max-rank", str(RANK)]):
            common.clean(out)
            command = [common.CHORUS, "merge", file, "-o", out, "-q", "--as", "adapter", "--no-cache", *cut]
            found = common.measure(command)
            row = {"part": f"boosted_tsv_m of {count}{' to rank 32' if cut else ''}", "shape": shape_name}
            row |= {"chorus cpu_s": found.cpu_s, "wall_s": found.wall_s, "MB": round(found.anonymous_bytes / 1e6)}
            rows.append(row)
            print(rows[-1], flush=True)
    common.clean(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="whisper-small,whisper-large-v3")
    parser.add_argument("--parts", default="factors,peft,command")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    with common.workplace() as place:
        for shape in args.shapes.split(","):
            if "factors" in args.parts:
                in_factors(shape, rows)
            if "peft" in args.parts:
                against_peft(shape, place, rows)
            if "command" in args.parts:
                as_command(shape, place, rows)
    common.report("adapters", rows)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
