"""subspace_boosting: any merge of task vectors, with the small singular values of the result raised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from chorus.linalg.low_rank import LowRank
from chorus.linalg.spectra import singular_triplets
from chorus.merge.method import Between, method
from chorus.merge.methods._parameters import Lambda
from chorus.merge.methods._subspace import Treat, boosted, scaled

if TYPE_CHECKING:
    from chorus.linalg.low_rank import Delta


@method(
    "subspace_boosting",
    summary="a merge of task vectors whose weak singular directions are raised afterwards",
    paper="Skorobogat et al. 2025, Subspace-Boosted Model Merging, arXiv 2506.16506",
    space="deltas",
    low_rank=True,
    subspace=True,
    inner="before",
    when="After task arithmetic or ties of many models, whose merged delta collapses to few directions.",
    recipe="""
        merge_method: subspace_boosting
        base_model: whisper-small
        models:
          - model: whisper-domain-a
            parameters: {weight: 0.5}
          - model: whisper-domain-b
            parameters: {weight: 0.5}
        parameters: {inner: task_arithmetic, beta: 0.01}
    """,
)
def subspace_boosting(
    merged: Sequence[Delta],
    /,
    *,
    inner: Annotated[str, "the method that merges: any one on task vectors that works value by value"] = (
        "task_arithmetic"
    ),
    beta: Annotated[float, Between(0, 1, above=True), "cumulative share at which boosting starts; 1: none"] = 0.01,
    energy: Annotated[Literal["sum", "squared"], "cumulate singular values or their squares"] = "sum",
    lambda_: Lambda = 1.0,
    treat: Treat = "auto",
    treatment: str,
) -> Delta:
    """Return lambda * U diag(s') V^T of the inner method's merged delta U diag(s) V^T.

    s' raises every singular value below the one at which the cumulative share of s first reaches beta to it.
    beta 1 changes nothing. Tensors that are not decomposed are the inner method's. The inner method's parameters
    (weight, density, normalize, ...) are given beside these; its lambda stays 1. One that draws at random draws under
    this method's name, and so another sample than by itself.
    """
    (delta,) = merged
    if treatment == "vector":
        return scaled(delta, lambda_)
    parts = singular_triplets(delta)
    if parts.spectrum is None or not parts.rank:
        return scaled(delta, lambda_)
    raised = boosted(parts.values, parts.spectrum, beta=beta, energy=energy, boost_on="full")
    if isinstance(delta, LowRank):
        return LowRank(parts.left * raised * lambda_, parts.right.T, delta.shape)
    # only what is raised is added: all other digits stay the inner method's
    step = (parts.left * (raised - parts.values)) @ parts.right.T
    return (delta + step) * lambda_
