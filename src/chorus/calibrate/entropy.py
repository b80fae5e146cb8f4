"""The entropy of what labels are likely: what is lowered where no answers are known (AdaMerging, arXiv 2310.02575).

    p_i = softmax_i(s)      s_i the log-probability of label i as the whole answer, over the row's choices
    H   = - sum_i p_i log p_i      in nats; 0 for one sure label, log n for n labels of which none is likelier

It says how sure a model is and not how right: a model that gives every row the same label has an entropy of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.calibrate.rows import labels_of
from chorus.data.utterance import Utterance
from chorus.errors import MisfitError
from chorus.lazy import lazy
from chorus.train.backbones.protocol import Backbone, LabelBackbone
from chorus.train.config import TrainConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")


def entropy_of(odds: Tensor) -> Tensor:
    """The entropy of labels with these log-probabilities [labels], which need not sum to one."""
    # of whole answers: what is left to all other texts is none of the choices
    told = torch.log_softmax(odds, -1)
    return -(told.exp() * told).sum(-1)


def entropies(backbone: Backbone, config: TrainConfig, rows: Sequence[Utterance]) -> Tensor:
    """Of each row the entropy of its labels [rows], with gradients where the caller keeps them."""
    assert isinstance(backbone, LabelBackbone)
    labels = [labels_of(config, one) for one in rows]
    return torch.stack([entropy_of(odds) for odds in backbone.label_odds(backbone.model, rows, labels)])


def need_odds(backbone: Backbone) -> None:
    """`MisfitError` for a kind of model that tells no likelihoods of labels."""
    if not isinstance(backbone, LabelBackbone):
        raise MisfitError(
            f"{backbone.kind.covers} do not tell how likely a label is, and entropy is of that",
            "learn from answers (--objective cross-entropy)",
        )
