"""What training asks of a kind of model, whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from chorus.data.utterance import Utterance
from chorus.models.kind import Kind
from chorus.train.config import Augment, TrainConfig

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor
    from transformers import PreTrainedModel

    from chorus.models.batches import Batch
    from chorus.models.features import Samples
    from chorus.models.limits import Limits

IGNORED = -100  # a label that has no loss
ROWS = "rows"  # of a batch: which rows its examples are; not the model's


@dataclass
class Example:
    """One row as a model takes it.

    labels  token ids that are learnt
    prompt  token ids before them that have no loss
    audio   samples, or features [mels, columns]; None for texts alone
    columns of the features that hold speech, where the model is told
    zeros   whether zeros follow the speech in place of silence
    row     its number among the training rows; -1 outside of them
    draw    a random number of its own, for what a batch draws together
    """

    labels: list[int]
    prompt: list[int] = field(default_factory=list)
    audio: Samples | None = None
    columns: int = 0
    zeros: bool = False
    row: int = -1
    draw: int = 0


class Backbone(Protocol):
    """A loaded model with all that turns rows into batches and outputs into texts."""

    kind: Kind
    model: PreTrainedModel
    limits: Limits
    longest_s: float | None  # of audio that the model takes at once
    default_roles: tuple[str, ...]  # where adapters go unless told
    default_save_modules: tuple[str, ...]  # trained whole beside an adapter, unless told

    def warnings(self) -> list[str]:
        """What the configuration allows and will be regretted."""
        ...

    def misfit(self, utterance: Utterance) -> str:
        """Why this row can have no loss, beyond what `limits` says; empty where it can. `DataError` stops it all."""
        ...

    def example(self, utterance: Utterance, rng: Generator | None, augment: Augment) -> Example:
        """One row as the model's inputs; `rng` is None where nothing may be changed."""
        ...

    def collate(self, examples: Sequence[Example]) -> Batch:
        """A batch of tensors; under `ROWS` the examples' numbers."""
        ...

    def window(self, model: PreTrainedModel, batch: Batch) -> AbstractContextManager[None]:
        """What must hold around a forward pass of this batch."""
        ...

    def transcribe(
        self, model: PreTrainedModel, utterances: Sequence[Utterance], *, max_new_tokens: int | None = None,
        window_s: float | None = None, synced_gpus: bool = False,
    ) -> list[str]:  # fmt: skip
        """Greedy hypotheses of a few rows; None leaves the kind's own."""
        ...

    def save_side_files(self, directory: Path) -> None:
        """Tokenizer, processor and generation settings."""
        ...


@runtime_checkable
class LabelBackbone(Protocol):
    """What a backbone has besides, whose model tells how likely each of some answers is."""

    def label_odds(
        self, model: PreTrainedModel, utterances: Sequence[Utterance], labels: Sequence[Sequence[str]]
    ) -> list[Tensor]:
        """Of each row the log-probability of each of its labels as the whole answer [labels], with gradients."""
        ...


OpenBackbone = Callable[[Kind, TrainConfig, str, Sequence[str]], Backbone]  # the last are the training texts
