"""encoder_decoder_weighted: a weighted mean with other weights for the encoder than for the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from chorus.linalg.combine import linear_combination
from chorus.merge.method import PerModel, each, method

if TYPE_CHECKING:
    import torch

    from chorus.architectures.roles import Role


@method(
    "encoder_decoder_weighted",
    summary="a weighted mean with weights of their own for encoder, decoder and cross-attention",
    paper="Arbonel 2025, mergekit pull request 533 (Whisper)",
    space="weights",
    base="input",
    linear=True,
    when="For Whisper, where one model hears better (accent, noise) and another writes better (language, domain).",
    recipe="""
        merge_method: encoder_decoder_weighted
        models:
          - model: whisper-accent
            parameters: {encoder_weight: 0.7, decoder_weight: 0.3}
          - model: whisper-domain
            parameters: {encoder_weight: 0.3, decoder_weight: 0.7}
    """,
)
def encoder_decoder_weighted(
    tensors: Sequence[torch.Tensor],
    /,
    *,
    weight: Annotated[PerModel[float], "share of each model, where no weight below says otherwise"] = each(1.0),
    encoder_weight: Annotated[PerModel[float | None], "share in the encoder"] = each(None),
    decoder_weight: Annotated[PerModel[float | None], "share in the decoder, its embeddings too"] = each(None),
    cross_weight: Annotated[
        PerModel[float | None], "share in the decoder's cross-attention; default: the mean of the two others"
    ] = each(None),
    role: Role,
) -> torch.Tensor:
    """Return sum_i w_i x_i / sum_i w_i, the weights chosen by where the tensor stands.

    Each set of weights is normalised over the models; a set that sums to zero counts as equal weights. A base
    given in the recipe is one more model, with weights of 1.
    """
    encoder = [w if e is None else e for w, e in zip(weight, encoder_weight, strict=True)]
    decoder = [w if d is None else d for w, d in zip(weight, decoder_weight, strict=True)]
    # what is outside both, such as a head of its own, writes: it goes with the decoder
    weights = encoder if role.module == "encoder" else decoder
    if role.component == "cross_attention":
        weights = [(e + d) / 2 if c is None else c for c, e, d in zip(cross_weight, encoder, decoder, strict=True)]
    # equal at zero, as the pull request has it, and not refused: one side's weights may all be 0
    total = sum(weights)
    return linear_combination(tensors, [w / total if total else 1 / len(weights) for w in weights])
