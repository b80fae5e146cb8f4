"""openai-whisper itself, on the `.pt` that `chorus export --to openai` writes: in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

from chorus.data.manifest import Row
from chorus.errors import MissingPackageError, UsageError
from chorus.models.generation import generation_config
from chorus.models.whisper import task_token
from chorus.plain import JsonMap
from chorus.runtime import device_parts
from chorus.transcribe.backends.converting import converted, model_of
from chorus.transcribe.backends.hearing import asked_language, hypothesis_of
from chorus.transcribe.backends.isolated import Isolated
from chorus.transcribe.backends.protocol import Backend, Hypothesis, Sound
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import OPENAI, System, refuse_converted

FILE, TYPE = "model.pt", "float32"
WINDOW_S = 30


class Settings(TypedDict):
    """What the child makes the backend of."""

    file: str
    heads: list[list[int]]
    suppressed: dict[str, object]
    device: str
    decoding: dict[str, object]


def open_backend(system: System, decoding: Decoding, device: str) -> Backend:
    """Convert if need be, and load in a process of its own."""
    if find_spec("whisper") is None:
        raise MissingPackageError("openai-whisper", "the openai-whisper backend")
    refuse_converted(system, unless=OPENAI)
    if decoding.dtype in ("int8", "bfloat16"):
        raise UsageError(f"openai-whisper has no {decoding.dtype}", "--dtype float32 or float16")
    if decoding.dtype == "float16" and device_parts(device)[0] == "cpu":
        raise UsageError("openai-whisper works in float32 on a CPU", "leave out --dtype float16")
    if system.kind == OPENAI:  # of its source's settings it holds nothing: openai-whisper's own are left as they are
        return decoder_of(system.directory, None, decoding, device)
    file = converted(system, "openai", TYPE, FILE) / FILE
    return decoder_of(file, generation_config(model_of(system)), decoding, device)


def decoder_of(file: Path, generation: JsonMap | None, decoding: Decoding, device: str) -> Backend:
    """A `.pt` in a process of its own, decoded by these generation settings, or by openai-whisper's own."""
    # its own lists are the published models', and a fine-tune may have others, or none
    suppressed: dict[str, object] = {}
    if generation is not None:
        suppressed["suppress_tokens"] = generation.get("suppress_tokens") or []
        suppressed["suppress_blank"] = bool(generation.get("begin_suppress_tokens"))
    settings = Settings(
        file=str(file), heads=(generation or {}).get("alignment_heads") or [], suppressed=suppressed, device=device,
        decoding=decoding.model_dump(mode="json"),
    )  # fmt: skip
    return Isolated(f"{__name__}:OpenaiDecoder", {**settings})


class OpenaiDecoder:
    """The backend itself, in the child process.

    Pinned, as the others are: temperature 0 alone, no window left out, none told of the one before.
    """

    longest_s: float | None = float(WINDOW_S)
    long_form = True

    def __init__(
        self, file: str, heads: Sequence[Sequence[int]], suppressed: JsonMap, device: str,
        decoding: Mapping[str, object],
    ) -> None:  # fmt: skip
        import whisper
        from whisper.tokenizer import LANGUAGES

        self.decoding, self.suppressed = Decoding.model_validate(decoding), suppressed
        # a path and never a name, which it would download
        self.model = whisper.load_model(file, device=device)
        if heads:
            self._follow(heads)
        count = self.model.num_languages if self.model.is_multilingual else 0
        self.languages = list(LANGUAGES)[:count]
        self.facts = {"openai-whisper": whisper.__version__}

    def _follow(self, heads: Sequence[Sequence[int]]) -> None:
        """Tell the model which heads follow speech; of a file it takes all of its upper half."""
        import torch

        dims = self.model.dims
        mask = torch.zeros(dims.n_text_layer, dims.n_text_head, dtype=torch.bool)
        for layer, head in heads:
            mask[layer, head] = True
        self.model.register_buffer("alignment_heads", mask.to_sparse(), persistent=False)

    def sort_key(self, seconds: float) -> tuple[float, float]:
        return (0.0, -seconds)

    def check(self, rows: Sequence[Row]) -> None:
        for row in rows:
            asked_language(self.decoding, row, self.languages)

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        return [self._one(sound) for sound in sounds]

    def _one(self, sound: Sound) -> Hypothesis:
        settings = self.decoding
        limit = self._limit()
        made: JsonMap = self.model.transcribe(
            # a copy: what came through a pipe may not be written to, which torch warns of
            sound.audio.copy(),
            language=asked_language(settings, sound.row, self.languages) or None, task=task_token(settings.task),
            beam_size=settings.beam if settings.beam > 1 else None, temperature=0.0,
            compression_ratio_threshold=None, logprob_threshold=None, no_speech_threshold=None,
            condition_on_previous_text=False, initial_prompt=settings.prompt or None,
            without_timestamps=not settings.timestamps and sound.seconds <= WINDOW_S, sample_len=limit,
            word_timestamps=settings.detail == "words", fp16=settings.dtype == "float16", **self.suppressed,
        )  # fmt: skip
        return hypothesis_of(
            str(made["text"]), str(made["language"]), made["segments"], seconds=sound.seconds, limit=limit,
            told=settings.detail != "text",
        )  # fmt: skip

    def _limit(self) -> int:
        """How many tokens a window may have, by its own rule the half of those that fit."""
        positions = int(self.model.dims.n_text_ctx)
        taken = 4 + (positions // 2 if self.decoding.prompt else 0)
        return min(self.decoding.max_new_tokens or positions, positions - taken)

    def close(self) -> None:
        del self.model
