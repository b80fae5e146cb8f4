"""whisper.cpp's file beside the Whisper that it was made of."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus.architectures.openai_whisper import dimensions, transformers_name
from chorus.checkpoints.lazy_tensor import MappedFile
from chorus.checkpoints.model import Model
from chorus.errors import CheckpointError, some
from chorus.export import whisper
from chorus.export.ggml.layout import TYPES, NumberType, count_of, header_of, shape_of, shapes, stored
from chorus.export.ggml.mel import mel_filters
from chorus.export.ggml.reader import GgmlEntry, GgmlFile, GgmlForm, read
from chorus.verify.formats.blocks import BlockTensor, not_finite, proof
from chorus.verify.formats.whisper_cpp import client
from chorus.verify.protocol import Subject, TensorProof
from chorus.verify.structure import other_tensors, refuse_other, special_by_size, tied_head
from chorus.verify.values import source_values
from chorus.verify.verdict import Verdict, judged

FILTERS = 1e-6  # that a mel filter may differ by: float32 of values below 0.05
HEAD = "decoder.proj"  # what a head that is not the embedding would be called, and what whisper.cpp does not take


class GgmlVerifier:
    """The format (see protocol.py)."""

    def takes(self, path: Path) -> bool:
        return GgmlForm().takes(path)

    def open(self, path: Path, source: Model) -> Subject:
        """As the protocol says; a source that is no Whisper is refused."""
        refuse_other(source)
        found = read(path)
        kind = found.kind
        size = whisper.size_of(source, trim=True)
        problems = [*found.problems(), *_other_shapes(found, source, size)]
        plain = kind is not None and not problems
        return Subject(
            path, "ggml", kind.name if kind else "", kind is not None and not kind.quantised,
            structure=_structure(found, source, size, problems),
            tensors=_tensors(found, source) if plain else (),
            clients=(client(path, found.tokens),), filters=found.filters, tokens=found.tokens, nbytes=found.size,
            predicted=_nbytes(found, source, size, kind) if kind else None,
            as_float16=_nbytes(found, source, size, TYPES["f16"]),
        )  # fmt: skip


def _other_shapes(found: GgmlFile, source: Model, size: int) -> Iterator[str]:
    """Where the tensors are others than the source's; a file that is whole by its own header may be of another size."""
    known = shapes({**dimensions(source.config), "n_vocab": size})
    held = {name: (one.shape, one.kind.name) for name, one in found.entries.items()}
    # of types the header decides, not the source
    wanted = {name: (shape_of(name, known), held.get(name, ((), ""))[1]) for name, _ in whisper.tensors(source)}
    yield from other_tensors(held, wanted)


def _structure(found: GgmlFile, source: Model, size: int, problems: list[str]) -> Iterator[Verdict]:
    yield judged(
        0, "names, shapes and types", some(problems), f"{len(found.entries)} tensors, {found.size:,} bytes to the end",
        problems=problems,
    )  # fmt: skip
    if found.kind is not None:
        yield judged(0, "header", some(_other_numbers(found, source, found.kind, size), 4), str(found.header.dims))
    yield tied_head(found.entries, source, own=HEAD, runtime="whisper.cpp")
    yield _filters(found)
    yield _tokens(found, source, size)
    yield special_by_size(found.header.n_vocab, source, "whisper.cpp")
    yield judged(0, "no NaN, no infinity", some(not_finite(_blocks(found))))


def _other_numbers(found: GgmlFile, source: Model, kind: NumberType, size: int) -> list[str]:
    """Numbers of the header that the source's config has otherwise."""
    wanted = vars(header_of(source.config, kind, size))
    mine = vars(found.header)
    other = [name for name in wanted if mine[name] != wanted[name]]
    return [f"{name} is {mine[name]:,}, by the config {wanted[name]:,}" for name in other]


def _filters(found: GgmlFile) -> Verdict:
    wanted = mel_filters(len(found.filters))
    worst = float(np.abs(found.filters - wanted).max()) if np.isfinite(found.filters).all() else float("nan")
    problem = "" if worst <= FILTERS else f"they are off Slaney's by {worst:.2g}"
    return judged(0, "mel filters", problem, f"{len(found.filters)} filters, at most {worst:.1g} off", worst=worst)


def _tokens(found: GgmlFile, source: Model, size: int) -> Verdict:
    """The table, id for id. A last token more (<|endoftext|>), as other converters write it, is none of the text's."""
    what = "text tokens, id for id"
    try:
        wanted = whisper.text_tokens(source, size)
    except CheckpointError as error:
        return Verdict(0, what, "skipped", f"{error.message}: {error.hint}")
    mine = found.tokens
    # whisper.cpp makes up what follows by its place, so that one more is as well
    if len(mine) not in (len(wanted), len(wanted) + 1):
        return judged(0, what, f"{len(mine):,} tokens, the tokenizer has {len(wanted):,}")
    # GPT-2's own end of text, in its place nothing is written: some converters leave its name there
    other = [i for i, token in enumerate(wanted) if mine[i] != token and token]
    told = some((f"token {i} is {mine[i]!r}, in the tokenizer {wanted[i]!r}" for i in other), 2)
    return judged(0, what, told, f"{len(wanted):,}", other=len(other))


def _blocks(found: GgmlFile) -> Iterator[BlockTensor]:
    file = MappedFile(found.path)
    for name, entry in found.entries.items():
        yield BlockTensor(name, entry.kind, entry.shape, partial(_raw, file, entry))


def _raw(file: MappedFile, entry: GgmlEntry, start: int, stop: int) -> NDArray[np.uint8]:
    """The bytes of values `start` to `stop`, whole blocks, in memory of their own."""
    first = entry.start + entry.kind.nbytes(start)
    return file.bytes()[first : first + entry.kind.nbytes(stop - start)].copy()


def _tensors(found: GgmlFile, source: Model) -> Iterator[TensorProof]:
    for one in _blocks(found):
        tensor = whisper.tensor_of(source, transformers_name(one.name))
        yield proof(one, partial(source_values, tensor))


def _nbytes(found: GgmlFile, source: Model, size: int, kind: NumberType) -> int:
    """What a file of the source takes in a type, its token table included: the exact number."""
    dims = {**dimensions(source.config), "n_vocab": size}
    known = shapes(dims)
    total: int = (
        48 + 8 + 4 * dims["n_mels"] * found.filters.shape[1] + 4 + sum(4 + len(token) for token in found.tokens)
    )
    for name, _ in whisper.tensors(source):
        shape = shape_of(name, known)
        total += stored(name, shape, kind).nbytes(count_of(shape)) + len(name) + 4 * (3 + len(shape))
    return total
