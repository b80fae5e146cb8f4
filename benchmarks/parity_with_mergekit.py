"""Claim: on the methods and recipe forms that both have, tensors equal mergekit 0.1.5's to 1e-6 of their largest value.

    python benchmarks/parity_with_mergekit.py [--kinds whisper]

Small models with the names and shapes' structure of Qwen2 and of Whisper (mergekit's Whisper table mended), merged by
both with `dtype: float32`. Where a tensor differs by more, both are compared with mergekit's own result in float64,
and ours must not be farther from it. Random methods are compared by the norm of what they leave.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import common
import torch
from safetensors.torch import load_file, save_file

TOLERANCE = 1e-6
# docs/differences.md: sinusoidal positions are copied here (mergekit merges them; its multislerp fails where their
# deltas are zero, as they are between real fine-tunes), and filter_wise takes a convolution's filter as one vector
POSITIONS, FILTERS = "encoder.embed_positions.weight", ".conv"
QWEN = {
    **common.QWEN_05B,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
QWEN |= {"num_key_value_heads": 2, "vocab_size": 500, "layer_types": ["full_attention"] * 4}
WHISPER = common.whisper_config(32, 3, 600, 20) | {"max_source_positions": 60, "max_target_positions": 40}
WHISPER |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "pad_token_id": 0, "bos_token_id": 1}
WHISPER |= {"eos_token_id": 1, "decoder_start_token_id": 2}


def make(directory: Path, config: dict, dtype: torch.dtype, count: int = 4) -> list[Path]:
    """A base and fine-tunes whose deltas have a part in common (so that model_stock's cosines are positive)."""
    shapes = common.shapes_of(config)
    numbers = torch.Generator().manual_seed(0)
    base = {n: torch.randn(s, generator=numbers) * 0.02 for n, s in shapes.items()}
    common_delta = {n: torch.randn(s, generator=numbers) * 3e-3 for n, s in shapes.items()}
    paths = []
    for i in range(count + 1):
        path = directory / f"m{i}"
        path.mkdir(parents=True)
        own = {}
        for n, b in base.items():
            own[n] = b + (common_delta[n] + torch.randn(b.shape, generator=numbers) * 3e-3) * (i > 0)
        save_file({n: t.to(dtype) for n, t in own.items()}, path / "model.safetensors", metadata={"format": "pt"})
        (path / "config.json").write_text(json.dumps({**config, "torch_dtype": str(dtype).removeprefix("torch.")}))
        paths.append(path)
    return paths


def entries(paths: list[Path], *parameters: dict) -> list[dict]:
    return [{"model": str(p), "parameters": q} for p, q in zip(paths, parameters, strict=False)]


def recipe(method: str, models: list[dict], base: str | None = None, **parameters: object) -> dict:
    made: dict[str, object] = {"merge_method": method, "models": models}
    return made | ({"base_model": base} if base else {}) | ({"parameters": parameters} if parameters else {})


def recipes(p: list[Path], whisper: bool) -> dict[str, dict]:
    """Every method, option and form that both tools have."""
    base, tuned = str(p[0]), p[1:]
    w = [{"weight": x} for x in (0.2, 0.5, 0.9)]
    signed = [{"weight": x} for x in (0.4, -0.3, 0.9)]
    wd = [{"weight": x, "density": d} for x, d in ((0.2, 0.3), (0.5, 0.6), (0.9, 0.45))]
    crumbs = [{**x, "gamma": 0.03} for x in wd]
    gradient = [{"weight": [0.1, 0.9]}, {"weight": [{"filter": "q_proj", "value": [0.2, 0.4, 0.3]}, {"value": 0.7}]}]
    scale = [{"scale": [{"filter": "fc", "value": 2}, {"value": 1}]}]
    plain, weighted = entries(tuned, {}, {}, {}), entries(tuned, *w)
    pair, two = entries(tuned, *w[:2]), entries(tuned[:2], {}, {})
    sparse, crumbled = entries(tuned, *wd), entries(tuned, *crumbs)
    first, second = two[0]["model"], two[1]["model"]
    every = {
        "linear": recipe("linear", weighted),
        "linear, not normalised": recipe("linear", weighted, normalize=False),
        "linear, gradients and filters": recipe("linear", entries(tuned, *gradient)),
        "linear with base": recipe("linear", weighted, base, weight=0.5),
        "slerp": recipe("slerp", two, first, t=0.3),
        "slerp, base second": recipe("slerp", two, second, t=0.3),
        "slerp, unlisted base": recipe("slerp", two[:1], base, t=[0, 1]),
        "nuslerp": recipe("nuslerp", pair),
        "nuslerp of deltas": recipe("nuslerp", pair, base),
        "nuslerp, last dimension": recipe("nuslerp", pair, base, nuslerp_flatten=False),
        "nuslerp, first dimension": recipe("nuslerp", pair, base, nuslerp_flatten=False, nuslerp_row_wise=True),
        "multislerp": recipe("multislerp", weighted),
        "multislerp of deltas": recipe("multislerp", weighted, base),
        "multislerp, not normalised": recipe("multislerp", weighted, normalize_weights=False),
        "karcher": recipe("karcher", plain),
        "karcher, with base": recipe("karcher", plain, base),
        "model_stock": recipe("model_stock", plain, base),
        "model_stock by rows": recipe("model_stock", plain, base, filter_wise=True),
        "task_arithmetic": recipe("task_arithmetic", entries(tuned, *signed), base, **{"lambda": 0.7}),
        "task_arithmetic, normalised": recipe("task_arithmetic", weighted, base, normalize=True),
        "ties": recipe("ties", sparse, base),
        "ties, sum, rescale, lambda": recipe("ties", sparse, base, normalize=False, rescale=True, **{"lambda": 0.6}),
        "ties, density 0": recipe("ties", entries(tuned, {"weight": 1, "density": 0}, *w[1:]), base),
        "breadcrumbs": recipe("breadcrumbs", crumbled, base),
        "breadcrumbs, defaults": recipe("breadcrumbs", weighted, base),
        "breadcrumbs, rescale": recipe("breadcrumbs", crumbled, base, rescale=True, normalize=True),
        "breadcrumbs_ties": recipe("breadcrumbs_ties", crumbled, base),
        "dare_linear": recipe("dare_linear", sparse, base),
        "dare_linear, no rescale": recipe("dare_linear", sparse, base, rescale=False),
        "dare_ties": recipe("dare_ties", sparse, base),
        "dare_ties, density 1": recipe("dare_ties", weighted, base),
        "passthrough": recipe("passthrough", entries(tuned[:1], *scale)),
    }
    if whisper:
        models = [{"models": entries(tuned, *w)}, {"models": entries(tuned, *w[::-1])}]
        every["modules"] = {"merge_method": "linear", "modules": dict(zip(("encoder", "decoder"), models, strict=True))}
        return every
    sources = [{"model": first, "layer_range": [0, 3]}, {"model": second, "layer_range": [1, 4]}]
    every["slices, weights by source"] = {
        "merge_method": "linear",
        "slices": [
            {"sources": [{**s, "parameters": {"weight": [x, 1]}} for s, x in zip(sources, (0.2, 0.7), strict=True)]},
            {"sources": [{"model": second, "layer_range": [3, 4], "parameters": {"weight": 1}}]},
        ],
    }
    every["slices, slerp"] = {
        "merge_method": "slerp",
        "base_model": first,
        "slices": [{"sources": [{**s, "layer_range": [0, 4]} for s in sources]}],
        "parameters": {
            "t": [{"filter": "mlp", "value": [0, 1]}, {"filter": "self_attn", "value": [1, 0.2, 0]}, {"value": 0.5}]
        },
    }
    return every


def largest_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    scale = max(float(expected.abs().max()), 1e-12)
    return float((found.double() - expected.double()).abs().max()) / scale


def at_threshold(recipe: dict, name: str, paths: list[Path]) -> torch.Tensor:
    """Entries whose magnitude equals the k-th largest of its model's delta: who is kept is a matter of order."""
    base = load_file(paths[0] / "model.safetensors")[name].float()
    mask = torch.zeros(base.shape, dtype=torch.bool)
    for entry in recipe["models"]:
        density = entry["parameters"].get("density", 1)
        gamma = entry["parameters"].get("gamma", 0.01) if "breadcrumbs" in recipe["merge_method"] else 0
        delta = (load_file(Path(entry["model"]) / "model.safetensors")[name].float() - base).abs()
        ordered = delta.reshape(-1).sort(descending=True).values
        n = ordered.numel()
        top = min(int(gamma * n), n - int(density * n))
        for k in {top, top + (max(1, int(density * n)) if not gamma else int(density * n))}:
            if 0 < k < n and ordered[k - 1] == ordered[k]:  # the cut goes through equal values
                mask |= delta == ordered[k - 1]
    return mask


def compare(kind: str, dtype: torch.dtype, place: Path) -> list[dict[str, object]]:
    paths = make(place, WHISPER if kind == "whisper" else QWEN, dtype)
    made = recipes(paths, kind == "whisper")
    jobs = []
    for i, recipe in enumerate(made.values()):
        for precision in ("float32", "float64"):
            file = common.write_recipe(place / f"{i}-{precision}.yml", {**recipe, "dtype": precision})
            jobs.append((str(file), str(place / f"theirs-{i}-{precision}")))
    (place / "jobs.json").write_text(json.dumps(jobs))
    python = common.mergekit().with_name("python")
    runner = Path(__file__).with_name("_run_mergekit.py")
    subprocess.run([python, runner, place / "jobs.json"], check=True, stdout=subprocess.DEVNULL, env=common.ENVIRONMENT)
    rows = []
    for i, (name, recipe) in enumerate(made.items()):
        common.measure([common.CHORUS, "merge", place / f"{i}-float32.yml", "-o", place / f"ours-{i}", "-q"])
        rows.append(judge(f"{kind} {str(dtype).removeprefix('torch.')}", name, recipe, i, place, paths))
    return rows


def judge(kind: str, name: str, recipe: dict, i: int, place: Path, paths: list[Path]) -> dict[str, object]:
    ours = load_file(place / f"ours-{i}" / "model.safetensors")
    theirs, exact = (load_file(place / f"theirs-{i}-{p}" / "model.safetensors") for p in ("float32", "float64"))
    missing = sorted(set(theirs) - set(ours) - {"proj_out.weight", "lm_head.weight"})
    row = {"models": kind, "recipe": name, "tensors": len(ours), "worst": 0.0, "beyond": 0, "farther": 0, "left out": 0}
    row["missing"] = len(missing)
    if recipe["merge_method"].startswith("dare") and "density 1" not in name:
        base = load_file(paths[0] / "model.safetensors")
        norms = [sum(float((t[n].float() - base[n].float()).abs().sum()) for n in ours) for t in (ours, theirs)]
        row["worst"] = abs(norms[0] / norms[1] - 1)
        row["verdict"] = "same norm" if row["worst"] < 0.02 else "DIFFERS"
        return row
    for tensor, value in ours.items():
        if POSITIONS in tensor or (name == "model_stock by rows" and FILTERS in tensor and value.dim() == 3):
            row["left out"] += value.numel()
            continue
        reference, double = theirs[tensor].float(), exact[tensor].double()
        if recipe["merge_method"] in ("ties", "breadcrumbs", "breadcrumbs_ties"):
            ambiguous = at_threshold(recipe, tensor, paths)
            row["left out"] += int(ambiguous.sum())
            value, reference, double = (
                torch.where(ambiguous, torch.zeros_like(x), x) for x in (value, reference, double)
            )
        error = largest_error(value, reference)
        row["worst"] = max(row["worst"], error)
        if error > TOLERANCE:
            row["beyond"] += 1
            row["farther"] += largest_error(value, double) > max(largest_error(reference, double), TOLERANCE)
    row["verdict"] = "DIFFERS" if row["farther"] or missing else "equal" if not row["beyond"] else "nearer to float64"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", default="qwen2,whisper", help="which models")
    chosen = parser.parse_args().kinds.split(",")
    rows: list[dict[str, object]] = []
    with common.workplace() as place:
        for kind, dtype in (("qwen2", torch.float32), ("whisper", torch.float32), ("qwen2", torch.bfloat16)):
            if kind not in chosen:
                continue
            target = place / f"parity-{kind}-{dtype}"
            common.clean(target)
            rows += compare(kind, dtype, target)
            common.clean(target)
    common.report("parity_with_mergekit", rows)
    wrong = [r for r in rows if r["verdict"] == "DIFFERS"]
    print(f"{len(rows)} recipes, {sum(r['tensors'] for r in rows)} tensors, {len(wrong)} recipes differ")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
