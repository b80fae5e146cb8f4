"""iso_cts: a common subspace of all tasks and one for each task beside it, isotropic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from chorus.lazy import lazy
from chorus.linalg.combine import weighted_total
from chorus.linalg.low_rank import LowRank
from chorus.linalg.spectra import singular_triplets
from chorus.merge.method import Between, each, method
from chorus.merge.methods._bases import orthogonaliser
from chorus.merge.methods._parameters import DeltaWeight, Lambda
from chorus.merge.methods._subspace import Orth, Treat, Vectors, scaled, vector_merge

if TYPE_CHECKING:
    import torch

    from chorus.linalg.low_rank import Delta
else:
    torch = lazy("torch")


def split_rank(rank: int, models: int, common_fraction: float) -> tuple[int, int]:
    """How many directions are common, and how many each task gets of its own: k_c + N d = r.

    >>> split_rank(100, 3, 0.8)
    (79, 7)
    """
    # halves go up; the authors' round() takes them to the even neighbour (2.5 to 2, 3.5 to 4)
    own = int((rank - int(rank * common_fraction)) / models + 0.5)
    # rounding up may ask for more than there is
    while own * models > rank:
        own -= 1
    return rank - own * models, own


def without(d: Delta, basis: torch.Tensor) -> Delta:
    """(I - B B^T) D."""
    if isinstance(d, LowRank):
        return LowRank(d.left - basis @ (basis.T @ d.left), d.right, d.shape)
    return d - basis @ (basis.T @ d)


@method(
    "iso_cts",
    summary="isotropic merging in a common subspace and in task-specific ones",
    paper="Marczak et al. 2025, No Task Left Behind: Isotropic Model Merging, arXiv 2502.04959",
    space="deltas",
    linear=True,
    low_rank=True,
    subspace=True,
    when="For many tasks that share only a part; with few, iso_c does as well. Tune lambda on a dev set.",
    recipe="""
        merge_method: iso_cts
        base_model: whisper-small
        models:
          - model: whisper-domain-a
          - model: whisper-domain-b
        parameters: {common_fraction: 0.8, lambda: 0.5}
    """,
)
def iso_cts(
    deltas: Sequence[Delta],
    /,
    *,
    common_fraction: Annotated[float, Between(0, 1), "share of the directions that is common to all tasks"] = 0.8,
    weight: DeltaWeight = each(1.0),
    orth: Orth = "exact",
    lambda_: Lambda = 1.0,
    treat: Treat = "auto",
    vectors: Vectors = "mean",
    treatment: str,
) -> Delta:
    """Return lambda * mean(s) U_o V_o^T over the common directions and each task's own.

    1. the leading k_c triplets of M = sum w_i D_i are common, k_c about `common_fraction` of its rank r;
    2. each task gives the leading d triplets of (I - U_c U_c^T) w_i D_i, N d = r - k_c;
    3. U_o, V_o: the nearest partial isometries to all left and right vectors; s: all their singular values.

    The rank is that of M, so that adapters fill only directions that they have. common_fraction 1 is iso_c.
    """
    if treatment == "vector":
        return vector_merge(deltas, weight, vectors, lambda_)
    m = weighted_total(deltas, weight)
    whole = singular_triplets(m)
    common, own = split_rank(whole.rank, len(deltas), common_fraction)
    left, values, right = [whole.left[:, :common]], [whole.values[:common]], [whole.right[:, :common]]
    for d, w in zip(deltas if own else (), weight if own else (), strict=True):
        if w != 0:
            part = singular_triplets(without(scaled(d, w), left[0]), own, whole=False)
            # of a task that lies in the common space rounding is left: only beside M's values does it show as such
            real = int((part.values > 1e-6 * whole.values[0]).sum()) if part.rank else 0
            left.append(part.left[:, :real])
            values.append(part.values[:real])
            right.append(part.right[:, :real])
    s = torch.cat(values)
    mean = s.mean() if s.numel() else s.sum()
    orthogonalise = orthogonaliser("none", orth, "quintic", "sqrt_n", 4)
    # the common block counts too: sqrt(blocks) is what bounds the singular values of the bases
    u, v = (orthogonalise(torch.cat(x, dim=1), len(x)) for x in (left, right))
    merged = LowRank(u * (mean * lambda_), v.T, (u.shape[0], v.shape[0]))
    return merged if isinstance(m, LowRank) else merged.dense()
