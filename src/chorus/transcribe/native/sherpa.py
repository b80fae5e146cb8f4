"""sherpa-onnx's two graphs in onnxruntime, and its way of decoding with them.

Facts: sherpa-onnx/csrc/offline-whisper-greedy-search-decoder.cc and offline-recognizer-whisper-impl.h (634265c): the
likeliest token, none suppressed; at most six tokens for a second of sound, and at most half of the positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chorus.errors import CheckpointError
from chorus.export.onnx.decoder import ATTENTION, INPUTS
from chorus.export.onnx.encoder import CROSS, MEL
from chorus.export.onnx.reader import token_table
from chorus.transcribe.native.sherpa_mel import FRAMES, HOP, KEPT, log_mel
from chorus.transcribe.native.sherpa_rules import ruled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chorus.data.audio import Audio

    Floats = NDArray[np.float32]

PER_SECOND = 6  # tokens
FRAMES_A_SECOND = 100


@dataclass
class Decoded:
    """What was decoded of a sound; `ended`: by itself. `looked` is [heads, tokens, frames], where it was kept."""

    tokens: list[int]
    language: str
    ended: bool
    chances: list[float] = field(default_factory=list)
    looked: Floats | None = None


class LoadedGraphs:
    """Encoder, decoder, and what the encoder's metadata say; `CheckpointError` where onnxruntime does not take them."""

    def __init__(self, encoder: str, decoder: str, tokens: str, threads: int = 0, device: str = "cpu") -> None:
        import onnxruntime

        self.onnxruntime, options = onnxruntime, onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        asked = ["CPUExecutionProvider"] if device == "cpu" else ["CUDAExecutionProvider", "CPUExecutionProvider"]
        try:
            self.encoder = onnxruntime.InferenceSession(encoder, options, providers=asked)
            self.decoder = onnxruntime.InferenceSession(decoder, options, providers=asked)
        except Exception as error:  # of a dozen classes of its own
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"{encoder}: onnxruntime takes no such graph: {line}", "export it again") from None
        self.table = token_table(Path(tokens))
        told = self.encoder.get_modelmeta().custom_metadata_map
        try:
            self._read(told)
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{encoder}: its metadata lack {error}", "export it again") from None
        self.outputs = [one.name for one in self.decoder.get_outputs()]
        if problem := self._unfit():
            raise CheckpointError(
                f"{encoder}: of another model than {Path(decoder).name}: {problem}", "export it again"
            )

    def _read(self, told: dict[str, str]) -> None:
        """The keys that sherpa-onnx asks for."""
        self.bins, self.start, self.end = int(told["n_mels"]), int(told["sot"]), int(told["eot"])
        self.without, self.translate = int(told["no_timestamps"]), int(told["translate"])
        self.shape = tuple(int(told[f"n_text_{one}"]) for one in ("layer", "ctx", "state"))
        self.sequence = [int(one) for one in told["sot_sequence"].split(",")]
        self.languages: dict[str, int] = {}
        if int(told["is_multilingual"]):
            numbers = map(int, told["all_language_tokens"].split(","))
            self.languages = dict(zip(told["all_language_codes"].split(","), numbers, strict=True))

    def _unfit(self) -> str:
        """Where the graphs do not fit each other or the metadata, which onnxruntime finds at the first sound."""
        heard = {MEL: [None, self.bins, None]} | {one.name: one.shape for one in self.encoder.get_outputs()}
        layers, positions, width = self.shape
        # sizes that are left open have names
        wanted = heard | {key: [layers, None, positions, width] for key in INPUTS[1:3]}
        for one in [*self.encoder.get_inputs(), *self.decoder.get_inputs()]:
            pairs = zip(wanted.get(one.name, one.shape), one.shape, strict=False)
            if any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs):
                return f"{one.name} is {one.shape}, where it is given {wanted[one.name]}"
        return ""

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": str(self.onnxruntime.__version__)}

    def special_ids(self) -> dict[str, int]:
        """Those that the metadata name."""
        named = {"<|startoftranscript|>": self.start, "<|endoftext|>": self.end, "<|notimestamps|>": self.without}
        return named | {f"<|{code}|>": number for code, number in self.languages.items()}

    def log_mel(self, audio: Audio) -> Floats:
        """[bins, frames], as sherpa-onnx hears."""
        return log_mel(audio, self.bins)

    def logits(self, tokens: Sequence[int], mel: Floats) -> Floats:
        """[tokens, vocabulary]: after each token, given those before it and a spectrum [bins, frames]."""
        found: Floats = self._step(self.heard(mel), tokens, self._empty(), 0)[0][0]
        return found

    def heard(self, mel: Floats) -> list[Floats]:
        """Keys and values of a spectrum [bins, frames]."""
        found: list[Floats] = self.encoder.run(list(CROSS), {MEL: mel[None]})
        return found

    def _empty(self) -> list[Floats]:
        layers, positions, width = self.shape
        return [np.zeros((layers, 1, positions, width), np.float32)] * 2

    def _step(
        self, heard: Sequence[Floats], tokens: Sequence[int], caches: Sequence[Floats], offset: int
    ) -> list[Floats]:
        """[logits, keys, values, attention where the graph gives it]."""
        values = [np.array([list(tokens)]), *caches, *heard, np.array([offset])]
        found: list[Floats] = self.decoder.run(None, dict(zip(INPUTS, values, strict=True)))
        return found

    def decoded(
        self, audio: Audio, *, language: str = "", translate: bool = False, timestamps: bool = False,
        limit: int | None = None, looking: bool = False,
    ) -> Decoded:  # fmt: skip
        """A sound's tokens; an empty language is detected. `looking`: what the heads of alignment look at is kept."""
        mel = self.log_mel(audio)
        frames = min((len(audio) + HOP // 2) // HOP, FRAMES - KEPT)
        heard, given = self.heard(mel), list(self.sequence)
        if self.languages:
            given[1] = self.languages[language] if language else self._likeliest(heard)
            given[2] = self.translate if translate else given[2]
        given += [] if timestamps else [self.without]
        most = min(int(frames / FRAMES_A_SECOND * PER_SECOND), self.shape[1] // 2, limit or self.shape[1])
        codes = {number: code for code, number in self.languages.items()}
        found = Decoded([], codes.get(given[1], "") if self.languages else "en", False)
        logits, *caches = self._step(heard, given, self._empty(), 0)
        looked, offset = [caches[2:]], len(given)
        while True:
            row = logits[0, -1]
            ruling = ruled(row, found.tokens, first=self.without + 1, without=self.without, end=self.end)
            token = int((ruling if timestamps else row).argmax())
            if token == self.end:
                found.ended = True
                break
            if len(found.tokens) >= most or offset >= self.shape[1] - 1:
                break
            found.tokens.append(token)
            found.chances.append(_chance(row, token))
            logits, *caches = self._step(heard, [token], caches[:2], offset)
            looked.append(caches[2:])
            offset += 1
        if looking and ATTENTION in self.outputs:
            found.looked = np.concatenate([one[0][0] for one in looked], 1)[:, :, : max(1, frames // 2)]
        return found

    def _likeliest(self, heard: Sequence[Floats]) -> int:
        row = self._step(heard, [self.start], self._empty(), 0)[0][0, -1]
        return max(self.languages.values(), key=lambda number: float(row[number]))


def _chance(row: Floats, token: int) -> float:
    shifted = row.astype(np.float64) - row.max()
    return float(np.exp(shifted[token]) / np.exp(shifted).sum())
