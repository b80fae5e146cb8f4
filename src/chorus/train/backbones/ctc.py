"""wav2vec2, MMS, HuBERT and their like with a CTC head."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from chorus.data.utterance import Utterance
from chorus.errors import CheckpointError, nearest
from chorus.models.ctc import CtcRecogniser, written_by
from chorus.models.kind import Kind
from chorus.models.loading import has_vocabulary, load_parts, load_tokenizer
from chorus.models.texts import plain_ids
from chorus.train.backbones.protocol import ROWS, Example
from chorus.train.backbones.shared import load_dtype, nothing, origin_of, pad_labels, recognised, row_numbers
from chorus.train.config import Augment, TrainConfig
from chorus.train.examples import changed

if TYPE_CHECKING:
    from numpy.random import Generator
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Wav2Vec2CTCTokenizer

    from chorus.models.batches import Batch

DELIMITER = "|"  # between words; in a text it would be a second space


class CtcBackbone:
    """The backbone (see protocol.py)."""

    default_roles: tuple[str, ...] = ("encoder", "default", "language_model", "other")
    default_save_modules: tuple[str, ...] = ("lm_head",)

    def __init__(self, kind: Kind, config: TrainConfig, device: str, texts: Sequence[str]) -> None:
        self.kind = kind
        origin, language = origin_of(config), config.model.language_adapter
        # a row without an alignment has an infinite loss; misfit() finds them, but augmentation can still shorten one
        more: dict[str, object] = {"ctc_zero_infinity": True}
        fresh = ["lm_head"]  # pretrained encoders have none, with a vocabulary beside them or without
        if language:  # MMS keeps an adapter and a head for each language, in a file of its own
            more |= {"target_lang": language, "ignore_mismatched_sizes": True}
            fresh.append("adapter")
        if has_vocabulary(config.model.base):
            tokenizer = load_tokenizer(kind, origin)
            if language:
                _speak(tokenizer, language, config.model.base)
        else:  # a pretrained encoder: the letters of the training texts become its head
            tokenizer = letters_of(texts)
            more |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        dtype = load_dtype(config, device)
        self.parts = load_parts(kind, origin, dtype, tokenizer=tokenizer, more=more, fresh=fresh)
        self.model, self.tokenizer = self.parts.model, tokenizer
        if not config.model.freeze and hasattr(self.model, "freeze_feature_encoder"):
            self.model.freeze_feature_encoder()  # the convolutions, as the models' authors fine-tune them
        self.recogniser = CtcRecogniser(self.parts)
        self.limits = kind.limits(self.model.config.to_dict(), tokenizer)
        self.longest_s = self.limits.max_audio_s
        self.written = written_by(tokenizer)

    def warnings(self) -> list[str]:
        return []

    def labels(self, text: str) -> list[int]:
        """The tokens of a text, in the case that the vocabulary has."""
        return plain_ids(self.tokenizer, self.written(text))

    def misfit(self, utterance: Utterance) -> str:
        """A token needs a frame, and equal neighbours one more between them."""
        labels = self.labels(utterance.row.text)
        needed = len(labels) + sum(a == b for a, b in pairwise(labels))
        frames = int(self.recogniser.frames(torch.tensor([self.recogniser.steps(utterance.duration_s)]))[0])
        return f"{needed} frames are needed, the audio has {frames}" if needed > frames else ""

    def example(self, utterance: Utterance, rng: Generator | None, augment: Augment) -> Example:
        audio = utterance.audio()
        if rng is not None and augment.changes_audio:
            audio = changed(audio, augment, rng)
        return Example(self.labels(utterance.row.text), audio=self.recogniser.values(audio))

    def collate(self, examples: Sequence[Example]) -> Batch:
        inputs = self.recogniser.padded([one.audio for one in examples if one.audio is not None])
        return {**inputs, "labels": pad_labels([one.labels for one in examples]), ROWS: row_numbers(examples)}

    def window(self, model: PreTrainedModel, batch: Batch) -> AbstractContextManager[None]:
        return nothing()

    def transcribe(
        self, model: PreTrainedModel, utterances: Sequence[Utterance], *, max_new_tokens: int | None = None,
        window_s: float | None = None, synced_gpus: bool = False,
    ) -> list[str]:  # fmt: skip
        return recognised(
            self.recogniser, model, utterances, max_new_tokens=max_new_tokens, synced_gpus=synced_gpus
        )  # fmt: skip

    def save_side_files(self, directory: Path) -> None:
        self.parts.save_side_files(directory)


def _speak(tokenizer: PreTrainedTokenizerBase, language: str, base: str) -> None:
    """The letters of one of an MMS's languages."""
    try:
        tokenizer.set_target_lang(language)
    except ValueError:
        known = tokenizer.vocab if isinstance(next(iter(tokenizer.vocab.values())), dict) else ()
        raise CheckpointError(
            f'{base}: has no language "{language}"{nearest(language, known)}',
            "check model.language_adapter; MMS names languages by three letters",
        ) from None


def letters_of(texts: Sequence[str]) -> Wav2Vec2CTCTokenizer:
    """A CTC tokenizer with the letters of these texts."""
    from transformers import Wav2Vec2CTCTokenizer

    # sorted, so that the head is the same whatever the order of the rows
    letters = sorted({c for text in texts for c in text} - {" ", DELIMITER})
    tokens = ["<pad>", "<unk>", DELIMITER, *letters]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(
            str(path), pad_token="<pad>", unk_token="<unk>", word_delimiter_token=DELIMITER,  # noqa: S106 - no password
            bos_token=None, eos_token=None,
        )  # fmt: skip
