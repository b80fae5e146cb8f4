"""faster-whisper (CTranslate2): a converted directory, or a Whisper that is converted into the cache."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec

from chorus.data.manifest import Row
from chorus.errors import MissingExtraError
from chorus.models.whisper import task_token
from chorus.runtime import device_parts
from chorus.transcribe.backends.converting import converted
from chorus.transcribe.backends.hearing import asked_language, hypothesis_of
from chorus.transcribe.backends.isolated import Isolated
from chorus.transcribe.backends.protocol import Backend, Hypothesis, Sound
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import CONVERTED, CT2, System, refuse_converted

POSITIONS = 448  # of every Whisper's decoder
TYPE = "float32"  # of what is converted: it is cast when it is loaded


def open_backend(system: System, decoding: Decoding, device: str) -> Backend:
    """Convert if need be, and load in a process of its own."""
    if find_spec("faster_whisper") is None:
        raise MissingExtraError("evaluate", "the faster-whisper backend")
    refuse_converted(system, unless=CT2)
    directory = system.directory if system.kind == CT2 else converted(system, "ctranslate2", TYPE, CONVERTED)
    settings = {"directory": str(directory), "device": device, "decoding": decoding.model_dump(mode="json")}
    return Isolated(f"{__name__}:FasterWhisper", settings)


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
        several = self.model.model.is_multilingual
        self.languages: Collection[str] = self.model.supported_languages if several else ()
        prompt = self.model.hf_tokenizer.encode(f" {self.decoding.prompt.strip()}").ids if self.decoding.prompt else []
        # of the decoder's positions: start, language, task, timestamps or none; faster-whisper halves a long prompt
        self.taken = 4 + min(len(prompt) + 1, POSITIONS // 2) * bool(prompt)
        self.facts = {"faster-whisper": faster_whisper.__version__, "ctranslate2": ctranslate2.__version__}

    def sort_key(self, seconds: float) -> tuple[float, float]:
        return (0.0, -seconds)

    def check(self, rows: Sequence[Row]) -> None:
        for row in rows:
            asked_language(self.decoding, row, self.languages)

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        return [self._one(sound) for sound in sounds]

    def _one(self, sound: Sound) -> Hypothesis:
        settings = self.decoding
        limit = min(settings.max_new_tokens or POSITIONS, POSITIONS - self.taken)
        made, about = self.model.transcribe(
            sound.audio, language=asked_language(settings, sound.row, self.languages) or None,
            task=task_token(settings.task), beam_size=settings.beam, temperature=0.0,
            initial_prompt=settings.prompt or None,
            without_timestamps=not settings.timestamps and sound.seconds <= 30,
            condition_on_previous_text=False, max_new_tokens=limit, word_timestamps=settings.detail == "words",
        )  # fmt: skip
        segments = [asdict(one) for one in made]
        text = " ".join(one["text"].strip() for one in segments)
        return hypothesis_of(
            text, about.language, segments, seconds=sound.seconds, limit=limit, told=settings.detail != "text"
        )

    def close(self) -> None:
        del self.model
