"""whisper.cpp's file beside the Whisper that it was made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus.architectures.openai_whisper import dimensions, transformers_name
from chorus.checkpoints.lazy_tensor import LazyTensor, MappedFile
from chorus.checkpoints.model import Model
from chorus.errors import CheckpointError, MissingExtraError, some
from chorus.export import whisper
from chorus.export.ggml.layout import TYPES, NumberType, count_of, header_of, shape_of, shapes, stored
from chorus.export.ggml.mel import mel_filters
from chorus.export.ggml.quants import dequantised, needs, quantised
from chorus.export.ggml.reader import GgmlEntry, GgmlFile, GgmlForm, read
from chorus.export.values import BLOCK, from_bfloat16, numbers
from chorus.models.whisper_tokens import special_ids
from chorus.verify.formats.whisper_cpp import client
from chorus.verify.protocol import Subject, TensorProof
from chorus.verify.verdict import Verdict, judged

FILTERS = 1e-6  # that a mel filter may differ by: float32 of values below 0.05
# where a block's scales lie, which are float16: (from, to) in bytes. Known from ggml's block_* (ggml-common.h)
SCALES = {
    "q8_0": (0, 2), "q5_0": (0, 2), "q4_0": (0, 2), "iq4_nl": (0, 2), "q5_1": (0, 4), "q4_1": (0, 4), "q4_k": (0, 4),
    "q5_k": (0, 4), "q2_k": (80, 84), "q3_k": (108, 110), "q6_k": (208, 210),
}  # fmt: skip
# the most that a k-quant's tensor may be off by, relative to its own size, where ggml is not there to make it again
ERRORS = {"q6_k": 0.03, "q5_k": 0.06, "q4_k": 0.12, "iq4_nl": 0.14, "q3_k": 0.24, "q2_k": 0.5}
HEAD = "decoder.proj"  # what a head that is not the embedding would be called, and what whisper.cpp does not take


class GgmlVerifier:
    """The format (see protocol.py)."""

    def takes(self, path: Path) -> bool:
        return GgmlForm().takes(path)

    def open(self, path: Path, source: Model) -> Subject:
        """As the protocol says; a source that is no Whisper is refused."""
        if not whisper.is_whisper(source):
            kind = source.config.get("model_type") or "unknown"
            raise CheckpointError(f"{source.label}: no Whisper, but of the type {kind}", "name what it was made of")
        found = read(path)
        kind = found.kind
        size = whisper.size_of(source, trim=True)
        plain = kind is not None and not any(found.problems())
        return Subject(
            path, "ggml", kind.name if kind else "", kind is not None and not kind.quantised,
            structure=_structure(found, source, size),
            tensors=_tensors(found, source) if plain else (),
            clients=(client(path, found.tokens),), filters=found.filters, tokens=found.tokens, nbytes=found.size,
            predicted=_nbytes(found, source, size, kind) if kind else None,
            as_float16=_nbytes(found, source, size, TYPES["f16"]),
        )  # fmt: skip


def _structure(found: GgmlFile, source: Model, size: int) -> Iterator[Verdict]:
    problems = list(found.problems())
    yield judged(
        0, "names, shapes and types", some(problems), f"{len(found.entries)} tensors, {found.size:,} bytes to the end",
        problems=problems,
    )  # fmt: skip
    if found.kind is not None:
        yield judged(0, "header", some(_other_numbers(found, source, found.kind, size), 4), str(found.header.dims))
    yield _head(found, source)
    yield _filters(found)
    yield _tokens(found, source, size)
    yield _special(found, source)
    yield judged(0, "no NaN, no infinity", some(_not_finite(found)), "")


def _other_numbers(found: GgmlFile, source: Model, kind: NumberType, size: int) -> list[str]:
    """Numbers of the header that the source's config has otherwise."""
    wanted = vars(header_of(source.config, kind, size))
    mine = vars(found.header)
    other = [name for name in wanted if mine[name] != wanted[name]]
    return [f"{name} is {mine[name]:,}, by the config {wanted[name]:,}" for name in other]


def _head(found: GgmlFile, source: Model) -> Verdict:
    what, table = "one table for embedding and head", "decoder.token_embedding.weight"
    own = [name for name in found.entries if name.startswith(HEAD)]
    if own:
        return judged(0, what, f"it holds a head of its own ({own[0]}), which whisper.cpp does not take")
    if table not in found.entries:
        return judged(0, what, f"it lacks {table}, which is its head too")
    asked = whisper.check_whisper(source, runtime="whisper.cpp", trim=True)
    problem = next((one.problem for one in asked if "head" in one.what), "")
    return judged(0, what, f"the source's is another: {problem}" if problem else "", "tied")


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


def _special(found: GgmlFile, source: Model) -> Verdict:
    """whisper.cpp knows them by the vocabulary's size alone: it must be the size of the tokenizer's own order."""
    what, known, size = "ids of special tokens", whisper.token_ids(source), found.header.n_vocab
    if not known:
        return Verdict(0, what, "skipped", "the source has no tokenizer: --tokenizer DIR")
    if size not in whisper.SIZES:
        return judged(0, what, f"of {size:,} tokens whisper.cpp knows none by its place")
    wrong = []
    theirs = special_ids(size)
    for name, theirs_id in theirs.items():
        mine = known.get(name, known.get(whisper.ALIASES.get(name, name)))
        if mine is not None and mine != theirs_id:
            wrong.append(f"{name} is {theirs_id} for whisper.cpp, {mine} in the tokenizer")
    return judged(0, what, some(wrong, 2), f"{len(theirs):,} by the size of the vocabulary")


def _not_finite(found: GgmlFile) -> Iterator[str]:
    """Tensors that hold what is no number; of a quantised one the scales are looked at, which alone can be none."""
    file = MappedFile(found.path)
    for name, entry in found.entries.items():
        for start in range(0, count_of(entry.shape), BLOCK):
            raw = _raw(file, entry, start, min(start + BLOCK, count_of(entry.shape)))
            if not _finite(raw, entry.kind):
                yield name
                break


def _finite(raw: NDArray[np.uint8], kind: NumberType) -> bool:
    if kind.quantised:
        first, last = SCALES[kind.name]
        raw = np.ascontiguousarray(raw.reshape(-1, kind.bytes)[:, first:last]).reshape(-1)
    if kind.name == "f32":
        return bool(np.isfinite(raw.view(np.float32)).all())
    mask = np.uint16(0x7F80 if kind.name == "bf16" else 0x7C00)  # all bits of the exponent
    return not ((raw.view(np.uint16) & mask) == mask).any()


def _raw(file: MappedFile, entry: GgmlEntry, start: int, stop: int) -> NDArray[np.uint8]:
    """The bytes of values `start` to `stop`, whole blocks, in memory of their own."""
    first = entry.start + entry.kind.nbytes(start)
    return file.bytes()[first : first + entry.kind.nbytes(stop - start)].copy()


def _tensors(found: GgmlFile, source: Model) -> Iterator[TensorProof]:
    file = MappedFile(found.path)
    for name, entry in found.entries.items():
        if needs(entry.kind) == "export":
            raise MissingExtraError("export", f"comparing {entry.kind.name}")
        yield _proof(file, entry, whisper.tensor_of(source, transformers_name(name)))


def _proof(file: MappedFile, entry: GgmlEntry, tensor: LazyTensor) -> TensorProof:
    kind, total, row = entry.kind, count_of(entry.shape), entry.shape[-1]
    remade = not needs(kind)
    off = size = 0.0
    first = -1
    # whole rows, whose blocks are whole ones
    step = max(1, BLOCK // row) * row
    for start in range(0, total, step):
        stop = min(start + step, total)
        values = np.asarray(numbers(tensor, start, stop), np.float32)
        raw = _raw(file, entry, start, stop)
        if remade and first < 0:
            wanted = np.frombuffer(_cast(values, row, kind).tobytes(), np.uint8)
            other = np.flatnonzero(raw != wanted)
            first = kind.nbytes(start) + int(other[0]) if len(other) else -1
        # in float64: of a million squares float32 loses the small ones
        held = _values(raw, kind)
        with np.errstate(over="ignore", invalid="ignore"):
            off += float(np.square(held - values, dtype=np.float64).sum())
            size += float(np.square(values, dtype=np.float64).sum())
    error = float(np.sqrt(off / size)) if size else float(np.sqrt(off))
    return TensorProof(
        entry.name, kind.name, first < 0 if remade else None, error, _problem(entry, first, error, remade=remade)
    )


def _problem(entry: GgmlEntry, first: int, error: float, *, remade: bool) -> str:
    kind = entry.kind.name
    if remade:
        where = f"differs from the source in {kind} from its byte {first:,} on"
        return f"{where} (relative error {error:.2g})" if first >= 0 else ""
    bound = ERRORS[kind]
    return "" if error <= bound else f"is off by {error:.2g} of its size; {kind} keeps within {bound:g}"


def _cast(values: NDArray[np.float32], row: int, kind: NumberType) -> NDArray[np.generic]:
    """The source's values in a file's type. By other means than the exporter's: torch's bfloat16, numpy's float16."""
    with np.errstate(over="ignore"):
        if kind.name == "f32":
            return values
        if kind.name == "f16":
            return values.astype(np.float16)
    if kind.name == "bf16":
        import torch

        halves: NDArray[np.generic] = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy()
        return halves
    return quantised(np.ascontiguousarray(values).reshape(-1, row), kind)


def _values(raw: NDArray[np.uint8], kind: NumberType) -> NDArray[np.float32]:
    if kind.quantised:
        return dequantised(raw.reshape(-1, kind.bytes), kind).reshape(-1)
    if kind.name == "bf16":
        return from_bfloat16(raw)
    return raw.view(np.float16 if kind.name == "f16" else np.float32).astype(np.float32)


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
