"""What the subspace methods share: their common parameters, vectors beside matrices, kept ranks, boosting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, cast

from chorus.linalg.combine import linear_combination
from chorus.linalg.low_rank import LowRank
from chorus.linalg.spectra import NULL
from chorus.merge.method import Between, Resolved

if TYPE_CHECKING:
    from torch import Tensor

    from chorus.linalg.low_rank import Delta

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


def vector_merge(deltas: Sequence[Delta], weight: Sequence[float], vectors: str, lambda_: float) -> Tensor:
    """The merge of what is not decomposed: lambda times the mean or the sum of the w_i D_i, or nothing."""
    # the mean, then the same lambda as matrices have: so does the code of TSV-M and Iso-C with all that is not 2-D
    factor = {"mean": 1 / len(deltas), "sum": 1.0, "base": 0.0}[vectors] * lambda_
    blocks = cast("Sequence[Tensor]", deltas)  # only matrices come in factors
    return linear_combination(blocks, [w * factor for w in weight])


def scaled(d: Delta, c: float) -> Delta:
    return d.scaled(c) if isinstance(d, LowRank) else d * c


def check_subspace(parameters: Mapping[str, Resolved], models: int) -> None:
    """Refuse settings that contradict each other."""
    if parameters.get("rank") is not None and parameters.get("rank_fraction") is not None:
        raise ValueError("rank and rank_fraction both say how many directions are kept; give one of them")
    # set to their defaults they cannot be told from left out
    chosen = {k: parameters[k] for k in ("orth", "ns_scale", "ns_polish") if k in parameters}
    if parameters.get("preset") == "paper" and chosen != {"orth": "exact", "ns_scale": "sqrt_n", "ns_polish": 4}:
        raise ValueError("preset: paper fixes orth, ns_scale and ns_polish; leave them out")


def kept_rank(shape: Sequence[int], models: int, rank: int | None, rank_fraction: float | None) -> int:
    """Directions kept of each task: max(1, floor(fraction * min(m, n))), by default of 1 / models (the authors')."""
    size = min(shape)
    if rank is not None:
        return min(rank, size)
    if rank_fraction is None:
        return max(1, size // models)
    # 0.29 of 100 is 28.999999999999996 in float64
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
    # raised, null values would give energy to directions that no task has (an adapter's delta has many)
    s = s[s > NULL * s[0]]
    share = (s if energy == "sum" else s.square()).cumsum(0)
    first = int((share < beta * share[-1]).sum())
    raised = values.clamp(min=float(s[min(first, len(s) - 1)]))
    return raised * (values.norm() / raised.norm()) if renorm == "frobenius" else raised
