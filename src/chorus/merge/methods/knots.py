"""knots: TIES or DARE-TIES in the space that the tasks' concatenated deltas span."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from chorus.linalg.low_rank import LowRank
from chorus.linalg.spectra import left_basis
from chorus.merge.method import each, method
from chorus.merge.methods._parameters import InnerWeight, Lambda
from chorus.merge.methods._subspace import Treat, Vectors, vector_merge

if TYPE_CHECKING:
    import torch

    from chorus.linalg.low_rank import Delta


@method(
    "knots",
    summary="align the deltas in a shared basis, then trim and vote there",
    paper="Stoica et al. 2024, Model merging with SVD to tie the Knots, arXiv 2410.19735",
    space="deltas",
    linear=True,
    low_rank=True,
    subspace=True,
    inner="within",
    when="For LoRA adapters, which agree less than full fine-tunes value by value. Tune lambda from 0.3 up.",
    recipe="""
        merge_method: knots
        base_model: whisper-small
        models:
          - {model: whisper-small, lora: adapter-a}
          - {model: whisper-small, lora: adapter-b}
        parameters: {inner: ties, density: 0.5, lambda: 0.5}
    """,
)
def knots(
    deltas: Sequence[Delta],
    /,
    *,
    inner: Annotated[Literal["ties", "dare_ties", "task_arithmetic"], "what merges in the shared space"] = "ties",
    weight: InnerWeight = each(1.0),
    lambda_: Lambda = 1.0,
    treat: Treat = "auto",
    vectors: Vectors = "mean",
    treatment: str,
    merge_inner: Callable[[Sequence[torch.Tensor]], torch.Tensor],
) -> Delta:
    """Return lambda * U M, with C = [D_1 .. D_N] = U S [V_1^T .. V_N^T] and M the inner merge of the S V_i^T.

    U spans what any task writes to; S V_i^T = U^T D_i are the tasks' coordinates in it, which the inner method
    merges value by value, with its own parameters (density, normalize, ...) given beside these. A linear inner
    method gives what it gives without KnOTS.
    """
    if treatment == "vector":
        return vector_merge(deltas, weight, vectors, lambda_)
    basis = left_basis(deltas)
    coordinates, low_rank = [], True
    for d in deltas:
        low_rank = low_rank and isinstance(d, LowRank)
        # in this order no matrix of the model's size is formed
        coordinates.append((basis.T @ d.left) @ d.right if isinstance(d, LowRank) else basis.T @ d)
    # an inner method need not understand matrices without rows, which no change at all gives
    merged = merge_inner(coordinates) if basis.shape[1] else coordinates[0]
    factors = LowRank(basis * lambda_, merged, (basis.shape[0], merged.shape[1]))
    return factors if low_rank else factors.dense()
