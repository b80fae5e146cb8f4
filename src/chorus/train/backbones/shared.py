"""What several backbones need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from chorus.cache import Cache
from chorus.data.manifest import Row
from chorus.data.utterance import Utterance
from chorus.models.batches import as_taken, pad
from chorus.models.loading import Origin
from chorus.models.recogniser import Recogniser, Speech
from chorus.train.backbones.protocol import IGNORED, ROWS, Backbone, Example
from chorus.train.config import TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from chorus.models.batches import Batch


def origin_of(config: TrainConfig) -> Origin:
    """Where the base is loaded from."""
    return Origin(config.model.base, config.model.revision)


def cache_of(config: TrainConfig) -> Cache | None:
    """Where features are kept."""
    return Cache() if config.data.features_cache else None


def load_dtype(config: TrainConfig, device: str) -> str:
    """Weights are trained in float32 unless told; a frozen base under an adapter may be kept smaller on a GPU."""
    if config.model.dtype != "auto":
        return config.model.dtype
    # updates of a full fine-tune are smaller than bfloat16 can tell apart
    adapter = config.adapter is not None or config.model.adapter
    return "bfloat16" if adapter and device.startswith(("cuda", "xpu")) else "float32"


def pad_labels(labels: Sequence[Sequence[int]]) -> torch.Tensor:
    """Labels as one tensor; what is added has no loss."""
    return pad(labels, IGNORED)


def after_prompts(examples: Sequence[Example], padding: int) -> dict[str, torch.Tensor]:
    """Prompts and what follows them as one sequence each, of which the prompts have no loss."""
    ids = [[*one.prompt, *one.labels] for one in examples]
    return {
        "input_ids": pad(ids, padding),
        "attention_mask": pad([[1] * len(one) for one in ids], 0),
        "labels": pad_labels([[*[IGNORED] * len(one.prompt), *one.labels] for one in examples]),
    }


def row_numbers(examples: Sequence[Example]) -> torch.Tensor:
    """Which rows a batch holds."""
    return torch.tensor([one.row for one in examples])


def batch_of(backbone: Backbone, examples: Sequence[Example]) -> Batch:
    """Examples as the loaded model takes them."""
    batch = backbone.collate(examples)
    batch.pop(ROWS)  # for messages of a training; a model would refuse them
    return as_taken(batch, backbone.model)


def loss_of(backbone: Backbone, batch: Batch) -> torch.Tensor:
    """The model's own loss: cross-entropy on the labels (CTC's where it has that)."""
    with backbone.window(backbone.model, batch):
        found: torch.Tensor = backbone.model(**batch).loss
    return found


def recognised(
    recogniser: Recogniser, model: PreTrainedModel, utterances: Sequence[Utterance], *,
    asked: Callable[[Row], str] = lambda row: "", language: Callable[[Row], str | None] = lambda row: "",
    max_new_tokens: int | None, synced_gpus: bool,
) -> list[str]:  # fmt: skip
    """What a recogniser makes of rows, together or one by one as evaluation decodes them too.

    `asked` gives what a model that is asked in words is asked about a row, `language` that of its transcript.
    """
    speech = [Speech(u.audio, u.key, asked(u.row), language(u.row) or "") for u in utterances]
    parts = [speech] if recogniser.batches else [[one] for one in speech]
    texts: list[str] = []
    with evaluating(model):
        for part in parts:
            found = recogniser.texts(
                model, recogniser.inputs(part), max_new_tokens=max_new_tokens, synced_gpus=synced_gpus
            )
            texts += [one.text for one in found]
    return texts


@contextmanager
def nothing() -> Iterator[None]:
    """No more than the model itself."""
    yield


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Without dropout and gradients, and back."""
    was = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was)
