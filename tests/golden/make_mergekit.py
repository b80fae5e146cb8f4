"""Golden numbers from mergekit's own code, in float64. Run it in an environment with mergekit 0.1.5:

python tests/golden/make_mergekit.py
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from mergekit.merge_methods.api import merge_tensors

SOURCE = f"mergekit {version('mergekit')}, merge_tensors in float64 (torch {torch.__version__.split('+')[0]})"
DATA = Path(__file__).parent / "data"
SHAPE = (20, 25)


def numbers(seed: int, count: int, spread: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """A base and fine-tunes in float32, whose deltas have a part in common, so that their cosines are positive."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 0.02, SHAPE)
    common = rng.normal(0, spread, SHAPE)
    tensors = [base + common + rng.normal(0, spread, SHAPE) for _ in range(count)]
    return base.astype(np.float32), [t.astype(np.float32) for t in tensors]


# name, method, models, base?, spread of the deltas, parameters, sensitive
CASES: list[tuple[str, str, int, bool, float, dict, list[str]]] = [
    ("linear", "linear", 3, False, 0.02, {"weight": [0.2, 0.5, 0.9]}, ["weight"]),
    ("linear_sum", "linear", 3, False, 0.02, {"weight": [0.2, -0.5, 0.9], "normalize": False}, ["weight"]),
    ("slerp", "slerp", 2, False, 0.05, {"t": 0.3}, ["t"]),
    ("nuslerp", "nuslerp", 2, False, 0.05, {"weight": [0.3, 0.8]}, ["weight"]),
    ("nuslerp_deltas", "nuslerp", 2, True, 0.02, {"weight": [0.3, 0.8]}, ["weight"]),
    (
        "nuslerp_rows",
        "nuslerp",
        2,
        True,
        0.02,
        {"weight": [0.3, 0.8], "nuslerp_flatten": False, "nuslerp_row_wise": True},
        ["weight"],
    ),
    ("nuslerp_columns", "nuslerp", 2, True, 0.02, {"weight": [0.3, 0.8], "nuslerp_flatten": False}, ["weight"]),
    ("multislerp", "multislerp", 3, False, 0.05, {"weight": [0.2, 0.5, 0.9]}, ["weight"]),
    ("multislerp_deltas", "multislerp", 3, True, 0.02, {"weight": [0.2, 0.5, 0.9]}, ["weight"]),
    ("karcher", "karcher", 3, False, 0.05, {"max_iter": 50, "tol": 1e-12}, []),
    ("model_stock", "model_stock", 3, True, 0.02, {}, []),
    ("model_stock_rows", "model_stock", 3, True, 0.02, {"filter_wise": True}, []),
    (
        "task_arithmetic",
        "task_arithmetic",
        3,
        True,
        0.02,
        {"weight": [0.4, -0.3, 0.9], "lambda": 0.7},
        ["weight", "lambda"],
    ),
    (
        "task_arithmetic_normalised",
        "task_arithmetic",
        3,
        True,
        0.02,
        {"weight": [0.4, 0.3, 0.9], "normalize": True},
        ["weight"],
    ),
    (
        "ties",
        "ties",
        3,
        True,
        0.02,
        {"weight": [0.4, 0.6, 0.9], "density": [0.6, 0.4, 0.8], "lambda": 0.7},
        ["weight", "density", "lambda"],
    ),
    (
        "ties_sum",
        "ties",
        3,
        True,
        0.02,
        {"weight": [0.4, 0.6, 0.9], "density": [0.6, 0.4, 0.8], "normalize": False, "rescale": True},
        ["weight", "density"],
    ),
    (
        "breadcrumbs",
        "breadcrumbs",
        2,
        True,
        0.02,
        {"weight": [0.4, 0.9], "density": [0.6, 0.5], "gamma": [0.2, 0.2]},
        ["weight", "density", "gamma"],
    ),
    (
        "breadcrumbs_defaults",
        "breadcrumbs",
        2,
        True,
        0.02,
        {"weight": [0.4, 0.9], "density": [1.0, 0.995]},
        ["weight"],
    ),
    (
        "breadcrumbs_ties",
        "breadcrumbs_ties",
        3,
        True,
        0.02,
        {"weight": [0.4, 0.9, 0.5], "density": [0.6, 0.5, 0.4], "gamma": [0.2, 0.2, 0.2], "normalize": True},
        ["weight", "density", "gamma"],
    ),
    ("passthrough", "passthrough", 1, False, 0.02, {"scale": [0.3]}, ["scale"]),
    ("sce", "sce", 3, True, 0.02, {"select_topk": 0.6}, ["select_topk"]),
    ("sce_all", "sce", 3, True, 0.02, {}, []),
]


def main() -> None:
    for seed, (name, method, count, with_base, spread, parameters, sensitive) in enumerate(CASES):
        base, tensors = numbers(seed, count, spread)
        everything = [torch.from_numpy(t).double() for t in ([base] if with_base else []) + tensors]
        base_index = 0 if with_base or method == "slerp" else None
        expected = merge_tensors(everything, method, parameters=parameters, base_index=base_index, dtype=torch.float64)
        fixture = {
            "method": method,
            "source": SOURCE,
            "tensors": [t.tolist() for t in tensors],
            "base": base.tolist() if with_base else None,
            "parameters": parameters,
            "expected": expected.tolist(),
            "sensitive": sensitive,
        }
        (DATA / f"{name}.json").write_text(json.dumps(fixture, separators=(",", ":")) + "\n")
        print(name, tuple(expected.shape))


if __name__ == "__main__":
    main()
