"""Outputs that are no finite numbers: what would be read out of them is no text, so that decoding stops there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.errors import ChorusError
from chorus.lazy import lazy

if TYPE_CHECKING:
    import torch
    import transformers
else:
    torch, transformers = lazy("torch"), lazy("transformers")


class NotFiniteError(ChorusError):
    """A model's outputs are NaN or infinite: weights that are, or a type too small for what it computes."""

    def __init__(self) -> None:
        super().__init__(
            "the model's outputs are no finite numbers", "use float32; if that does not help, its weights are damaged"
        )


def need_finite(best: torch.Tensor) -> None:
    """Raise where the largest of any row's logits is not finite (-inf elsewhere is what is suppressed)."""
    if not bool(torch.isfinite(best).all()):
        raise NotFiniteError


class _NeedFinite:
    """A step of transformers' `generate`."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        need_finite(scores.amax(-1))
        return scores


def finite_alone() -> transformers.LogitsProcessorList:
    """What `generate` is given as `logits_processor`, so that it stops."""
    return transformers.LogitsProcessorList([_NeedFinite()])
