"""core_space: any method inside the small space that the adapters share, without loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from chorus.linalg.low_rank import LowRank
from chorus.linalg.spectra import left_basis
from chorus.merge.method import Between, PerModel, method
from chorus.merge.methods._inner import inner_method, run_inner
from chorus.merge.methods._subspace import Treat, Vectors, vector_merge

if TYPE_CHECKING:
    import torch


def check_core(parameters: Mapping[str, Any], models: int) -> None:
    """Refuse an inner method that does not exist or needs more than can be given here."""
    found, values = inner_method(parameters["inner"], parameters)
    if found.check is not None:
        found.check(values, models)


@method(
    "core_space",
    summary="any method on task vectors, run in the adapters' common core",
    paper="Panariello et al. 2025, Accurate and Efficient Low-Rank Model Merging in Core Space, arXiv 2509.17786",
    space="deltas",
    check=check_core,
    linear=True,
    low_rank=True,
    subspace=True,
    when="For LoRA adapters under methods that would need the dense deltas, such as ties: the core is tiny.",
    recipe="""
        merge_method: core_space
        base_model: whisper-small
        models:
          - {model: whisper-small, lora: adapter-a}
          - {model: whisper-small, lora: adapter-b}
        parameters: {inner: ties, density: 0.5, lambda: 0.5}
    """,
)
def core_space(
    deltas: Sequence[torch.Tensor],
    /,
    *,
    inner: Annotated[str, "what merges in the core: any method on task vectors"] = "task_arithmetic",
    weight: Annotated[PerModel[float], "the inner method's weight of each model"] = 1.0,  # type: ignore[assignment]
    density: Annotated[PerModel[float] | None, Between(0, 1), "the inner method's density"] = None,
    normalize: Annotated[bool | None, "the inner method's normalize"] = None,
    beta: Annotated[float | None, Between(0, 1, above=True), "the inner method's beta"] = None,
    rank: Annotated[int | None, Between(1, 1e9), "the inner method's rank"] = None,
    lambda_: Annotated[float, "factor of the merged delta"] = 1.0,
    treat: Treat = "auto",
    vectors: Vectors = "mean",
    treatment: str,
    keys: Sequence[int],
) -> torch.Tensor:
    """Return lambda * U M V^T, with U and V bases of all tasks' outputs and inputs, M the merge of the U^T D_i V.

    The cores U^T D_i V hold the deltas without loss, in [N r, N r] for N adapters of rank r. Methods that do not
    depend on the basis (linear ones, tsv_m, iso_c) give what they give outside; those that work value by value
    (ties, dare_ties) see aligned coordinates. Full fine-tunes have no small core: this is then a change of basis.
    """
    if treatment == "vector":
        return vector_merge(deltas, weight, vectors, lambda_)
    u, v = left_basis(deltas), left_basis(deltas, transposed=True)
    given = {"weight": weight, "normalize": normalize, "beta": beta, "rank": rank}
    found, values = inner_method(inner, {**given, "density": density if density and density[0] is not None else None})
    cores, low_rank = [], True
    for d in deltas:
        low_rank = low_rank and isinstance(d, LowRank)
        cores.append((u.T @ d.left) @ (d.right @ v) if isinstance(d, LowRank) else u.T @ d @ v)
    merged = run_inner(found, values, cores, keys=keys) if u.shape[1] else cores[0]
    factors = LowRank(u @ (merged * lambda_), v.T, (u.shape[0], v.shape[0]))
    return factors if low_rank else factors.dense()  # type: ignore[return-value]
