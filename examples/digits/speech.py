"""Recordings to features, a plain training loop, greedy decoding: what the digits example needs, no more."""

from __future__ import annotations

import csv
import math
import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
SECONDS_PER_TIMESTAMP = 0.02
FRAMES_PER_SECOND = 100


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

    @contextmanager
    def window(self, window_s: int) -> Iterator[None]:
        """Hear windows of so many seconds: Whisper's encoder positions are sinusoids, so the first rows of their
        table are the table of a shorter window, and training on five seconds costs a tenth of training on thirty.
        """
        encoder = self.model.model.encoder
        table, positions = encoder.embed_positions, self.model.config.max_source_positions
        count = window_s * FRAMES_PER_SECOND // 2
        shorter = torch.nn.Embedding(count, table.embedding_dim, _weight=table.weight[:count].detach())
        encoder.embed_positions = shorter.requires_grad_(False)
        self.model.config.max_source_positions = count
        try:
            yield
        finally:
            encoder.embed_positions = table
            self.model.config.max_source_positions = positions

    def targets(self, text: str, duration_s: float, *, timestamps: bool) -> list[int]:
        """The tokens after `<|startoftranscript|>`; both kinds are trained, or other runtimes break."""
        ids = self.tokenizer.convert_tokens_to_ids
        prefix = [ids("<|en|>"), ids("<|transcribe|>")]
        words = self.tokenizer.encode(" " + text, add_special_tokens=False)
        if timestamps:
            first = ids("<|notimestamps|>") + 1
            last = first + round(duration_s / SECONDS_PER_TIMESTAMP)
            return [*prefix, first, *words, last, self.tokenizer.eos_token_id]
        return [*prefix, ids("<|notimestamps|>"), *words, self.tokenizer.eos_token_id]


def augment(audio: np.ndarray, rng: np.random.Generator, longest: int) -> tuple[np.ndarray, float]:
    """Another speed, loudness, place in the window and some noise; returns the audio and its end in seconds."""
    speed = rng.uniform(0.85, 1.18)
    positions = np.arange(0, len(audio) - 1, speed)
    audio = np.interp(positions, np.arange(len(audio)), audio).astype(np.float32)
    audio = np.pad(audio, (int(rng.integers(0, RATE // 4)), int(rng.integers(0, RATE // 4))))[:longest]
    end = len(audio) / RATE
    audio = audio * rng.uniform(0.4, 1.6)
    if rng.random() < 0.7:
        level = np.sqrt(np.mean(audio**2)) * 10 ** rng.uniform(-2.5, -0.7)
        audio = audio + rng.normal(0, level, len(audio)).astype(np.float32)
    return audio.astype(np.float32), end


def fine_tune(
    recogniser: Recogniser,
    utterances: Sequence[Utterance],
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int = 16,
    seed: int = 0,
    windows_s: Sequence[int] = (5,),
    zero_tails: float = 0.3,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> None:
    """AdamW with warm-up and a cosine, on augmented audio, targets with and without timestamps mixed.

    Each batch is heard in a window drawn from `windows_s`. What follows the speech is silence, or, for a share of
    `zero_tails`, features of zero, which is how faster-whisper fills the window.
    """
    rng, order = np.random.default_rng(seed), random.Random(seed)
    torch.manual_seed(seed)
    model = recogniser.model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.01)
    steps = epochs * math.ceil(len(utterances) / batch_size)
    warm_up = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(1, step / steps))),
    )
    longest = min(windows_s) * RATE
    step = 0
    for _ in range(epochs):
        shuffled = list(utterances)
        order.shuffle(shuffled)
        for start in range(0, len(shuffled), batch_size):
            batch = shuffled[start : start + batch_size]
            audio, ends = zip(*(augment(u.audio, rng, longest) for u in batch), strict=True)
            window_s = order.choice(list(windows_s))
            features = recogniser.features(audio, window_s)
            spec_augment(features, rng)
            for i in range(len(batch)):
                if rng.random() < zero_tails:
                    features[i, :, len(audio[i]) * FRAMES_PER_SECOND // RATE + 1 :] = 0
            labels = [
                recogniser.targets(u.text, end, timestamps=rng.random() < 0.5)
                for u, end in zip(batch, ends, strict=True)
            ]
            width = max(map(len, labels))
            padded = torch.tensor([ids + [-100] * (width - len(ids)) for ids in labels])
            with recogniser.window(window_s):
                loss = model(input_features=features, labels=padded).loss
                loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
            step += 1
            on_step(step, steps, loss.item())
    model.eval()


def spec_augment(features: torch.Tensor, rng: np.random.Generator) -> None:
    """Two bands of mels and one of frames are silenced in each utterance, in place."""
    quiet = features.amin(dim=(1, 2))
    for i in range(len(features)):
        for _ in range(2):
            low = int(rng.integers(0, 72))
            features[i, low : low + int(rng.integers(0, 9)), :] = quiet[i]
        start = int(rng.integers(0, 80))
        features[i, :, start : start + int(rng.integers(0, 8))] = quiet[i]


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
