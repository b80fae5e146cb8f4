"""tsv_m: the task's singular vectors, made orthogonal to each other, with their singular values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from chorus.merge.method import Between, Memo, PerModel, method
from chorus.merge.methods._subspace import (
    Treat,
    Vectors,
    check_subspace,
    kept_rank,
    merge_bases,
    orthogonaliser,
    vector_merge,
)

if TYPE_CHECKING:
    import torch


@method(
    "tsv_m",
    summary="keep each task's leading singular directions and make them orthogonal across tasks",
    paper="Gargiulo et al. 2025, Task Singular Vectors: Reducing Task Interference in Model Merging, arXiv 2412.00081",
    space="deltas",
    check=check_subspace,
    linear=True,
    low_rank=True,
    subspace=True,
    when="For several domains that should all be kept in full. Tune lambda on a dev set.",
    recipe="""
        merge_method: tsv_m
        base_model: whisper-small
        models:
          - model: whisper-domain-a
          - model: whisper-domain-b
        parameters: {lambda: 1.0}
    """,
)
def tsv_m(
    deltas: Sequence[torch.Tensor],
    /,
    *,
    weight: Annotated[PerModel[float], "factor of each model's singular values"] = 1.0,  # type: ignore[assignment]
    rank: Annotated[int | None, Between(1, 1e9), "directions kept of each task; more than there are: all"] = None,
    rank_fraction: Annotated[float | None, Between(0, 1, above=True), "or their share; default 1 / models"] = None,
    orth: Annotated[Literal["exact", "ns"], "exact partial isometry, or Newton-Schulz iterations"] = "exact",
    ns_schedule: Annotated[Literal["quintic", "muon"], "coefficients of the iterations"] = "quintic",
    ns_scale: Annotated[Literal["sqrt_n", "frobenius"], "what divides the bases before the iterations"] = "sqrt_n",
    ns_polish: Annotated[int, Between(0, 100), "exact iterations after the tuned ones"] = 4,
    preset: Annotated[Literal["none", "paper"], "paper: ns, frobenius, no polish (arXiv 2603.05354)"] = "none",
    lambda_: Annotated[float, "factor of the merged delta"] = 1.0,
    treat: Treat = "auto",
    vectors: Vectors = "mean",
    treatment: str,
    shape: tuple[int, ...],
    memo: Memo,
) -> torch.Tensor:
    """Return lambda * U_o S V_o^T, U_o and V_o the polar factors of all tasks' leading singular vectors.

    1. D_i = U_i diag(s_i) V_i^T, cut to `rank` triplets;
    2. U = [U_1 .. U_N], V likewise, S = [w_1 s_1 .. w_N s_N];
    3. U_o, V_o = the nearest partial isometries to U and V.

    With a single model this is its best approximation of that rank; with tasks in orthogonal subspaces the sum.
    At full rank of square matrices it is the mean of the deltas, so lambda must grow with the rank.
    """
    if treatment == "vector":
        return vector_merge(deltas, weight, vectors, lambda_)
    rows, columns = shape
    return merge_bases(
        deltas,
        weight=[w * lambda_ for w in weight],
        rank=kept_rank(shape, len(deltas), rank, rank_fraction),
        orthogonalise=orthogonaliser(preset, orth, ns_schedule, ns_scale, ns_polish),
        shape=(rows, columns),
        memo=memo,
    )
