"""CTC encoders: wav2vec2, HuBERT, WavLM, MMS and their like. The best token of each frame makes the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import TYPE_CHECKING

from chorus.architectures.classes import architecture
from chorus.cache import Cache
from chorus.errors import UsageError
from chorus.lazy import lazy
from chorus.models.batches import as_taken
from chorus.models.features import FRAMES_PER_SECOND, RATE
from chorus.models.finite import need_finite
from chorus.models.kind import SPEECH_TO_TEXT, Kind
from chorus.models.limits import Limits
from chorus.models.parts import Parts
from chorus.models.recogniser import Speech, Transcript
from chorus.models.times import Word, in_ms
from chorus.plain import JsonMap

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from chorus.models.batches import Batch
    from chorus.models.features import Samples
else:
    torch = lazy("torch")

LONGEST_S = 60.0  # attention over minutes of audio takes all memory; nothing in the model forbids it


def recognises(config: JsonMap) -> bool:
    """A CTC head, or a pretrained encoder that can be given one."""
    return architecture(config).endswith("ForCTC") or "ctc_loss_reduction" in config


def model_class(config: JsonMap) -> str:
    """The class itself where it is named: the automatic one cannot load from tensors."""
    name = architecture(config)
    return name if name.endswith("ForCTC") else "AutoModelForCTC"


def limits(config: JsonMap, tokenizer: PreTrainedTokenizerBase) -> Limits:
    """The letters, and as much audio as memory takes."""
    return Limits(tokenizer, max_audio_s=LONGEST_S, bare=written_by(tokenizer))


def written_by(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], str]:
    """How a text is written for a CTC tokenizer: in the case that its vocabulary has."""
    letters = {token for token in tokenizer.get_vocab() if len(token) == 1 and token.isalpha()}
    if letters and not any(letter.islower() for letter in letters) and any(letter.isupper() for letter in letters):
        return str.upper
    if letters and not any(letter.isupper() for letter in letters):
        return str.lower
    return str


class CtcRecogniser:
    """The recogniser (see recogniser.py)."""

    longest_s: float | None = LONGEST_S

    def __init__(self, parts: Parts, cache: Cache | None = None) -> None:
        assert parts.extractor is not None
        self.parts, self.extractor = parts, parts.extractor
        self.input_name = str(self.extractor.model_input_names[0])
        # models with group norm were trained without a mask: zeros are what they know as silence
        self.masks = bool(getattr(self.extractor, "return_attention_mask", False))

    @property
    def batches(self) -> bool:
        """Group norm runs over time, padding and all: such a model takes one sound at a time."""
        return self.masks and getattr(self.parts.model.config, "feat_extract_norm", "layer") == "layer"

    def values(self, audio: Samples) -> Samples:
        """One recording as the model takes it: samples, or [frames, features]."""
        found: Samples = self.extractor(audio, sampling_rate=RATE, return_tensors="np")[self.input_name][0]
        return found

    def padded(self, values: Sequence[Samples]) -> Batch:
        """Recordings as one batch."""
        batch = self.extractor.pad(
            {self.input_name: list(values)}, padding=True, return_attention_mask=True, return_tensors="pt"
        )
        names = (self.input_name, "attention_mask") if self.masks else (self.input_name,)
        return {name: batch[name] for name in names}

    def steps(self, seconds: float) -> int:
        """How many samples so many seconds are, or frames of features, of which an extractor may stack some."""
        if self.input_name == "input_values":
            return round(seconds * RATE)
        return round(seconds * FRAMES_PER_SECOND / getattr(self.extractor, "stride", 1))

    def frames(self, steps: torch.Tensor) -> torch.Tensor:
        """How many frames the model makes of so many samples (or frames of features)."""
        found: torch.Tensor = self.parts.model._get_feat_extract_output_lengths(steps)
        return found

    def inputs(self, speech: Sequence[Speech]) -> Batch:
        return self.padded([self.values(one.audio()) for one in speech])

    def texts(
        self, model: PreTrainedModel, inputs: Batch, *, beam: int = 1, max_new_tokens: int | None = None,
        synced_gpus: bool = False,
    ) -> list[Transcript]:  # fmt: skip
        """The best token of each frame, repeats and blanks taken out; frames of the padding say nothing."""
        return [Transcript(str(text).strip()) for text in self.parts.tokenizer.batch_decode(self._best(model, inputs))]

    def with_words(
        self, model: PreTrainedModel, inputs: Batch, *, seconds: Sequence[float], synced_gpus: bool = False
    ) -> list[Transcript]:  # fmt: skip
        """As `texts`; a word lasts from the first frame of its first letter to the last frame of its last."""
        tokenizer = self.parts.tokenizer
        if "output_word_offsets" not in signature(tokenizer.batch_decode).parameters:
            raise UsageError(
                f"no word timestamps: {type(tokenizer).__name__} does not tell where words are", "leave out --words"
            )
        ids = self._best(model, inputs)
        made = tokenizer.batch_decode(ids, output_word_offsets=True)
        found = []
        for text, offsets, row, length_s in zip(made.text, made.word_offsets, ids, seconds, strict=True):
            # not the stride of the convolutions: their edges and the rounding would add up over a minute
            frame_s = length_s / max(1, len(row))
            words = tuple(
                Word(in_ms(o["start_offset"] * frame_s), in_ms(o["end_offset"] * frame_s), f" {o['word']}")
                for o in offsets if o["word"]
            )  # fmt: skip
            found.append(Transcript(str(text).strip(), words=words))
        return found

    def _best(self, model: PreTrainedModel, inputs: Batch) -> Sequence[torch.Tensor]:
        """The best token of each frame of each sound."""
        # no beam: without a language model over letters the best path is all but the best text
        logits = model(**as_taken(inputs, model)).logits
        need_finite(logits.amax(-1))
        ids: Sequence[torch.Tensor] = logits.argmax(-1).cpu()
        if self.masks:
            lengths = self.frames(inputs["attention_mask"].sum(-1)).tolist()
            ids = [row[:n] for row, n in zip(ids, lengths, strict=True)]
        return ids


KIND = Kind(
    name="ctc",
    covers="wav2vec2-like CTC models",
    recognises=recognises,
    model_class=model_class,
    limits=limits,
    pipeline_tag=SPEECH_TO_TEXT,
    recogniser=CtcRecogniser,
    backbone="chorus.train.backbones.ctc:CtcBackbone",
)
