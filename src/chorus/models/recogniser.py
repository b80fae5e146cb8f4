"""What transcribes with a loaded model, in training and in evaluation alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from chorus.models.times import Word

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from chorus.cache import Cache
    from chorus.models.batches import Batch
    from chorus.models.features import Samples
    from chorus.models.label_scores import Scores
    from chorus.models.parts import Parts


@dataclass(frozen=True)
class Speech:
    """An utterance as a model takes it; `key` is what the audio is by content, `prompt` what is asked about it.

    `language` is that of a transcript, for models that are told it.
    """

    audio: Callable[[], Samples]
    key: Callable[[], str]
    prompt: str = ""
    language: str = ""


@dataclass(frozen=True)
class Transcript:
    """What a model wrote; `cut` where it stopped at the limit of new tokens, before its end.

    `words` say when, where they were asked for.
    """

    text: str
    cut: bool = False
    words: tuple[Word, ...] = ()


class Recogniser(Protocol):
    """A loaded model of one kind with what turns sounds into its inputs, and its outputs into texts."""

    parts: Parts
    longest_s: float | None  # of audio that it takes at once; None: any

    @property
    def batches(self) -> bool:
        """Whether sounds of several lengths may share a batch, with the texts that each has alone."""
        ...

    def inputs(self, speech: Sequence[Speech]) -> Batch:
        """What the model takes, on the CPU."""
        ...

    def texts(
        self, model: PreTrainedModel, inputs: Batch, *, beam: int = 1, max_new_tokens: int | None = None,
        synced_gpus: bool = False,
    ) -> list[Transcript]:  # fmt: skip
        """Hypotheses. `model` is the loaded one, or a wrapper around it; its mode and gradients are the caller's.

        `max_new_tokens`: None for as many as the model itself can write.
        `synced_gpus`: every process generates equally long, as sharded models need.
        """
        ...


@runtime_checkable
class WordTimer(Protocol):
    """What a recogniser has besides, where it knows when a word was said."""

    def with_words(
        self, model: PreTrainedModel, inputs: Batch, *, seconds: Sequence[float], synced_gpus: bool = False
    ) -> list[Transcript]:
        """As `texts` on inputs that are so long, with words; `UsageError` where this model does not tell them."""
        ...


@runtime_checkable
class LabelScorer(Protocol):
    """What a recogniser has besides, where it tells how likely each of some answers is."""

    def label_scores(self, model: PreTrainedModel, inputs: Batch, labels: Sequence[Sequence[str]]) -> list[Scores]:
        """Of each row of inputs its labels, each as the whole answer; `UsageError` where two have the same tokens."""
        ...


OpenRecogniser = Callable[["Parts", "Cache | None"], Recogniser]
