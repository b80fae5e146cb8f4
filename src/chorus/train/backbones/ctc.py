"""wav2vec2, MMS, HuBERT and their like with a CTC head."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from chorus.checkpoints.sidecar import VOCABULARIES
from chorus.data.audio import RATE
from chorus.data.limits import ctc_text, limits_from
from chorus.data.utterance import Utterance
from chorus.errors import CheckpointError, nearest
from chorus.train.backbones.shared import (
    evaluating,
    load_dtype,
    load_pretrained,
    load_side,
    nothing,
    pad_labels,
    row_numbers,
)
from chorus.train.config import Augment, TrainConfig
from chorus.train.examples import changed

if TYPE_CHECKING:
    from numpy.random import Generator


class Ctc:
    """The backbone (see protocol.py)."""

    needs_audio = True
    default_roles: tuple[str, ...] = ("encoder", "default", "language_model", "other")
    default_save_modules: tuple[str, ...] = ("lm_head",)

    def __init__(self, config: TrainConfig, device: str, texts: Sequence[str]) -> None:
        from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

        self.config = config
        self.extractor = load_side(AutoFeatureExtractor, config, "feature extractor")
        more: dict[str, Any] = {"ctc_zero_infinity": True}
        if config.model.language_adapter:  # MMS keeps an adapter and a head for each language
            more |= {"target_lang": config.model.language_adapter, "ignore_mismatched_sizes": True}
        if _has_vocabulary(config):
            self.tokenizer = load_side(AutoTokenizer, config, "tokenizer")
            if config.model.language_adapter:
                self._speak(config.model.language_adapter)
        else:  # a pretrained encoder: the letters of the training texts become its head
            self.tokenizer = letters_of(texts)
            more |= {"vocab_size": len(self.tokenizer), "pad_token_id": self.tokenizer.pad_token_id}
        self.model = load_pretrained(AutoModelForCTC, config, load_dtype(config, device), **more)
        if not config.model.freeze and hasattr(self.model, "freeze_feature_encoder"):
            self.model.freeze_feature_encoder()  # the convolutions, as the models' authors fine-tune them
        self.limits = limits_from(self.model.config, self.tokenizer)
        self.longest_s = self.limits.max_audio_s
        self.written = ctc_text(self.tokenizer)

    def _speak(self, language: str) -> None:
        """The letters of one of an MMS's languages."""
        try:
            self.tokenizer.set_target_lang(language)
        except ValueError:
            known = self.tokenizer.vocab if isinstance(next(iter(self.tokenizer.vocab.values())), dict) else ()
            raise CheckpointError(
                f'{self.config.model.base}: has no language "{language}"{nearest(language, known)}',
                "check model.language_adapter; MMS names languages by three letters",
            ) from None

    def example(self, utterance: Utterance, rng: Generator | None, augment: Augment) -> dict[str, Any]:
        audio = utterance.audio()
        if rng is not None and augment.changes_audio:
            audio = changed(audio, augment, rng)
        values = self.extractor(audio, sampling_rate=RATE, return_tensors="np")
        labels = self.tokenizer(self.written(utterance.row.text), add_special_tokens=False)["input_ids"]
        return {"values": values[self.extractor.model_input_names[0]][0], "labels": labels}

    def misfit(self, utterance: Utterance) -> str:
        """Why a row can have no alignment: a token needs a frame, and equal neighbours one more between them."""
        labels = self.tokenizer(self.written(utterance.row.text), add_special_tokens=False)["input_ids"]
        needed = len(labels) + sum(a == b for a, b in pairwise(labels))
        samples = torch.tensor([round(utterance.duration_s * RATE)])
        frames = int(self.model._get_feat_extract_output_lengths(samples)[0])
        return f"{needed} frames are needed, the audio has {frames}" if needed > frames else ""

    def collate(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        name = self.extractor.model_input_names[0]
        batch = self.extractor.pad(
            {name: [e["values"] for e in examples]}, padding=True, return_attention_mask=True, return_tensors="pt"
        )
        # models with group norm were trained without a mask: zeros are what they know as silence
        inputs = {name: batch[name]}
        if getattr(self.extractor, "return_attention_mask", False):
            inputs["attention_mask"] = batch["attention_mask"]
        return {**inputs, "labels": pad_labels([e["labels"] for e in examples]), "rows": row_numbers(examples)}

    def window(self, model: Any, batch: dict[str, Any]) -> AbstractContextManager[None]:
        return nothing()

    def transcribe(self, model: Any, utterances: Sequence[Utterance], **settings: Any) -> list[str]:
        """The best token of each frame, repeats and blanks taken out."""
        examples = [{**self.example(u, None, Augment()), "row": -1} for u in utterances]
        batch = self.collate(examples)
        device = next(model.parameters()).device
        inputs = {k: v.to(device) for k, v in batch.items() if k not in ("labels", "rows")}
        with evaluating(model):
            ids = model(**inputs).logits.argmax(-1)
        texts: list[str] = self.tokenizer.batch_decode(ids.cpu())
        return [t.strip() for t in texts]

    def save_side_files(self, directory: Path) -> None:
        self.tokenizer.save_pretrained(directory)
        self.extractor.save_pretrained(directory)


def _has_vocabulary(config: TrainConfig) -> bool:
    base = Path(config.model.base)
    return not base.is_dir() or any((base / name).exists() for name in VOCABULARIES)


def letters_of(texts: Sequence[str]) -> Any:
    """A CTC tokenizer with the letters of these texts."""
    from transformers import Wav2Vec2CTCTokenizer

    letters = sorted({c for text in texts for c in text} - {" "})
    tokens = ["<pad>", "<unk>", "|", *letters]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(
            str(path), pad_token="<pad>", unk_token="<unk>", word_delimiter_token="|", bos_token=None, eos_token=None  # noqa: S106
        )  # fmt: skip
