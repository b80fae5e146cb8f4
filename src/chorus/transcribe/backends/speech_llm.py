"""Qwen2-Audio and the thinker of Qwen2.5-Omni through transformers: a question about the audio, and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from chorus.architectures.qwen_audio import audio_question
from chorus.cache import Cache
from chorus.data.features import FRAMES_PER_SECOND, MARGIN, LogMel
from chorus.data.manifest import Row
from chorus.lazy import lazy
from chorus.tasks.registry import TASKS
from chorus.transcribe.backends.loading import load_model, load_side, put_weights
from chorus.transcribe.backends.protocol import Hypothesis, Sound
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import System

if TYPE_CHECKING:
    from chorus.checkpoints.lazy_tensor import LazyTensor

torch = lazy("torch")
transformers = lazy("transformers")


class SpeechLlm:
    """The backend (see protocol.py). `decoding.prompt` (or a column `prompt`) is the question."""

    long_form = False

    def __init__(self, system: System, decoding: Decoding, device: str, cls: str) -> None:
        self.decoding, self.device = decoding, device
        self.model = load_model(getattr(transformers, cls), system, decoding, device)
        self.tokenizer = load_side(transformers.AutoTokenizer, system, "tokenizer")
        extractor = load_side(transformers.WhisperFeatureExtractor, system, "feature extractor")
        self.features = LogMel(extractor, Cache())
        positions = int(self.model.config.audio_config.max_source_positions)
        self.columns = min(self.features.columns, positions * 2)
        self.longest_s: float | None = self.columns / FRAMES_PER_SECOND
        self.end = int(self.tokenizer.convert_tokens_to_ids("<|im_end|>"))
        self.padding = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.end
        self.question = decoding.prompt or TASKS.get(decoding.task).instruction
        self.facts: dict[str, str] = {}  # versions of transformers and torch are told of every result

    def replace(self, tensors: Mapping[str, LazyTensor]) -> None:
        """As the protocol says."""
        put_weights(self.model, tensors)

    def sort_key(self, seconds: float) -> tuple[float, float]:
        return (0.0, -seconds)

    def asked(self, sound: Sound, columns: int) -> list[int]:
        """Everything before the answer."""
        text = audio_question(sound.row.get("prompt") or self.question, columns)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def check(self, rows: Sequence[Row]) -> None:
        """Any row can be decoded."""

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        features = [self.features.cached(s.key, lambda s=s: s.audio) for s in sounds]
        columns = [max(4, min(f.shape[1] - MARGIN, self.columns)) for f in features]
        asked = [self.asked(s, n) for s, n in zip(sounds, columns, strict=True)]
        width = max(map(len, asked))
        inputs = {
            "input_ids": torch.tensor([[self.padding] * (width - len(ids)) + ids for ids in asked]),
            "attention_mask": torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in asked]),
            "input_features": self.features.window(features, self.columns).to(self.model.dtype),
            "feature_attention_mask": (torch.arange(self.columns)[None] < torch.tensor(columns)[:, None]).long(),
        }
        with torch.inference_mode():
            ids = self.model.generate(
                **{k: v.to(self.device) for k, v in inputs.items()}, do_sample=False, num_beams=self.decoding.beam,
                eos_token_id=self.end, pad_token_id=self.padding, max_new_tokens=self.decoding.max_new_tokens,
            )  # fmt: skip
        texts = self.tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)
        return [Hypothesis(text.strip()) for text in texts]

    def close(self) -> None:
        del self.model
