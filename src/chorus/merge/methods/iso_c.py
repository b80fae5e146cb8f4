"""iso_c: the sum of the deltas with all its singular values made equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from chorus.linalg.combine import weighted_total
from chorus.linalg.polar import nuclear_flattened
from chorus.merge.method import PerModel, each, method
from chorus.merge.methods._parameters import Lambda
from chorus.merge.methods._subspace import Treat, Vectors, scaled, vector_merge

if TYPE_CHECKING:
    from chorus.linalg.low_rank import Delta


@method(
    "iso_c",
    summary="isotropic merging: the summed delta with one singular value for all its directions",
    paper="Marczak et al. 2025, No Task Left Behind: Isotropic Model Merging, arXiv 2502.04959",
    space="deltas",
    linear=True,
    low_rank=True,
    subspace=True,
    when="For tasks that share most of what they learnt. Tune lambda on a dev set, from 0.3 up.",
    recipe="""
        merge_method: iso_c
        base_model: whisper-small
        models:
          - model: whisper-domain-a
          - model: whisper-domain-b
        parameters: {lambda: 0.5}
    """,
)
def iso_c(
    deltas: Sequence[Delta],
    /,
    *,
    weight: Annotated[PerModel[float], "factor of each delta in the sum"] = each(1.0),
    average: Annotated[
        Literal["effective", "all"], "mean of the values that are not null, or over min(m, n) as published"
    ] = "effective",
    lambda_: Lambda = 1.0,
    treat: Treat = "auto",
    vectors: Vectors = "mean",
    treatment: str,
) -> Delta:
    """Return lambda * mean(s) U V^T of sum_i w_i D_i = U diag(s) V^T.

    Only directions that the sum has are filled: where it is rank deficient, as sums of adapters are, the published
    form would put most of its energy into arbitrary ones.
    """
    if treatment == "vector":
        return vector_merge(deltas, weight, vectors, lambda_)
    return scaled(nuclear_flattened(weighted_total(deltas, weight), average=average), lambda_)
