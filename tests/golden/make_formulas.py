"""Golden numbers from the published formulas, written out in numpy float64 and plain integers.

For what mergekit does not have, or draws from a generator of its own: python tests/golden/make_formulas.py
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

SOURCE = f"the formula in float64, numpy {np.__version__}"
DATA = Path(__file__).parent / "data"
SHAPE = (20, 25)


def numbers(seed: int, count: int, spread: float) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 0.02, SHAPE).astype(np.float32)
    return base, [(base + rng.normal(0, spread, SHAPE)).astype(np.float32) for _ in range(count)]


def mixed(h: int) -> int:
    """The 32-bit finaliser of MurmurHash3 (Appleby 2011)."""
    h ^= h >> 16
    h = h * 0x85EBCA6B % 2**32
    h ^= h >> 13
    h = h * 0xC2B2AE35 % 2**32
    return h ^ (h >> 16)


def mask(seed: int, method: str, model: int, tensor: str, density: float, size: int) -> np.ndarray:
    """Bernoulli(density) from a counter: kept where the mixed index lies below density * 2^32."""
    text = f"{seed}|{method}|{model}|{tensor}".encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    low, high = key % 2**32, key // 2**32
    draws = [mixed(mixed((i * 0x9E3779B9 + low) % 2**32) ^ high) for i in range(size)]
    return np.array([d < round(density * 2**32) for d in draws])


def dare(method: str, seed: int, deltas: list[np.ndarray], p: list[float], rescale: str) -> list[np.ndarray]:
    """DARE (Yu et al. 2023): drop, then rescale to the old L1 norm or by 1/p."""
    kept = []
    for i, d in enumerate(deltas):
        m = mask(seed, method, i, "weight", p[i], d.size).reshape(d.shape) * d
        kept.append(m * (np.abs(d).sum() / np.abs(m).sum() if rescale == "l1" else 1 / p[i]))
    return kept


def ties_sum(deltas: list[np.ndarray], w: list[float]) -> np.ndarray:
    """Elected, disjoint sum (Yadav et al. 2023, section 3) without the division."""
    weighted = [a * d for a, d in zip(w, deltas, strict=True)]
    sign = np.where(sum(weighted) >= 0, 1, -1)
    return sum(np.where(np.sign(d) == sign, d, 0) for d in weighted)


def save(name: str, method: str, tensors: list[np.ndarray], expected: np.ndarray, **facts: object) -> None:
    base = facts.pop("base", None)
    fixture = {
        "method": method,
        "source": SOURCE,
        "tensors": [t.tolist() for t in tensors],
        "base": None if base is None else base.tolist(),
        **facts,
        "expected": expected.tolist(),
    }
    (DATA / f"{name}.json").write_text(json.dumps(fixture, separators=(",", ":")) + "\n")


def main() -> None:
    weights, p = [0.4, 0.6, 0.9], [0.6, 0.4, 0.8]
    base, tensors = numbers(100, 3, 0.02)
    b, x = base.astype(np.float64), [t.astype(np.float64) for t in tensors]
    deltas = [t - b for t in x]

    kept = dare("dare_linear", 3, deltas, p, "l1")
    merged = b + 0.7 * sum(w * d for w, d in zip(weights, kept, strict=True))
    given = {"weight": weights, "density": p, "lambda": 0.7}
    save("dare_linear", "dare_linear", tensors, merged, base=base, parameters=given, seed=3, sensitive=list(given))

    kept = dare("dare_linear", 4, deltas, p, "expectation")
    merged = b + sum(w * d for w, d in zip(weights, kept, strict=True))
    given = {"weight": weights, "density": p, "rescale": "expectation"}
    sensitive = ["weight", "density"]
    save("dare_expectation", "dare_linear", tensors, merged, base=base, parameters=given, seed=4, sensitive=sensitive)

    merged = b + ties_sum(dare("dare_ties", 5, deltas, p, "l1"), weights)
    given = {"weight": weights, "density": p}
    save("dare_ties", "dare_ties", tensors, merged, base=base, parameters=given, seed=5, sensitive=list(given))

    unit = [t / np.linalg.norm(t) for t in x]
    share = np.array(weights) / sum(weights)
    direction = sum(s * u for s, u in zip(share, unit, strict=True))
    merged = direction / np.linalg.norm(direction) * sum(s * np.linalg.norm(t) for s, t in zip(share, x, strict=True))
    save("slerp_of_three", "slerp", tensors, merged, parameters={"weight": weights}, sensitive=["weight"])

    angle = np.arccos((x[0] * x[1]).sum() / np.linalg.norm(x[0]) / np.linalg.norm(x[1]))
    t = 0.8 / (0.3 + 0.8)
    merged = (np.sin((1 - t) * angle) * x[0] + np.sin(t * angle) * x[1]) / np.sin(angle)
    save("slerp_weights", "slerp", tensors[:2], merged, parameters={"weight": [0.3, 0.8]}, sensitive=["weight"])

    common = np.random.default_rng(7).normal(0, 0.03, SHAPE)
    near = [(t + common).astype(np.float32) for t in x]
    apart = [t.astype(np.float64) - b for t in near]
    cosines = [
        (apart[i] * apart[j]).sum() / np.linalg.norm(apart[i]) / np.linalg.norm(apart[j])
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    c = float(np.mean(cosines))
    ratio = 3 * c / (1 + 2 * c)
    merged = b + ratio * sum(s * d for s, d in zip(share, apart, strict=True))
    save(
        "model_stock_weights",
        "model_stock",
        near,
        merged,
        base=base,
        parameters={"weight": weights},
        sensitive=["weight"],
    )

    sides = {"encoder_weight": [0.7, 0.2, 0.1], "decoder_weight": [0.1, 0.5, 0.6]}
    mean = [(e + d) / 2 for e, d in zip(*sides.values(), strict=True)]
    for name, component, module, w, telling in (
        ("sides_encoder", "encoder", "encoder", sides["encoder_weight"], ["encoder_weight"]),
        ("sides_decoder", "embeddings", "decoder", sides["decoder_weight"], ["decoder_weight"]),
        ("sides_cross", "cross_attention", "decoder", mean, ["encoder_weight", "decoder_weight"]),
    ):
        merged = sum(a * t for a, t in zip(w, x, strict=True)) / sum(w)
        role = {"component": component, "kind": "attention", "module": module}
        save(name, "encoder_decoder_weighted", tensors, merged, parameters=sides, role=role, sensitive=telling)


if __name__ == "__main__":
    main()
