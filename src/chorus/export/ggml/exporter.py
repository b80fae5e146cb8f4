"""`--to ggml`."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from chorus.checkpoints.model import Model
from chorus.errors import MissingExtraError
from chorus.export import whisper
from chorus.export.ggml import writer
from chorus.export.ggml.layout import MAGIC, TYPES, fitting
from chorus.export.ggml.quants import needs
from chorus.export.protocol import ExportOptions, Making, Requirement
from chorus.models.whisper_tokens import LARGE_V3
from chorus.progress import Progress

RUNTIME = "whisper.cpp"


class Ggml:
    """whisper.cpp's file, of Whispers of any size."""

    covers = "Whisper, for whisper.cpp"
    types: Mapping[str, str] = {name: kind.doc for name, kind in TYPES.items()}
    default = "f16"
    suffix = ".bin"
    uses = frozenset({"trim_vocabulary"})

    def check(self, model: Model, types: Sequence[str], options: ExportOptions) -> list[Requirement]:
        found = whisper.check_whisper(model, runtime=RUNTIME, trim=options.trim_vocabulary)
        if any(check.problem for check in found[:1]):  # nothing else can be asked of it
            return found
        width = int(model.config["d_model"])
        for name in types:
            kind = TYPES[name]
            fits = width % kind.values == 0
            told = f"rows of {width} values are no whole blocks of {kind.values}"
            remedy = f"--type {fitting(width, kind)}, the nearest that they allow"
            found.append(Requirement(f"rows for {name}", "" if fits else told, "" if fits else remedy))
        return found

    def nbytes(self, model: Model, kind: str, options: ExportOptions) -> int:
        return writer.nbytes(model, TYPES[kind], whisper.size_of(model, trim=options.trim_vocabulary))

    def write(self, model: Model, places: Mapping[str, Path], options: ExportOptions, progress: Progress) -> Making:
        for name in places:
            if extra := needs(TYPES[name]):
                raise MissingExtraError(extra, f"the type {name}")
        size = whisper.size_of(model, trim=options.trim_vocabulary)
        hashes = writer.write(model, places, size, progress)
        warnings = []
        # known from whisper.cpp's loader: such a model it takes for one of the first distilled ones
        if int(model.config["decoder_layers"]) == 2 and size != LARGE_V3:
            warnings.append(f"{model.label}: of two decoder layers, so that whisper.cpp gives no timestamps")
        return Making({"vocabulary": size}, warnings, hashes=hashes)

    def ours(self, path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(4) == struct.pack("<i", MAGIC)
