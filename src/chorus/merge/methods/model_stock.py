"""model_stock: between the base and the mean of the models, as far as their angles say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from chorus.lazy import lazy
from chorus.linalg.blocks import Blocks
from chorus.linalg.combine import linear_combination
from chorus.linalg.sphere import unit_gram
from chorus.linalg.statistics import gram_matrix
from chorus.merge.method import Split, method

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


def ratio(blocks: Blocks, *, filter_wise: bool) -> float | None:
    """t from the mean pairwise cosine of the deltas; None where it is to be taken row by row."""
    if filter_wise and len(blocks.shape) > 1:
        return None
    norms, cosines = unit_gram(gram_matrix(blocks))
    return interpolation(cosines, norms > 0)


def interpolation(cosines: torch.Tensor, alive: torch.Tensor) -> float:
    """t = N c / (1 + (N - 1) c), c the mean cosine of pairs, in [0, 1]; a zero delta belongs to no pair."""
    n = len(alive)
    pairs = [float(cosines[i, j]) for i in range(n) for j in range(i) if alive[i] and alive[j]]
    c = min(1.0, max(0.0, sum(pairs) / len(pairs))) if pairs else 0.0
    return n * c / (1 + (n - 1) * c)


def cut(parameters: Mapping[str, Any]) -> Split:
    return "row" if parameters["filter_wise"] else "element"


@method(
    "model_stock",
    summary="between base and mean, where the fine-tunes' angles place the optimum",
    paper="Jang, Yun and Han 2024, Model Stock, arXiv 2403.19522",
    space="deltas",
    models=(2, None),
    split=cut,
    statistics=ratio,
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
    filter_wise: Annotated[bool, "one angle for each output row instead of one a tensor"] = False,
    statistics: float | None,
) -> torch.Tensor:
    """Return t * mean(D_i), t = N c / (1 + (N-1) c) with c the mean pairwise cosine of the deltas (equation 6).

    c is kept in [0, 1]: below zero the formula has a pole and would leave the segment. Zero deltas belong to no
    pair; without pairs the result is the base. Cosines come from float64 inner products, without thresholds.
    """
    n = len(deltas)
    if statistics is not None:
        return linear_combination(deltas, [statistics / n] * n)
    rows = torch.stack([d.reshape(d.shape[0], -1).double() for d in deltas], dim=1)  # [rows, N, columns]
    gram = rows @ rows.transpose(1, 2)
    t = torch.tensor([interpolation(*_cosines(g)) for g in gram], dtype=torch.float64, device=rows.device)
    merged = t[:, None] * rows.mean(dim=1)
    return merged.reshape(deltas[0].shape).to(deltas[0].dtype)


def _cosines(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    norms, cosines = unit_gram(gram)
    return cosines, norms > 0
