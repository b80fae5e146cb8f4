"""A loaded model with what stands between it and its users."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, SequenceFeatureExtractor


@dataclass
class Parts:
    """Model, tokenizer and feature extractor; a model of texts has no extractor. `label` is what messages call it."""

    label: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    extractor: SequenceFeatureExtractor | None = None

    def save(self, directory: Path) -> None:
        """The whole as a model's directory."""
        self.model.save_pretrained(directory)
        self.save_side_files(directory)

    def save_side_files(self, directory: Path) -> None:
        """Tokenizer, extractor, and the generation settings of a model that generates."""
        self.tokenizer.save_pretrained(directory)
        if self.extractor is not None:
            self.extractor.save_pretrained(directory)
        if self.model.can_generate():
            self.model.generation_config.save_pretrained(directory)
