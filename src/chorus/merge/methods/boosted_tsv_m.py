"""boosted_tsv_m: TSV-M with the small singular values of each task raised first, against rank collapse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from chorus.merge.method import Between, Memo, each, method
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
    boosted,
    check_subspace,
    kept_rank,
    vector_merge,
)

if TYPE_CHECKING:
    from chorus.linalg.low_rank import Delta


@method(
    "boosted_tsv_m",
    summary="TSV-M on boosted spectra: small singular directions count as much as the one at beta",
    paper="Carvalho et al. 2026, BoostedTSV-M, arXiv 2603.05354",
    space="deltas",
    check=check_subspace,
    linear=True,
    low_rank=True,
    subspace=True,
    when="The best in-domain merge of ten ASR domains in its paper. Smaller beta: better in-domain, worse outside.",
    recipe="""
        merge_method: boosted_tsv_m
        base_model: whisper-large-v3
        models:
          - model: whisper-domain-a
          - model: whisper-domain-b
        parameters:
          beta:
            - {role: {component: encoder}, value: 0.5}
            - {value: 0.3}
          lambda: 1.0
    """,
)
def boosted_tsv_m(
    deltas: Sequence[Delta],
    /,
    *,
    beta: Annotated[float, Between(0, 1, above=True), "cumulative share at which boosting starts; 1: none"] = 0.3,
    energy: Annotated[Literal["sum", "squared"], "cumulate singular values or their squares"] = "sum",
    boost_on: Annotated[Literal["full", "kept"], "the whole spectrum, or what the rank keeps of it"] = "full",
    renorm: Annotated[Literal["none", "frobenius"], "give each boosted task its old norm back"] = "none",
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
    """Return lambda * U_o S' V_o^T: TSV-M whose singular values are raised, task by task, before they are joined.

    With e_j = s_j (or its square) and c_j the cumulative share of e, let j* be the first index with
    c_j >= beta; every value below s_j* becomes s_j*, but those that are zero stay so. beta 1 is TSV-M. Plain
    values over the full spectrum, before the cut, are the paper's (equations 4 to 6) and the defaults; its iterations
    in place of the exact polar factor are `preset: paper`.
    """
    if treatment == "vector":
        return vector_merge(deltas, weight, vectors, lambda_)
    return merge_bases(
        deltas,
        weight=[w * lambda_ for w in weight],
        rank=kept_rank(shape, len(deltas), rank, rank_fraction),
        orthogonalise=orthogonaliser(preset, orth, ns_schedule, ns_scale, ns_polish),
        memo=memo,
        raise_values=lambda kept, spectrum: boosted(
            kept, spectrum, beta=beta, energy=energy, boost_on=boost_on, renorm=renorm
        ),
    )
