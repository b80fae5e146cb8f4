"""What training asks of a kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from chorus.data.utterance import Utterance
from chorus.train.config import Augment

if TYPE_CHECKING:
    from numpy.random import Generator

IGNORED = -100  # a label that has no loss


class Backbone(Protocol):
    """A loaded model with all that turns rows into batches and outputs into texts."""

    model: Any
    needs_audio: bool
    default_roles: tuple[str, ...]  # where adapters go unless told
    default_save_modules: tuple[str, ...]  # trained whole beside an adapter, unless told
    longest_s: float | None  # of audio that it hears
    limits: Any  # chorus.data.check.TextLimits

    def example(self, utterance: Utterance, rng: Generator | None, augment: Augment) -> dict[str, Any]:
        """One row as the model's inputs; `rng` is None where nothing may be changed."""
        ...

    def collate(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch of tensors; `rows` are the examples' numbers."""
        ...

    def window(self, model: Any, batch: dict[str, Any]) -> AbstractContextManager[None]:
        """What must hold around a forward pass of this batch."""
        ...

    def transcribe(self, model: Any, utterances: Sequence[Utterance], **settings: Any) -> list[str]:
        """Greedy transcripts of a few rows."""
        ...

    def save_side_files(self, directory: Path) -> None:
        """Tokenizer, processor and generation settings."""
        ...
