"""subspace_boosting: any merge of task vectors, with the small singular values of the result raised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from chorus.lazy import lazy
from chorus.linalg.low_rank import LowRank
from chorus.linalg.spectra import singular_triplets
from chorus.merge.method import Between, PerModel, method
from chorus.merge.methods._inner import check_inner, given_values, inner_method, inner_statistics, run_inner
from chorus.merge.methods._subspace import Treat, boosted, weighted_total

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@method(
    "subspace_boosting",
    summary="a merge of task vectors whose weak singular directions are raised afterwards",
    paper="Skorobogat et al. 2025, Subspace-Boosted Model Merging, arXiv 2506.16506",
    space="deltas",
    check=check_inner,
    statistics=inner_statistics,
    low_rank=True,
    subspace=True,
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
    deltas: Sequence[torch.Tensor],
    /,
    *,
    inner: Annotated[str, "the method that merges: any one on task vectors that works value by value"] = (
        "task_arithmetic"
    ),
    beta: Annotated[float, Between(0, 1, above=True), "cumulative share at which boosting starts; 1: none"] = 0.01,
    energy: Annotated[Literal["sum", "squared"], "cumulate singular values or their squares"] = "sum",
    weight: Annotated[PerModel[float], "the inner method's weight of each model"] = 1.0,  # type: ignore[assignment]
    density: Annotated[PerModel[float] | None, Between(0, 1), "the inner method's density"] = None,
    gamma: Annotated[PerModel[float] | None, Between(0, 1), "the inner method's gamma (breadcrumbs)"] = None,
    normalize: Annotated[bool | None, "the inner method's normalize"] = None,
    lambda_: Annotated[float, "factor of the merged delta"] = 1.0,
    treat: Treat = "auto",
    statistics: Any,
    treatment: str,
    keys: Sequence[int],
    offset: int = 0,
) -> torch.Tensor:
    """Return lambda * U diag(s') V^T of the inner method's merged delta U diag(s) V^T.

    s' raises every singular value below the one at which the cumulative share of s first reaches beta to it.
    beta 1 changes nothing. Tensors that are not decomposed are the inner method's.
    """
    found, values = inner_method(inner, given_values(weight, density, gamma, normalize))
    if treatment == "vector":
        merged = run_inner(found, values, deltas, keys=keys, statistics=statistics, offset=offset, treatment="vector")
        return merged * lambda_
    if found.name == "task_arithmetic":
        total = sum(values["weight"]) if values["normalize"] else 1.0
        merged = weighted_total(deltas, [w / total for w in values["weight"]])
    else:
        dense = [d.dense() if isinstance(d, LowRank) else d for d in deltas]
        merged = run_inner(found, values, dense, keys=keys)
    parts = singular_triplets(merged)
    if parts.spectrum is None or not parts.rank:
        return merged * lambda_ if not isinstance(merged, LowRank) else merged.scaled(lambda_)  # type: ignore[return-value]
    raised = boosted(parts.values, parts.spectrum, beta=beta, energy=energy, boost_on="full")
    if isinstance(merged, LowRank):
        return LowRank(parts.left * raised * lambda_, parts.right.T, merged.shape)  # type: ignore[return-value]
    step = (parts.left * (raised - parts.values)) @ parts.right.T
    return (merged + step) * lambda_
