"""`--to onnx`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

from chorus.architectures.openai_whisper import dimensions
from chorus.checkpoints.model import Model
from chorus.checkpoints.writer import write_text
from chorus.errors import some
from chorus.export import whisper
from chorus.export.naming import name_of
from chorus.export.onnx import side, writer
from chorus.export.onnx.decoder import decoder
from chorus.export.onnx.encoder import encoder
from chorus.export.onnx.graph import Graph
from chorus.export.protocol import ExportOptions, Making, Requirement
from chorus.models.whisper_tokens import NO_TIMESTAMPS, special_ids
from chorus.progress import Progress

# number type -> what stands before `.onnx` in the names of its files
INFIXES = {"float32": "", "float16": ".fp16", "int8": ".int8"}
PARTS = ("encoder", "decoder")
TABLE_BYTES = 1_000_000


class Onnx:
    """sherpa-onnx's directory, of Whispers of any size."""

    covers = "Whisper, for sherpa-onnx (onnxruntime)"
    types: Mapping[str, str] = {
        "float32": "float32, as the source is",
        "float16": "matrices and convolutions in float16, which the runtime computes with as float32",
        "int8": "matrices in 8 bits, with a scale a row; what they are multiplied with is rounded too",
    }
    default = "float32"
    suffix = ""
    uses = frozenset({"trim_vocabulary"})

    def check(self, model: Model, types: Sequence[str], options: ExportOptions) -> list[Requirement]:
        if not whisper.is_whisper(model):
            kind = model.config.get("model_type") or "unknown"
            return [Requirement("a Whisper", f"a model of the type {kind}", "of these sherpa-onnx runs Whisper alone")]
        return [Requirement("a Whisper"), *_usual(model), *_vocabulary(model, trim=options.trim_vocabulary)]

    def nbytes(self, model: Model, kind: str, options: ExportOptions) -> int:
        size = whisper.size_of(model, trim=options.trim_vocabulary)
        heads, _ = side.alignment_of(model, size)
        return sum(map(writer.nbytes, graphs(model, kind, size, heads))) + TABLE_BYTES

    def write(self, model: Model, places: Mapping[str, Path], options: ExportOptions, progress: Progress) -> Making:
        size = whisper.size_of(model, trim=options.trim_vocabulary)
        heads, warnings = side.alignment_of(model, size)
        name = name_of(model)
        made = {kind: graphs(model, kind, size, heads) for kind in places}
        weights = {one.weight for pair in made.values() for graph in pair for one in graph.stored if one.weight}
        done, total = 0, sum(prod(one.shape) for one in weights)

        def tell(count: int) -> None:
            nonlocal done
            done += count
            progress(done, total)

        told, text = side.metadata(model, name, size, heads), side.table(model, size)
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
            write_text(place / f"{name}-tokens.txt", text)
        for i, part in enumerate(PARTS):
            files = {
                place / f"{name}-{part}{INFIXES[kind]}.onnx": made[kind][i] for kind, place in places.items()
            }  # fmt: skip
            # the decoder's file has no metadata with sherpa-onnx's own export
            writer.write(model, files, told if part == "encoder" else {}, tell)
        return Making({"vocabulary": size, "alignment_heads": heads}, warnings)

    def ours(self, path: Path) -> bool:
        return any(path.glob("*encoder*.onnx"))


def graphs(model: Model, kind: str, size: int, heads: Sequence[Sequence[int]]) -> tuple[Graph, Graph]:
    """(encoder, decoder) in one number type; `size` is that of the vocabulary."""

    def shape_of(tensor: str) -> tuple[int, ...]:
        found = tuple(whisper.tensor_of(model, tensor).shape)
        return (size, *found[1:]) if tensor in (whisper.EMBEDDING, whisper.HEAD) else found

    dims = {**dimensions(model.config), "n_vocab": size}
    first, second = (Graph(f"whisper_{part}", kind, shape_of) for part in PARTS)
    encoder(first, dims)
    decoder(second, dims, heads, tied=is_tied(model))
    return first, second


def is_tied(model: Model) -> bool:
    """Whether the head is the embedding: no other is stored."""
    head = model.checkpoint.get(model.spelling.get(whisper.HEAD, whisper.HEAD))
    return head is None or head is whisper.tensor_of(model, whisper.EMBEDDING)


def _usual(model: Model) -> Iterator[Requirement]:
    """The graphs compute a Whisper in its one usual way."""
    for key, usual in (("activation_function", "gelu"), ("scale_embedding", False)):
        stated = model.config.get(key, usual)
        told = "" if stated == usual else f"{key} is {stated}, the graph of a Whisper has {usual}"
        yield Requirement(f"usual {key}", told, "use --backend transformers for it" if told else "")


def _vocabulary(model: Model, *, trim: bool) -> Iterator[Requirement]:
    """A tokenizer of one of Whisper's three vocabularies, which tokens may have been added to."""
    ids, remedy = whisper.token_ids(model), "give --tokenizer DIR with the base's tokenizer.json"
    if not ids:
        yield Requirement("tokenizer", "no tokenizer is beside it", remedy)
        return
    stored, size, family = int(model.config["vocab_size"]), whisper.size_of(model, trim=trim), side.family_of(ids)
    if family is None:
        at = ids.get(NO_TIMESTAMPS)
        told = f"{NO_TIMESTAMPS} is {'not in it' if at is None else at}: it is none of Whisper's"
        yield Requirement("tokenizer", told, remedy)
        return
    yield Requirement("tokenizer")
    trained = trim and size < stored and not whisper.is_padding(model, size)
    told = f"the last {stored - size:,} of its {stored:,} tokens are no untouched padding" if trained else ""
    yield Requirement("size of the vocabulary", told, "leave --trim-vocab away" if told else "")
    if size < max(special_ids(family).values()) + 1:
        told = f"{size:,} tokens, its tokenizer has {family:,}"
        yield Requirement("vocabulary and tokenizer", told, "take tokenizer and config.json from one model")
        return
    beyond = [f"{name} is {i}" for name, i in ids.items() if i >= size]
    told = f"{some(beyond, 2)}, of {size:,} tokens" if beyond else ""
    yield Requirement("vocabulary and tokenizer", told, "take tokenizer and config.json from one model" if told else "")
    yield from list(whisper.check_tokens(model, family))[1:]
