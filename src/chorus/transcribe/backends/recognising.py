"""Any kind of model that has a recogniser: batches of sounds in, hypotheses out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from chorus.cache import Cache
from chorus.data.manifest import Row
from chorus.errors import UsageError
from chorus.lazy import lazy
from chorus.models.kind import Kind
from chorus.models.loading import put_weights
from chorus.models.parts import Parts
from chorus.models.recogniser import LabelScorer, Recogniser, Speech, Transcript, WordTimer
from chorus.models.texts import plain_ids
from chorus.models.times import Segment, in_ms
from chorus.tasks.asr import ASR
from chorus.tasks.registry import TASKS
from chorus.transcribe.backends.hearing import asked_labels, by_form
from chorus.transcribe.backends.protocol import PROMPT, Hypothesis, Sound
from chorus.transcribe.decoding import BY_COLUMN, DETECT, Decoding

if TYPE_CHECKING:
    import torch

    from chorus.checkpoints.lazy_tensor import LazyTensor
    from chorus.models.label_scores import Scores
else:
    torch = lazy("torch")


class Recognising:
    """The backend (see protocol.py). What a model is asked is the row's column `prompt`, the decoding's, the task's."""

    long_form = False

    def __init__(self, kind: Kind, parts: Parts, decoding: Decoding) -> None:
        assert kind.recogniser is not None, f"{kind.name} has neither a recogniser nor a decoder"
        self.kind, self.parts, self.decoding = kind, parts, decoding
        self.recogniser = kind.recogniser(parts, Cache())
        self.longest_s = self.recogniser.longest_s
        self.task = TASKS.get(decoding.task)
        self.timer = _timer(kind, self.recogniser) if decoding.detail == "words" else None
        self.facts: dict[str, str] = {}  # versions of transformers and torch are told of every result

    def replace(self, tensors: Mapping[str, LazyTensor]) -> None:
        """As the protocol says."""
        put_weights(self.parts.model, tensors)

    def under(self, decoding: Decoding) -> Recognising:
        """As the protocol says."""
        return Recognising(self.kind, self.parts, decoding)

    def sort_key(self, seconds: float) -> tuple[float, float]:
        return (0.0, -seconds)

    def check(self, rows: Sequence[Row]) -> None:
        """Any row can be decoded."""

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        found: dict[int, Hypothesis] = {}
        for form, places in by_form(self.decoding, [sound.row for sound in sounds], self._tokens).items():
            for members in [places] if self.recogniser.batches else [[one] for one in places]:
                decoded = self._together([sounds[i] for i in members], form.most)
                found |= dict(zip(members, decoded, strict=True))
        return [found[i] for i in range(len(sounds))]

    def _tokens(self, label: str) -> list[int]:
        return plain_ids(self.parts.tokenizer, label)

    def _together(self, sounds: Sequence[Sound], most: int | None) -> list[Hypothesis]:
        speech = [self._asked(sound) for sound in sounds]
        labels = asked_labels(self.decoding, [sound.row for sound in sounds])
        scores: list[Scores] = [{} for _ in sounds]
        with torch.inference_mode():  # the recogniser leaves gradients to its caller, as training measures with it too
            inputs = self.recogniser.inputs(speech)
            if self.timer is not None:
                found = self.timer.with_words(self.parts.model, inputs, seconds=[s.seconds for s in sounds])
            else:
                found = self.recogniser.texts(self.parts.model, inputs, beam=self.decoding.beam, max_new_tokens=most)
            if labels and self.decoding.labels == "both" and isinstance(self.recogniser, LabelScorer):
                scores = self.recogniser.label_scores(self.parts.model, inputs, labels)
        return [
            Hypothesis(one.text, cut=one.cut, segments=self._segments(sound, one), scores=told)
            for sound, one, told in zip(sounds, found, scores, strict=True)
        ]

    def _segments(self, sound: Sound, found: Transcript) -> tuple[Segment, ...]:
        """The sound as one segment: what is longer was cut at pauses before."""
        if self.decoding.detail == "text" or not found.text:
            return ()
        return (Segment(0.0, in_ms(sound.seconds), found.text, found.words),)

    def _asked(self, sound: Sound) -> Speech:
        written, row, language = sound.row.get(PROMPT) or self.decoding.prompt, sound.row, ""
        if self.task.name == ASR.name and getattr(self.recogniser, "transcribes", False):
            # asked nothing it does what it was made for, in the language that it is told, or finds
            language = {BY_COLUMN: row.language, DETECT: ""}.get(self.decoding.language, self.decoding.language)
        elif not written:
            written = self.task.instruction(row)
        return Speech(lambda: sound.audio, lambda: sound.key, written or "", language)

    def close(self) -> None:
        del self.parts, self.recogniser


def _timer(kind: Kind, recogniser: Recogniser) -> WordTimer:
    if not isinstance(recogniser, WordTimer):
        raise UsageError(f"no word timestamps: {kind.covers} do not tell when a word was said", "leave out --words")
    return recogniser
