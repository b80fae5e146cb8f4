"""faster-whisper (CTranslate2): a converted directory, or a Whisper that is converted into the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from chorus import cache
from chorus.data.manifest import Row
from chorus.errors import CheckpointError, MissingExtraError, UsageError
from chorus.export.api import refuse
from chorus.export.protocol import ExportOptions
from chorus.export.registry import EXPORTERS
from chorus.models.languages import known_language
from chorus.models.times import Segment, Word, in_ms
from chorus.models.whisper import task_token
from chorus.runtime import device_parts
from chorus.transcribe.backends.converting import in_cache, model_of
from chorus.transcribe.backends.isolated import Isolated
from chorus.transcribe.backends.protocol import Backend, Hypothesis, Sound
from chorus.transcribe.decoding import BY_COLUMN, DETECT, Decoding
from chorus.transcribe.systems import CONVERTED, GGML, System

if TYPE_CHECKING:
    from chorus.checkpoints.lazy_tensor import LazyTensor

POSITIONS = 448  # of every Whisper's decoder
TYPE = "float32"


def open_backend(system: System, decoding: Decoding, device: str) -> Backend:
    """Convert if need be, and load in a process of its own."""
    if find_spec("faster_whisper") is None:
        raise MissingExtraError("evaluate", "the faster-whisper backend")
    if system.kind == GGML:
        raise UsageError(f"{system.label} is converted for whisper.cpp", "use --backend whisper.cpp")
    directory = system.directory if system.kind == "converted" else convert(system)
    settings = {"directory": str(directory), "device": device, "decoding": decoding.model_dump(mode="json")}
    return Isolated(f"{__name__}:FasterWhisper", settings)


def convert(system: System) -> Path:
    """The system as `chorus export --to ctranslate2 --type float32` writes it, kept in the cache by content.

    float32, as it is cast when it is loaded.
    """

    def make(place: Path) -> None:
        model, exporter, options = model_of(system), EXPORTERS.get("ctranslate2"), ExportOptions()
        refuse("faster-whisper", model, exporter.check(model, [TYPE], options))
        exporter.write(model, {TYPE: place}, options, lambda done, total: None)

    return in_cache(cache.CONVERTED, cache.cache_key(ctranslate2=system.identity), CONVERTED, make)


class SpokenWord(Protocol):
    """A word as faster-whisper has it."""

    start: float
    end: float
    word: str
    probability: float


class SpokenSegment(Protocol):
    """A segment as faster-whisper has it."""

    start: float
    end: float
    text: str
    words: Sequence[SpokenWord] | None


def times_of(segments: Sequence[SpokenSegment], seconds: float) -> tuple[Segment, ...]:
    """Segments with a text, and their words, within the sound."""

    def within(time_s: float) -> float:
        return in_ms(min(max(0.0, time_s), seconds))

    return tuple(
        Segment(within(s.start), within(s.end), s.text.strip(), tuple(
            Word(within(w.start), within(w.end), w.word, round(float(w.probability), 4)) for w in s.words or ()
        ))
        for s in segments if s.text.strip()
    )  # fmt: skip


class FasterWhisper:
    """The backend itself, in the child process. Temperature 0: nothing is drawn, so that a result can be repeated."""

    longest_s: float | None = 30.0
    long_form = True

    def __init__(self, directory: str, device: str, decoding: Mapping[str, object]) -> None:
        import ctranslate2
        import faster_whisper

        self.decoding = Decoding.model_validate(decoding)
        kind, number = device_parts(device)
        self.model = faster_whisper.WhisperModel(
            directory, device=kind, device_index=number or 0, compute_type=self.decoding.dtype
        )
        prompt = self.model.hf_tokenizer.encode(f" {self.decoding.prompt.strip()}").ids if self.decoding.prompt else []
        # of the decoder's positions: start, language, task, timestamps or none; faster-whisper halves a long prompt
        self.taken = 4 + min(len(prompt) + 1, POSITIONS // 2) * bool(prompt)
        self.facts = {"faster-whisper": faster_whisper.__version__, "ctranslate2": ctranslate2.__version__}

    def sort_key(self, seconds: float) -> tuple[float, float]:
        return (0.0, -seconds)

    def check(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._language(row)

    def _language(self, row: Row) -> str | None:
        """The code that a row is decoded in; None where it is detected. `DataError` as `known_language` says."""
        given = self.decoding.language
        if given == DETECT or not self.model.model.is_multilingual:
            return None
        text = row.language if given == BY_COLUMN else given
        known = self.model.supported_languages
        return known_language(text, known, where=row, hint="give --language CODE, or --language detect")

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        return [self._one(sound) for sound in sounds]

    def _one(self, sound: Sound) -> Hypothesis:
        settings, language = self.decoding, self._language(sound.row)
        limit = min(settings.max_new_tokens or POSITIONS, POSITIONS - self.taken)
        segments, told = self.model.transcribe(
            sound.audio, language=language, task=task_token(settings.task), beam_size=settings.beam,
            temperature=0.0, initial_prompt=settings.prompt or None,
            without_timestamps=not settings.timestamps and sound.seconds <= 30,
            condition_on_previous_text=False, max_new_tokens=limit, word_timestamps=settings.detail == "words",
        )  # fmt: skip
        found = list(segments)
        windows: dict[int, int] = {}  # where a window begins -> how many tokens it was given
        for segment in found:
            windows[segment.seek] = windows.get(segment.seek, 0) + len(segment.tokens)
        cut = any(count >= limit for count in windows.values())
        text = " ".join(s.text.strip() for s in found).strip()
        return Hypothesis(text, told.language, cut, () if settings.detail == "text" else times_of(found, sound.seconds))

    def replace(self, tensors: Mapping[str, LazyTensor]) -> None:
        """Refused: its weights are converted."""
        raise CheckpointError("faster-whisper takes no other weights in place", "load it anew")

    def close(self) -> None:
        del self.model
