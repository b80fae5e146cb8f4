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
    subspaces()


def truncated(d: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    u, s, vh = np.linalg.svd(d, full_matrices=False)
    return u[:, :k], s[:k], vh[:k].T


def polar(x: np.ndarray) -> np.ndarray:
    """The orthogonal polar factor by SVD (no null directions in these fixtures)."""
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    return u @ vh


def boost(s: np.ndarray, spectrum: np.ndarray, beta: float, power: int) -> np.ndarray:
    """Step 2 of BoostedTSV-M (Carvalho et al. 2026)."""
    share = np.cumsum(spectrum**power) / np.sum(spectrum**power)
    return np.maximum(s, spectrum[int(np.argmax(share >= beta))])


def tsv(
    deltas: list[np.ndarray], w: list[float], k: int, beta: float = 1.0, power: int = 1, kept: bool = False
) -> np.ndarray:
    """TSV-M (Gargiulo et al. 2025, algorithm 1), with boosting."""
    parts = [truncated(d, k) for d in deltas]
    spectra = [np.linalg.svd(d, compute_uv=False) for d in deltas]
    values = [
        a * (boost(s, s if kept else full, beta, power) if beta < 1 else s)
        for a, (_, s, _), full in zip(w, parts, spectra, strict=True)
    ]
    u, v = (polar(np.concatenate([p[i] for p in parts], axis=1)) for i in (0, 2))
    return u * np.concatenate(values) @ v.T


def newton_schulz(x: np.ndarray) -> np.ndarray:
    """Five quintic steps from the Frobenius norm."""
    x = x / np.linalg.norm(x)
    for a, b, c in (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x


def iso_cts(deltas: list[np.ndarray], fraction: float) -> np.ndarray:
    """Iso-CTS (Marczak et al. 2025, algorithm 2)."""
    u, s, v = truncated(sum(deltas), min(SHAPE))
    common = int(min(SHAPE) * fraction)
    own = int((min(SHAPE) - common) / len(deltas) + 0.5)
    common = min(SHAPE) - own * len(deltas)
    u, s, v = u[:, :common], s[:common], v[:, :common]
    parts = [truncated(d - u @ (u.T @ d), own) for d in deltas]
    left = polar(np.concatenate([u, *(p[0] for p in parts)], axis=1))
    right = polar(np.concatenate([v, *(p[2] for p in parts)], axis=1))
    return np.concatenate([s, *(p[1] for p in parts)]).mean() * left @ right.T


def opcm(deltas: list[np.ndarray], alpha: float) -> np.ndarray:
    """OPCM (Tang et al. 2025), with full bases; not divided by the ratio of norms."""
    total = deltas[0]
    for d in deltas[1:]:
        u, s, vh = np.linalg.svd(total)
        share = np.cumsum(s) / s.sum()
        q = int(np.argmax(share > alpha))
        own = u.T @ d @ vh.T
        np.fill_diagonal(own, 0)
        own[:q, :q] = 0
        total = total + u @ own @ vh
    return total


def ties(deltas: list[np.ndarray], w: list[float], p: float) -> np.ndarray:
    """TIES with a normalised, disjoint mean."""
    trimmed = []
    for d in deltas:
        limit = np.sort(np.abs(d).ravel())[-max(1, int(p * d.size))]
        trimmed.append(np.where(np.abs(d) >= limit, d, 0))
    weighted = [a * d for a, d in zip(w, trimmed, strict=True)]
    sign = np.where(sum(weighted) >= 0, 1, -1)
    agree = [np.sign(d) == sign for d in weighted]
    total = sum(np.where(m, d, 0) for m, d in zip(agree, weighted, strict=True))
    weight = sum(a * m for a, m in zip(w, agree, strict=True))
    return total / np.where(weight > 0, weight, 1)


def pcb(deltas: list[np.ndarray], w: list[float], ratio: float) -> np.ndarray:
    """PCB-Merging (Du et al. 2024), as its authors' code counts."""
    n, size = len(deltas), deltas[0].size
    low, high = int(size * 1e-4), int(size * (1 - 1e-4) - 1)
    clipped, magnitude = [], []
    for d in deltas:
        ordered = np.sort(np.abs(d).ravel())
        m = np.clip(np.abs(d), ordered[low], ordered[high])
        clipped.append(np.sign(d) * m)
        magnitude.append((m - m.min()) / (m.max() - m.min()))
    scales = []
    for d, m in zip(clipped, magnitude, strict=True):
        b = np.exp(n * m**2) * np.tanh(d * sum(clipped))
        b = np.maximum(b, np.sort(b.ravel())[int(size * (1 - ratio))])
        scales.append((b - b.min()) / (b.max() - b.min()))
    total = sum(a * s * d for a, s, d in zip(w, scales, clipped, strict=True))
    return total / np.maximum(sum(scales), 1e-12)


def subspaces() -> None:
    """The subspace family and PCB, from their algorithms with full SVDs in float64."""
    base, tensors = numbers(200, 3, 0.02)
    shared = np.random.default_rng(8).normal(0, 0.03, SHAPE)
    tensors = [(t + shared).astype(np.float32) for t in tensors]
    b = base.astype(np.float64)
    deltas = [t.astype(np.float64) - b for t in tensors]
    w = [0.4, 0.6, 0.9]
    weighted = [a * d for a, d in zip(w, deltas, strict=True)]

    def fixture(name: str, method: str, delta: np.ndarray, sensitive: list[str], **given: object) -> None:
        scale = float(given.get("lambda", 1.0))
        # float32 rounding of the bases grows by their condition on the way through the polar factors
        facts = {"parameters": given, "sensitive": sensitive, "tolerance": 1e-5 if method != "pcb" else 1e-6}
        save(name, method, tensors, b + scale * delta, base=base, **facts)

    each = ["weight", "lambda"]
    fixture("tsv_m", "tsv_m", tsv(deltas, w, 20 // 3), each, **{"weight": w, "lambda": 0.7})
    fixture("tsv_m_rank", "tsv_m", tsv(deltas, w, 4), each, **{"weight": w, "lambda": 0.7, "rank": 4})
    parts = [truncated(d, 5) for d in deltas]
    u, v = (newton_schulz(np.concatenate([p[i] for p in parts], axis=1)) for i in (0, 2))
    merged = u * np.concatenate([a * p[1] for a, p in zip(w, parts, strict=True)]) @ v.T
    fixture("tsv_m_paper", "tsv_m", merged, ["weight"], weight=w, rank=5, preset="paper")
    merged = tsv(deltas, w, 20 // 3, 0.3)
    fixture("boosted_tsv_m", "boosted_tsv_m", merged, each, **{"weight": w, "beta": 0.3, "lambda": 0.7})
    merged = tsv(deltas, w, 6, 0.6, power=2, kept=True)
    given = {"weight": w, "beta": 0.6, "rank": 6, "energy": "squared", "boost_on": "kept"}
    fixture("boosted_tsv_m_kept", "boosted_tsv_m", merged, ["weight"], **given)
    u, s, v = truncated(sum(weighted), min(SHAPE))
    fixture("iso_c", "iso_c", s.mean() * u @ v.T, each, **{"weight": w, "lambda": 0.7})
    merged = iso_cts(weighted, 0.6)
    fixture("iso_cts", "iso_cts", merged, each, **{"weight": w, "common_fraction": 0.6, "lambda": 0.7})
    merged = u * boost(s, s, 0.2, 1) @ v.T
    fixture("subspace_boosting", "subspace_boosting", merged, each, **{"weight": w, "beta": 0.2, "lambda": 0.7})
    voted = ties(deltas, w, 0.5)
    u, s, v = truncated(voted, min(SHAPE))
    given = {"inner": "ties", "weight": w, "density": 0.5, "beta": 0.1}
    fixture("subspace_boosting_ties", "subspace_boosting", u * boost(s, s, 0.1, 1) @ v.T, ["weight"], **given)
    u, s, vh = np.linalg.svd(np.concatenate(deltas, axis=1), full_matrices=False)
    blocks = np.split(s[:, None] * vh, 3, axis=1)
    merged = u @ ties(blocks, w, 0.5)
    given = {"inner": "ties", "weight": w, "density": 0.5, "lambda": 0.7}
    fixture("knots", "knots", merged, ["weight", "density", "lambda"], **given)
    right = np.linalg.svd(np.concatenate(deltas, axis=0), full_matrices=False)[2].T
    merged = u @ ties([u.T @ d @ right for d in deltas], w, 0.5) @ right.T
    fixture("core_space", "core_space", merged, ["weight", "density", "lambda"], **given)
    merged = opcm(weighted, 0.5)
    fixture("opcm", "opcm", merged, each, **{"weight": w, "alpha": 0.5, "lambda": 0.7})
    fixture("opcm_more", "opcm", opcm(weighted, 0.8), each, **{"weight": w, "alpha": 0.8, "lambda": 0.7})
    fixture("pcb", "pcb", pcb(deltas, w, 0.2), each, **{"weight": w, "ratio": 0.2, "lambda": 0.7})


if __name__ == "__main__":
    main()
