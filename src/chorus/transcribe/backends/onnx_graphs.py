"""sherpa-onnx's graphs in onnxruntime: decoded as sherpa-onnx decodes them, without sherpa-onnx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from chorus.data.manifest import Row
from chorus.errors import CheckpointError, MissingExtraError, UsageError
from chorus.export.onnx.reader import GraphPaths, find
from chorus.models.times import Segment, Word, in_ms
from chorus.models.whisper import task_token
from chorus.runtime import device_parts, threads
from chorus.transcribe.backends.converting import converted
from chorus.transcribe.backends.hearing import asked_language
from chorus.transcribe.backends.isolated import Isolated
from chorus.transcribe.backends.protocol import Backend, Hypothesis, Sound
from chorus.transcribe.backends.whisper_times import focused, path_starts
from chorus.transcribe.backends.words import of_tokens
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.native.sherpa import Decoded, LoadedGraphs
from chorus.transcribe.native.sherpa_rules import segments_of
from chorus.transcribe.systems import ONNX, System, refuse_converted

POSITION_S = 0.02  # between two positions of the encoder
TYPES = ("float32", "float16", "int8")


def open_backend(system: System, decoding: Decoding, device: str) -> Backend:
    """Convert if need be, and load in a process of its own."""
    if find_spec("onnxruntime") is None:
        raise MissingExtraError("evaluate", "the onnxruntime backend")
    paths = graphs_of(system, decoding)
    refuse_settings(decoding, "onnxruntime")
    settings = {**told(paths), "device": device, "decoding": decoding.model_dump(mode="json")}
    return Isolated(f"{__name__}:OnnxGraphs", settings, silent=True)


def told(paths: GraphPaths) -> dict[str, object]:
    """The files, for a child process."""
    return {"encoder": str(paths.encoder), "decoder": str(paths.decoder), "tokens": str(paths.tokens)}


def refuse_settings(decoding: Decoding, runtime: str) -> None:
    """`UsageError` for what sherpa-onnx's decoder has not."""
    if decoding.beam > 1:
        raise UsageError(f"--beam {decoding.beam}: {runtime} decodes greedily alone", "leave it out")
    if decoding.prompt:
        raise UsageError(f"--prompt: {runtime} takes none", "leave it out")


def graphs_of(system: System, decoding: Decoding) -> GraphPaths:
    """The system's graphs: its own, or those that it is converted to, kept in the cache by content and type."""
    refuse_converted(system, unless=ONNX)
    if system.kind == ONNX:
        paths = find(system.directory)
    elif decoding.dtype not in TYPES:
        raise UsageError(f"sherpa-onnx has no {decoding.dtype}", f"--dtype {', '.join(TYPES)}")
    else:
        # the files are called after the model: that the directory is there says that it is whole
        paths = find(converted(system, "onnx", decoding.dtype, ""))
    if paths is None:
        raise CheckpointError(f"{system.label}: no encoder, decoder and tokens of sherpa-onnx", "export it again")
    return paths


class OnnxGraphs:
    """The backend itself, in the child process."""

    longest_s: float | None = 29.5  # what it hears of half a minute
    long_form = False

    def __init__(
        self, encoder: str, decoder: str, tokens: str, device: str, decoding: Mapping[str, object]
    ) -> None:  # fmt: skip
        self.decoding = Decoding.model_validate(decoding)
        self.graphs = LoadedGraphs(encoder, decoder, tokens, threads(), device_parts(device)[0])
        self.facts = self.graphs.versions()

    def sort_key(self, seconds: float) -> tuple[float, float]:
        return (0.0, -seconds)

    def check(self, rows: Sequence[Row]) -> None:
        for row in rows:
            asked_language(self.decoding, row, self.graphs.languages)

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        return [self._one(sound) for sound in sounds]

    def _one(self, sound: Sound) -> Hypothesis:
        settings, words = self.decoding, self.decoding.detail == "words"
        found = self.graphs.decoded(
            sound.audio, language=asked_language(settings, sound.row, self.graphs.languages),
            translate=task_token(settings.task) == "translate", timestamps=settings.timestamps,
            limit=settings.max_new_tokens, looking=words,
        )  # fmt: skip
        text = self._text(found.tokens)
        segments: tuple[Segment, ...] = ()
        if settings.detail != "text" and text:
            segments = self._segments(found, sound.seconds, self._words(found) if words else ())
        return Hypothesis(text, found.language, not found.ended, segments)

    def _text(self, tokens: Sequence[int]) -> str:
        """What the table has of them: special tokens have no text."""
        raw = b"".join(self.graphs.table.get(token, b"") for token in tokens)
        return raw.decode(errors="replace").strip()

    def _segments(self, found: Decoded, seconds: float, words: Sequence[Word]) -> tuple[Segment, ...]:
        parts = segments_of(found.tokens, self.graphs.without + 1, seconds) if self.decoding.timestamps else []
        if not parts:
            return (Segment(0.0, in_ms(seconds), self._text(found.tokens), tuple(words)),)
        made, left = [], list(words)
        for i, (start, end, tokens) in enumerate(parts):
            later = parts[i + 1][0] if i + 1 < len(parts) else float("inf")
            own = [word for word in left if word.start < later]
            left = left[len(own) :]
            made.append(Segment(in_ms(start), in_ms(min(end, seconds)), self._text(tokens), tuple(own)))
        return tuple(one for one in made if one.text)

    def _words(self, found: Decoded) -> tuple[Word, ...]:
        """By what the heads of alignment looked at; none where the graph does not tell."""
        if found.looked is None or not found.tokens:
            return ()
        # a token is found by what was looked at before it was written
        before = found.looked.shape[1] - len(found.tokens) - 1
        starts = path_starts(-focused(found.looked.astype(float))[before:])
        spoken = [
            (self.graphs.table[token], in_ms(starts[i] * POSITION_S), in_ms(starts[i + 1] * POSITION_S), chance)
            for i, (token, chance) in enumerate(zip(found.tokens, found.chances, strict=True))
            if token in self.graphs.table
        ]  # fmt: skip
        return of_tokens(spoken, found.language)

    def close(self) -> None:
        del self.graphs
