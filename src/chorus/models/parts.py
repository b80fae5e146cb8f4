"""A loaded model with what stands between it and its users."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, SequenceFeatureExtractor


TEKKEN = "tekken.json"


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
        # Mistral's own readers take no other form; transformers has made tokenizer.json of it, or found that beside it
        places = (getattr(self.tokenizer, "vocab_file", None), Path(str(self.tokenizer.name_or_path)) / TEKKEN)
        source = next((one for one in map(Path, filter(None, places)) if one.name == TEKKEN and one.is_file()), None)
        if source is not None and not (directory / TEKKEN).exists():
            shutil.copyfile(source, directory / TEKKEN)
        if self.extractor is not None:
            self.extractor.save_pretrained(directory)
        if self.model.can_generate():
            self.model.generation_config.save_pretrained(directory)
