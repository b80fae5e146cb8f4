"""Recordings to features to transcripts, greedily: what the digits example measures with."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
warnings.filterwarnings("ignore")

import numpy as np
import soundfile
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()

RATE = 16_000


@dataclass(frozen=True)
class Utterance:
    """One row of the manifest; `audio` is mono float32 at 16 kHz."""

    audio: np.ndarray
    text: str
    speaker: str
    split: str


def read_manifest(manifest: Path, *, speakers: Sequence[str], split: str) -> list[Utterance]:
    """The rows of `manifest` of these speakers and this split, audio read."""
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["speaker"] in speakers and row["split"] == split]
    if not rows:
        raise SystemExit(f"{manifest}: no {split} recordings of {', '.join(speakers)}")
    files: dict[str, np.ndarray] = {}
    utterances = []
    for row in rows:
        if row["path"] not in files:
            files[row["path"]], rate = soundfile.read(manifest.parent / row["path"], dtype="float32")
            assert rate == RATE, row["path"]
        start, end = (round(float(row[key]) * RATE) for key in ("start", "end"))
        utterances.append(Utterance(files[row["path"]][start:end], row["text"], row["speaker"], split))
    return utterances


@dataclass
class Recogniser:
    """Model, tokenizer and feature extractor, which together are one Whisper directory."""

    model: WhisperForConditionalGeneration
    tokenizer: WhisperTokenizerFast
    extractor: WhisperFeatureExtractor

    @classmethod
    def load(cls, directory: Path) -> Recogniser:
        return cls(
            WhisperForConditionalGeneration.from_pretrained(directory, dtype=torch.float32),
            WhisperTokenizerFast.from_pretrained(directory),
            WhisperFeatureExtractor.from_pretrained(directory),
        )

    def save(self, directory: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model.to(dtype).save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        self.extractor.save_pretrained(directory)
        self.model.to(torch.float32)

    def features(self, audio: Sequence[np.ndarray], window_s: int = 30) -> torch.Tensor:
        """Log-mel features [batch, mels, frames] of a window."""
        batch = self.extractor(list(audio), sampling_rate=RATE, return_tensors="pt", max_length=window_s * RATE)
        return batch.input_features


@torch.inference_mode()
def transcribe(recogniser: Recogniser, utterances: Sequence[Utterance], batch_size: int = 25) -> list[str]:
    """Greedy transcripts, without timestamps."""
    texts: list[str] = []
    for start in range(0, len(utterances), batch_size):
        batch = [u.audio for u in utterances[start : start + batch_size]]
        ids = recogniser.model.generate(
            input_features=recogniser.features(batch),
            language="en",
            task="transcribe",
            num_beams=1,
            do_sample=False,
            max_new_tokens=12,
        )
        texts += recogniser.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [text.strip() for text in texts]
