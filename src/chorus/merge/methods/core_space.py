"""core_space: any method inside the small space that the adapters share, without loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

from chorus.linalg.low_rank import LowRank
from chorus.linalg.spectra import left_basis
from chorus.merge.method import each, method
from chorus.merge.methods._parameters import InnerWeight, Lambda
from chorus.merge.methods._subspace import Treat, Vectors, vector_merge

if TYPE_CHECKING:
    import torch

    from chorus.linalg.low_rank import Delta


@method(
    "core_space",
    summary="any method on task vectors, run in the adapters' common core",
    paper="Panariello et al. 2025, Accurate and Efficient Low-Rank Model Merging in Core Space, arXiv 2509.17786",
    space="deltas",
    linear=True,
    low_rank=True,
    subspace=True,
    inner="within",
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
    deltas: Sequence[Delta],
    /,
    *,
    inner: Annotated[str, "what merges in the core: any method on task vectors"] = "task_arithmetic",
    weight: InnerWeight = each(1.0),
    lambda_: Lambda = 1.0,
    treat: Treat = "auto",
    vectors: Vectors = "mean",
    treatment: str,
    merge_inner: Callable[[Sequence[torch.Tensor]], torch.Tensor],
) -> Delta:
    """Return lambda * U M V^T, with U and V bases of all tasks' outputs and inputs, M the merge of the U^T D_i V.

    The cores U^T D_i V hold the deltas without loss, in [N r, N r] for N adapters of rank r. Methods that do not
    depend on the basis (linear ones, tsv_m, iso_c) give what they give outside; those that work value by value
    (ties, dare_ties) see aligned coordinates. The inner method's parameters are given beside these. Full fine-tunes
    have no small core: this is then a change of basis.
    """
    if treatment == "vector":
        return vector_merge(deltas, weight, vectors, lambda_)
    u, v = left_basis(deltas), left_basis(deltas, transposed=True)
    cores, low_rank = [], True
    for d in deltas:
        low_rank = low_rank and isinstance(d, LowRank)
        # in this order nothing of the model's size is formed
        cores.append((u.T @ d.left) @ (d.right @ v) if isinstance(d, LowRank) else u.T @ d @ v)
    # an inner method need not understand matrices without rows, which no change at all gives
    merged = merge_inner(cores) if u.shape[1] else cores[0]
    factors = LowRank(u @ (merged * lambda_), v.T, (u.shape[0], v.shape[0]))
    return factors if low_rank else factors.dense()
