"""sherpa-onnx itself, through its Python package, on the graphs that `chorus export --to onnx` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from chorus.data.manifest import Row
from chorus.errors import CheckpointError, MissingPackageError, UsageError
from chorus.export.onnx.reader import GraphPaths, read
from chorus.models.features import RATE
from chorus.models.times import Segment, in_ms
from chorus.models.whisper import task_token
from chorus.runtime import device_parts, threads
from chorus.transcribe.backends.hearing import asked_language
from chorus.transcribe.backends.isolated import Isolated
from chorus.transcribe.backends.onnx_graphs import graphs_of, refuse_settings, told
from chorus.transcribe.backends.protocol import Backend, Hypothesis, Sound
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import System

if TYPE_CHECKING:
    from pathlib import Path


def open_backend(system: System, decoding: Decoding, device: str) -> Backend:
    """Convert if need be, and load in a process of its own."""
    if find_spec("sherpa_onnx") is None:
        raise MissingPackageError("sherpa-onnx", "the sherpa-onnx backend")
    return opened(graphs_of(system, decoding), decoding, device)


def opened(paths: GraphPaths, decoding: Decoding, device: str = "cpu") -> Backend:
    """Two graphs and a table in a process of their own: it ends where sherpa-onnx finds something amiss."""
    refuse_settings(decoding, "sherpa-onnx")
    if decoding.max_new_tokens is not None:
        raise UsageError("--max-new-tokens: sherpa-onnx has a limit of its own", "leave it out")
    if decoding.detail == "words":
        raise UsageError("--words: sherpa-onnx times tokens, not words", "--backend onnxruntime times words")
    languages = languages_of(paths.encoder)
    settings = {
        **told(paths), "languages": languages, "device": device, "decoding": decoding.model_dump(mode="json")
    }  # fmt: skip
    return Isolated(f"{__name__}:SherpaOnnx", settings, silent=True)


def languages_of(encoder: Path) -> dict[str, int]:
    """Code -> token, by a graph's metadata; empty of English alone."""
    known = read(encoder).metadata
    if known.get("is_multilingual") != "1":
        return {}
    codes, numbers = (known.get(f"all_language_{one}", "").split(",") for one in ("codes", "tokens"))
    try:
        return dict(zip(codes, map(int, numbers), strict=True))
    except ValueError:
        raise CheckpointError(f"{encoder}: its languages are no tokens", "export it again") from None


class SherpaOnnx:
    """The backend itself, in the child process. A recogniser has one language: another makes it anew."""

    longest_s: float | None = 29.5  # what it hears of half a minute
    long_form = False

    def __init__(
        self, encoder: str, decoder: str, tokens: str, languages: Mapping[str, int], device: str,
        decoding: Mapping[str, object],
    ) -> None:  # fmt: skip
        import sherpa_onnx

        self.package, self.languages, self.decoding = sherpa_onnx, languages, Decoding.model_validate(decoding)
        self.settings = {
            "encoder": encoder, "decoder": decoder, "tokens": tokens, "num_threads": threads(),
            "task": task_token(self.decoding.task), "provider": device_parts(device)[0],
            "enable_segment_timestamps": self.decoding.timestamps,
        }  # fmt: skip
        self.recogniser: Any = None
        self.language: str | None = None
        self.facts = {"sherpa-onnx": version("sherpa-onnx")}

    def sort_key(self, seconds: float) -> tuple[float, float]:
        return (0.0, -seconds)

    def check(self, rows: Sequence[Row]) -> None:
        for row in rows:
            asked_language(self.decoding, row, self.languages)

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        return [self._one(sound) for sound in sounds]

    def _one(self, sound: Sound) -> Hypothesis:
        language = asked_language(self.decoding, sound.row, self.languages)
        if language != self.language:
            made = self.package.OfflineRecognizer.from_whisper
            self.recogniser, self.language = made(language=language, **self.settings), language
        stream = self.recogniser.create_stream()
        stream.accept_waveform(RATE, sound.audio)
        self.recogniser.decode_stream(stream)
        found = stream.result
        segments: tuple[Segment, ...] = ()
        if self.decoding.detail != "text" and found.text.strip():
            segments = self._segments(found, sound.seconds)
        return Hypothesis(found.text.strip(), found.lang if self.languages else "en", False, segments)

    def _segments(self, found: Any, seconds: float) -> tuple[Segment, ...]:
        """Those that timestamps make; without them the whole."""
        parts = zip(
            getattr(found, "segment_timestamps", ()), getattr(found, "segment_durations", ()),
            getattr(found, "segment_texts", ()), strict=True,
        )  # fmt: skip
        made = tuple(
            Segment(in_ms(start), in_ms(min(start + length, seconds)), text.strip()) for start, length, text in parts
        )
        return made or (Segment(0.0, in_ms(seconds), found.text.strip()),)

    def close(self) -> None:
        self.recogniser = None
