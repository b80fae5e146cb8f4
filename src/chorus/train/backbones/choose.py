"""From a model's config to the backbone that trains it: its kind says which."""

from __future__ import annotations

from collections.abc import Sequence

from chorus.models.kind import named_class
from chorus.models.loading import kind_at, read_config
from chorus.models.registry import kind_of
from chorus.train.backbones.protocol import Backbone, OpenBackbone
from chorus.train.backbones.shared import origin_of
from chorus.train.config import TrainConfig


def load_backbone(config: TrainConfig, device: str, *, texts: Sequence[str] = ()) -> Backbone:
    """Load the base; `texts` give a pretrained CTC encoder its letters. `CheckpointError` where it cannot."""
    kind = kind_at(origin_of(config), "trained")
    opened: OpenBackbone = named_class(kind.backbone)
    return opened(kind, config, device, texts)


def takes_audio(config: TrainConfig) -> bool:
    """Whether the base takes recordings, before it is loaded."""
    kind = kind_of(read_config(origin_of(config)))
    return kind is None or kind.takes_audio
