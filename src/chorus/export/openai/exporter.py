"""`--to openai`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path

from chorus.architectures.openai_whisper import dimensions
from chorus.checkpoints.model import Model
from chorus.export import whisper
from chorus.export.openai.archive import Archive, looks_so
from chorus.export.output import new_file
from chorus.export.protocol import ExportOptions, Making, Requirement
from chorus.export.values import Array, as_float16, as_float32, as_they_lie
from chorus.progress import Progress

CASTS: dict[str, Callable[[Array, str], Array]] = {"float16": as_float16, "float32": as_float32}
BYTES = {"float16": 2, "float32": 4}
WEIGHTS = "model_state_dict"
EMBEDDING = "decoder.token_embedding.weight"
# what its front end can make, and the positions of the 30 seconds that it always makes
MELS, POSITIONS = (80, 128), 1500


class Openai:
    """openai-whisper's `.pt`, of Whispers of any size."""

    covers = "Whisper, for openai-whisper"
    types: Mapping[str, str] = {"float16": "float16, as OpenAI's own are", "float32": "float32, as the source is"}
    default = "float16"
    suffix = ".pt"
    uses = frozenset({"trim_vocabulary"})

    def check(self, model: Model, types: Sequence[str], options: ExportOptions) -> list[Requirement]:
        found = whisper.check_whisper(model, runtime="openai-whisper", trim=options.trim_vocabulary)
        if not whisper.is_whisper(model):
            return found
        if not whisper.token_ids(model):  # it brings its own tokenizer: one that is there must be the same
            found = [check for check in found if check.what != "tokenizer"]
        return [*found, *_front_end(model)]

    def nbytes(self, model: Model, kind: str, options: ExportOptions) -> int:
        shapes = _shapes(model, whisper.size_of(model, trim=options.trim_vocabulary))
        return sum(BYTES[kind] * prod(shape) + 400 for shape in shapes.values())

    def write(self, model: Model, places: Mapping[str, Path], options: ExportOptions, progress: Progress) -> Making:
        size = whisper.size_of(model, trim=options.trim_vocabulary)
        dims, shapes = {"dims": {**dimensions(model.config), "n_vocab": size}}, _shapes(model, size)
        done, total = 0, sum(map(prod, shapes.values()))
        with ExitStack() as stack:
            archives = {}
            for kind, path in places.items():
                stored = [(name, kind, shape) for name, shape in shapes.items()]
                archive = Archive(path, stack.enter_context(new_file(path)), dims, WEIGHTS, stored)
                archives[kind] = stack.enter_context(archive)
            for name, tensor in whisper.tensors(model):
                for archive in archives.values():
                    archive.begin()
                left = prod(shapes[name])  # rows of padding at the end stay out
                for values in as_they_lie(tensor):
                    for kind, archive in archives.items():
                        archive.values(CASTS[kind](values[:left], name))
                    left -= len(values[:left])
                    done += len(values)
                    progress(min(done, total), total)
                for archive in archives.values():
                    archive.end()
        return Making({"vocabulary": size})

    def ours(self, path: Path) -> bool:
        return looks_so(path)


def _shapes(model: Model, size: int) -> dict[str, tuple[int, ...]]:
    """Of every tensor under its name there."""
    found = {name: tuple(tensor.shape) for name, tensor in whisper.tensors(model)}
    return found | {EMBEDDING: (size, *found[EMBEDDING][1:])}


def _front_end(model: Model) -> Iterator[Requirement]:
    """openai-whisper's front end is fixed."""
    bins, positions = int(model.config["num_mel_bins"]), int(model.config["max_source_positions"])
    told = "" if bins in MELS else f"{bins} mel bins, openai-whisper makes {' or '.join(map(str, MELS))}"
    yield Requirement("mel bins", told, "there is none for it" if told else "")
    told = "" if positions == POSITIONS else f"{positions:,} positions of audio, openai-whisper gives {POSITIONS:,}"
    yield Requirement("positions of 30 seconds", told, "--to ggml takes it" if told else "")
