"""tsv_m: the task's singular vectors, made orthogonal to each other, with their singular values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.merge.method import Memo, each, method
from chorus.merge.methods._bases import merge_bases, orthogonaliser
from chorus.merge.methods._parameters import Lambda, ValuesWeight
from chorus.merge.methods._subspace import (
    KeptRank,
    NsPolish,
    NsScale,
    NsSchedule,
    Orth,
    Preset,
    RankFraction,
    Treat,
    Vectors,
    check_subspace,
    kept_rank,
    vector_merge,
)

if TYPE_CHECKING:
    from chorus.linalg.low_rank import Delta


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
    deltas: Sequence[Delta],
    /,
    *,
    weight: ValuesWeight = each(1.0),
    rank: KeptRank = None,
    rank_fraction: RankFraction = None,
    orth: Orth = "exact",
    ns_schedule: NsSchedule = "quintic",
    ns_scale: NsScale = "sqrt_n",
    ns_polish: NsPolish = 4,
    preset: Preset = "none",
    lambda_: Lambda = 1.0,
    treat: Treat = "auto",
    vectors: Vectors = "mean",
    treatment: str,
    shape: tuple[int, ...],
    memo: Memo,
) -> Delta:
    """Return lambda * U_o S V_o^T, U_o and V_o the polar factors of all tasks' leading singular vectors.

    1. D_i = U_i diag(s_i) V_i^T, cut to `rank` triplets;
    2. U = [U_1 .. U_N], V likewise, S = [w_1 s_1 .. w_N s_N];
    3. U_o, V_o = the nearest partial isometries to U and V.

    With a single model this is its best approximation of that rank; with tasks in orthogonal subspaces the sum.
    At full rank of square matrices it is the mean of the deltas, so lambda must grow with the rank.
    """
    if treatment == "vector":
        return vector_merge(deltas, weight, vectors, lambda_)
    return merge_bases(
        deltas,
        weight=[w * lambda_ for w in weight],
        rank=kept_rank(shape, len(deltas), rank, rank_fraction),
        orthogonalise=orthogonaliser(preset, orth, ns_schedule, ns_scale, ns_polish),
        memo=memo,
    )
