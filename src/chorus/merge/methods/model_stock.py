"""model_stock: between the base and the mean of the models, as far as their angles say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from chorus.lazy import lazy
from chorus.linalg.blocks import Blocks
from chorus.linalg.combine import linear_combination
from chorus.linalg.statistics import gram_matrix
from chorus.merge.method import PerModel, Resolved, Split, each, method
from chorus.merge.methods._weights import check_shares, shares

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
else:
    np, torch = lazy("numpy"), lazy("torch")


def ratio(blocks: Blocks, *, filter_wise: bool) -> float | None:
    """t from the mean pairwise cosine of the deltas; None where it is to be taken row by row."""
    if filter_wise and len(blocks.shape) > 1:
        return None
    return float(interpolation(gram_matrix(blocks)[None])[0])


def interpolation(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """t = N c / (1 + (N - 1) c) of each Gram matrix [rows, N, N], c the mean cosine of pairs, in [0, 1].

    A zero delta belongs to no pair; without pairs t is zero.
    """
    n = gram.shape[-1]
    norms = np.sqrt(np.maximum(np.diagonal(gram, axis1=1, axis2=2), 0))
    lengths = norms[:, :, None] * norms[:, None, :]
    # any but zero: mergekit's floor of 1e-6 took t from 0.995 to 0.15 for a bias of 8 values with deltas of 1e-4
    pairs = np.tril(lengths > 0, -1)
    cosines = np.divide(gram, lengths, out=np.zeros_like(gram), where=pairs).sum(axis=(1, 2))
    c = np.clip(cosines / np.maximum(pairs.sum(axis=(1, 2)), 1), 0, 1)
    share: NDArray[np.float64] = n * c / (1 + (n - 1) * c)
    return share


def cut(parameters: Mapping[str, Resolved]) -> Split:
    return "row" if parameters["filter_wise"] else "element"


@method(
    "model_stock",
    summary="between base and mean, where the fine-tunes' angles place the optimum",
    paper="Jang, Yun and Han 2024, Model Stock, arXiv 2403.19522",
    space="deltas",
    models=(2, None),
    split=cut,
    statistics=ratio,
    check=check_shares,
    linear=True,
    when="A safe default for two or more fine-tunes whose base must not be forgotten. Nothing to tune.",
    recipe="""
        merge_method: model_stock
        base_model: whisper-small
        models:
          - model: whisper-domain-a
          - model: whisper-domain-b
    """,
)
def model_stock(
    deltas: Sequence[torch.Tensor],
    /,
    *,
    weight: Annotated[PerModel[float], "share of each model in the mean; the paper's are equal"] = each(1.0),
    filter_wise: Annotated[bool, "one angle for each output row instead of one a tensor"] = False,
    statistics: float | None,
) -> torch.Tensor:
    """Return t * mean(D_i), t = N c / (1 + (N-1) c) with c the mean pairwise cosine of the deltas (equation 6).

    c is kept in [0, 1]: below zero the formula has a pole and would leave the segment. Zero deltas belong to no
    pair; without pairs the result is the base. Cosines come from float64 inner products, without thresholds.
    """
    share = shares(weight)
    if statistics is not None:
        return linear_combination(deltas, [statistics * w for w in share])
    rows = torch.stack([d.reshape(d.shape[0], -1).double() for d in deltas], dim=1)  # [rows, N, columns]
    t = torch.from_numpy(interpolation((rows @ rows.transpose(1, 2)).cpu().numpy())).to(rows.device)
    mean = (rows * torch.tensor(share, dtype=torch.float64, device=rows.device)[:, None]).sum(dim=1)
    return (t[:, None] * mean).reshape(deltas[0].shape).to(deltas[0].dtype)
