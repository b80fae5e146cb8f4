"""What the subspace methods share: vectors beside matrices, kept ranks, boosting, the merge of singular bases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from chorus.lazy import lazy
from chorus.linalg.combine import linear_combination
from chorus.linalg.low_rank import LowRank, low_rank_sum
from chorus.linalg.polar import SCHEDULES, newton_schulz, polar_factor
from chorus.linalg.spectra import NULL, Triplets, complete, singular_triplets, smaller_side
from chorus.merge.method import Between, Memo

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

Treat = Annotated[
    Literal["auto", "matrix", "vector"],
    "what is decomposed; auto: every matrix but embeddings, positions, heads and convolutions",
]
Vectors = Annotated[Literal["mean", "sum", "base"], "what the other tensors get: mean or sum of the deltas, or none"]
KeptRank = Annotated[int | None, Between(1, 1e9), "directions kept of each task; more than there are: all"]
RankFraction = Annotated[float | None, Between(0, 1, above=True), "or their share; default 1 / models"]
Orth = Annotated[Literal["exact", "ns"], "exact partial isometry, or Newton-Schulz iterations"]
NsSchedule = Annotated[Literal["quintic", "muon"], "coefficients of the iterations"]
NsScale = Annotated[Literal["sqrt_n", "frobenius"], "what divides the bases before the iterations"]
NsPolish = Annotated[int, Between(0, 100), "exact iterations after the tuned ones"]
Preset = Annotated[Literal["none", "paper"], "paper: ns, frobenius, no polish (arXiv 2603.05354)"]
Delta = Any  # torch.Tensor [m, n] or LowRank


def vector_merge(deltas: Sequence[Tensor], weight: Sequence[float], vectors: str, lambda_: float) -> Tensor:
    """The merge of what is not decomposed: lambda times the mean or the sum of the w_i D_i, or nothing."""
    factor = {"mean": 1 / len(deltas), "sum": 1.0, "base": 0.0}[vectors] * lambda_
    return linear_combination(deltas, [w * factor for w in weight])


def weighted_total(deltas: Sequence[Delta], weight: Sequence[float]) -> Delta:
    """sum_i w_i D_i; in factors where all deltas are, else one after the other."""
    factors, total = [], None
    for d, w in zip(deltas, weight, strict=True):
        if isinstance(d, LowRank):
            factors.append(d.scaled(w))
        elif total is None:
            total = d * w
        else:
            total.add_(d, alpha=w)
    if total is None:
        return low_rank_sum(factors, [1.0] * len(factors))
    for f in factors:
        total.addmm_(f.left, f.right)
    return total


def scaled(d: Delta, c: float) -> Delta:
    return d.scaled(c) if isinstance(d, LowRank) else d * c


@dataclass(frozen=True)
class Orthogonaliser:
    """How bases of several tasks are made one: exactly, or by the published iteration."""

    orth: str
    ns_schedule: str
    ns_scale: str
    ns_polish: int

    def __call__(self, bases: Tensor, blocks: int) -> Tensor:
        if bases.shape[1] == 0 or self.orth == "exact":
            return polar_factor(bases) if bases.shape[1] else bases
        return newton_schulz(
            bases,
            blocks=blocks,
            schedule=self.ns_schedule,  # type: ignore[arg-type]
            scale=self.ns_scale,  # type: ignore[arg-type]
            polish=self.ns_polish,
        )


def orthogonaliser(preset: str, orth: str, ns_schedule: str, ns_scale: str, ns_polish: int) -> Orthogonaliser:
    """The setting that holds: `preset: paper` is five unpolished steps after division by the norm."""
    if preset == "paper":
        return Orthogonaliser("ns", ns_schedule, "frobenius", 0)
    return Orthogonaliser(orth, ns_schedule, ns_scale, ns_polish)


def check_subspace(parameters: Mapping[str, Any], models: int) -> None:
    """Refuse settings that contradict each other."""
    if parameters.get("rank") is not None and parameters.get("rank_fraction") is not None:
        raise ValueError("rank and rank_fraction both say how many directions are kept; give one of them")
    chosen = {k: parameters[k] for k in ("orth", "ns_scale", "ns_polish") if k in parameters}
    if parameters.get("preset") == "paper" and chosen != {"orth": "exact", "ns_scale": "sqrt_n", "ns_polish": 4}:
        raise ValueError("preset: paper fixes orth, ns_scale and ns_polish; leave them out")
    assert parameters.get("ns_schedule", "quintic") in SCHEDULES


def kept_rank(shape: Sequence[int], models: int, rank: int | None, rank_fraction: float | None) -> int:
    """Directions kept of each task: max(1, floor(fraction * min(m, n))), by default of 1 / models (the authors')."""
    size = min(shape)
    if rank is not None:
        return min(rank, size)
    if rank_fraction is None:
        return max(1, size // models)
    return max(1, int(rank_fraction * size + 1e-9))


def boosted(
    values: Tensor, spectrum: Tensor, *, beta: float, energy: str, boost_on: str, renorm: str = "none"
) -> Tensor:
    """Singular values [k] with the small ones raised: step 2 of BoostedTSV-M, and Subspace Boosting's step.

    With e_j = s_j ("sum") or s_j^2 ("squared") and c_j the cumulative share of e, the values below the first with
    c_j >= beta are raised to it; null values take no part. "full" looks at the whole spectrum, "kept" at `values`.
    """
    if beta == 1 or not values.numel():
        return values
    s = (spectrum if boost_on == "full" else values).double()
    s = s[s > NULL * s[0]]
    share = (s if energy == "sum" else s.square()).cumsum(0)
    first = int((share < beta * share[-1]).sum())
    raised = values.clamp(min=float(s[min(first, len(s) - 1)]))
    return raised * (values.norm() / raised.norm()) if renorm == "frobenius" else raised


def merge_bases(
    deltas: Sequence[Delta],
    *,
    weight: Sequence[float],
    rank: int,
    orthogonalise: Orthogonaliser,
    shape: tuple[int, int],
    memo: Memo,
    raise_values: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Delta:
    """U_o diag(S) V_o^T with U_o, V_o the orthogonalised singular bases of all tasks, S their (raised) values.

    `raise_values(kept, spectrum)` is BoostedTSV-M's step. The bases do not depend on it, nor on the weights, and
    are remembered without them.
    """
    count = len(deltas)
    wanted = {"rank": rank, **vars(orthogonalise), "spectrum": raise_values is not None}

    def bases() -> dict[str, Tensor]:
        parts, low_rank = [], []
        for i in range(count):
            delta = deltas[i]
            low_rank.append(isinstance(delta, LowRank))
            parts.append(_triplets(delta, i, rank, memo, whole=raise_values is not None))
        found = {
            "low_rank": torch.tensor(low_rank),
            "left": orthogonalise(torch.cat([p.left for p in parts], dim=1), count),
            "right": orthogonalise(torch.cat([p.right for p in parts], dim=1), count),
        }
        for i, p in enumerate(parts):
            found[f"values.{i}"] = p.values
            if raise_values is not None:
                assert p.spectrum is not None
                found[f"spectrum.{i}"] = p.spectrum
        return found

    found = memo("bases", range(count), wanted, bases)
    values = []
    for i, w in enumerate(weight):
        s = found[f"values.{i}"]
        values.append((s if raise_values is None else raise_values(s, found[f"spectrum.{i}"])) * w)
    left, right = found["left"] * torch.cat(values), found["right"].T
    factors = LowRank(left, right, (left.shape[0], right.shape[1]))
    return factors if bool(found["low_rank"].all()) else factors.dense()


def _triplets(delta: Delta, i: int, rank: int, memo: Memo, *, whole: bool) -> Triplets:
    """A task's triplets. Of a dense one the smaller side's vectors are remembered, of factors nothing: they are quick.

    Vectors are computed for the next of fixed ranks (an eighth, a quarter, a half of all, all), so that other ranks
    up to it find them, and get the same bytes as without the cache.
    """
    if isinstance(delta, LowRank):
        return singular_triplets(delta, rank, whole=whole)
    size = min(delta.shape)
    wanted = next((s for s in (size // 8, size // 4, size // 2) if rank <= s), size)

    def decompose() -> dict[str, Tensor]:
        vectors, values, spectrum = smaller_side(delta, wanted, whole=whole)
        return {"vectors": vectors, "values": values, **({} if spectrum is None else {"spectrum": spectrum})}

    found = memo("triplets", [i], {"rank": wanted, "whole": whole}, decompose)
    return complete(delta, found["vectors"], found["values"], found.get("spectrum")).first(rank)
