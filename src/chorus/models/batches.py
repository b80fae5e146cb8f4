"""Batches of tensors: padded, and put where a model wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.lazy import lazy

if TYPE_CHECKING:
    import torch

    Batch = dict[str, torch.Tensor]
else:
    torch = lazy("torch")


def pad(sequences: Sequence[Sequence[int]], value: int, *, left: bool = False) -> torch.Tensor:
    """Integer sequences as one tensor [batch, longest]."""
    width = max(map(len, sequences))
    rows = []
    for one in sequences:
        filling = [value] * (width - len(one))
        rows.append([*filling, *one] if left else [*one, *filling])
    return torch.tensor(rows)


def as_taken(batch: Batch, model: torch.nn.Module) -> Batch:
    """The batch on the model's device; sounds and features in the type of its weights, ids as they are."""
    # of a quantised base some are integers; the others tell what it computes in
    first = next(p for p in model.parameters() if p.is_floating_point())
    return {name: one.to(first.device, first.dtype if one.is_floating_point() else None) for name, one in batch.items()}
