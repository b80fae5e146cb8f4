"""opcm: one model after the other, each without what would change the directions of what is merged already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from chorus.lazy import lazy
from chorus.linalg.low_rank import LowRank, low_rank_sum
from chorus.linalg.spectra import singular_triplets
from chorus.merge.method import Between, Demand, each, method
from chorus.merge.methods._parameters import DeltaWeight, Lambda
from chorus.merge.methods._subspace import Treat, Vectors, vector_merge

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from chorus.linalg.low_rank import Delta
else:
    torch = lazy("torch")


def float64_bytes(demand: Demand) -> int:
    """The sum, the model that comes, and both sides' vectors, each in float64."""
    m, n = demand.shape
    k = sum(demand.directions) if demand.in_factors else min(m, n)
    held = 3 * k * (m + n) if demand.in_factors else 3 * m * n + k * (m + n)
    return 8 * (held + 2 * k * k)


@method(
    "opcm",
    summary="models added one after the other, each projected off the directions of the sum so far",
    paper="Tang et al. 2025, Merging Models on the Fly Without Retraining: A Sequential Approach to Scalable "
    "Continual Model Merging, arXiv 2501.09522",
    space="deltas",
    linear=True,
    symmetric=False,
    low_rank=True,
    subspace=True,
    memory=float64_bytes,
    when="For models that come one by one (chorus continual). In one recipe: lambda about 1 / sqrt(models).",
    recipe="""
        merge_method: opcm
        base_model: whisper-small
        models:
          - model: whisper-domain-a
          - model: whisper-domain-b
        parameters: {alpha: 0.5, lambda: 0.7}
    """,
)
def opcm(
    deltas: Sequence[Delta],
    /,
    *,
    weight: DeltaWeight = each(1.0),
    alpha: Annotated[
        float, Between(0, 1), "share of the sum's singular values whose directions are kept as they are"
    ] = 0.5,
    lambda_: Lambda = 1.0,
    treat: Treat = "auto",
    vectors: Vectors = "sum",
    treatment: str,
) -> Delta:
    """Return lambda * S_N, with S_1 = w_1 D_1 and S_t = S_(t-1) + P(w_t D_t), in the order of the recipe.

    With S_(t-1) = U diag(s) V^T, P(D) is D without U (mask * (U^T D V)) V^T, where mask is one on the diagonal and on
    the leading q x q block, and q counts the leading values whose summed share of all values is at most `alpha`. So
    <S_(t-1), P(D)> = 0. Only directions that the sum has are looked at: the published form also takes the diagonal of
    an arbitrary basis of those that it lacks.

    The paper divides S_t by the number that makes its norm over the whole model the mean of the models' norms; a
    recipe says that number as `lambda`, and `chorus continual` computes it.
    """
    if treatment == "vector":
        return vector_merge(deltas, weight, vectors, lambda_)
    total = _wide(deltas[0], weight[0])
    for d, w in zip(deltas[1:], weight[1:], strict=True):
        total = _added(total, _wide(d, w), alpha)
    return _narrow(total, deltas[0], lambda_)


def _added(total: Delta, d: Delta, alpha: float) -> Delta:
    """total + P(d), of float64 matrices [m, n]."""
    found = singular_triplets(total)
    u, s, v = found.left, found.values, found.right
    # [k, k]: what d has in the sum's own directions
    own = (u.T @ d.left) @ (d.right @ v) if isinstance(d, LowRank) else u.T @ d @ v
    q = int((s.cumsum(0) <= alpha * s.sum()).sum())
    taken = torch.diag(own.diagonal().clone())
    taken[:q, :q] = own[:q, :q]
    if isinstance(total, LowRank) and isinstance(d, LowRank):
        # U (diag(s) - taken) V^T: the rank grows by that of d alone
        return low_rank_sum([LowRank(u @ (torch.diag(s) - taken), v.T, total.shape), d], [1.0, 1.0])
    dense = total.dense() if isinstance(total, LowRank) else total
    return dense + (d.dense() if isinstance(d, LowRank) else d) - u @ taken @ v.T


def _wide(d: Delta, w: float) -> Delta:
    """w d in float64: directions of values that lie close are lost to the rounding of a float32 sum."""
    return LowRank(d.left.double() * w, d.right.double(), d.shape) if isinstance(d, LowRank) else d.double() * w


def _narrow(total: Delta, like: Delta, lambda_: float) -> Delta:
    dtype: torch.dtype = like.left.dtype if isinstance(like, LowRank) else like.dtype
    if isinstance(total, LowRank):
        return LowRank((total.left * lambda_).to(dtype), total.right.to(dtype), total.shape)
    narrow: Tensor = (total * lambda_).to(dtype)
    return narrow
