"""sherpa-onnx's graphs and table beside the Whisper that they were made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus.checkpoints.lazy_tensor import MappedFile
from chorus.checkpoints.model import Model
from chorus.errors import CheckpointError, some
from chorus.export import whisper
from chorus.export.ggml.mel import mel_filters
from chorus.export.onnx import side
from chorus.export.onnx.decoder import INPUTS, OUTPUTS
from chorus.export.onnx.encoder import CROSS, MEL
from chorus.export.onnx.exporter import PARTS, graphs
from chorus.export.onnx.graph import FLOAT, FLOAT16, INT8, Graph, Stored, Weight
from chorus.export.onnx.reader import GraphPaths, OnnxFile, StoredAt, find, read, token_table
from chorus.export.onnx.writer import PRODUCER
from chorus.export.values import blocks
from chorus.verify.formats.onnx_client import clients
from chorus.verify.protocol import Subject, TensorProof
from chorus.verify.structure import Held, other_tensors, refuse_other
from chorus.verify.values import Distance, finite, floats, rounded
from chorus.verify.verdict import Verdict, flagged, judged, skipped

NAMES = {FLOAT: "float32", FLOAT16: "float16", INT8: "int8"}
HALF, SLACK = 0.5, 1e-3  # of a step: what rounding may be off by, and what the scale's own rounding adds
# that sherpa-onnx asks the encoder's file for, and ends without
ASKED = (
    "n_mels", "n_text_layer", "n_text_ctx", "n_text_state", "n_vocab", "sot", "eot", "blank_id", "translate",
    "transcribe", "is_multilingual", "no_timestamps", "no_speech", "sot_sequence", "all_language_tokens",
    "all_language_codes",
)  # fmt: skip
NAMED = {"model_type", "maintainer", "version"}  # that tell of the file, and not of the model


class OnnxVerifier:
    """The format (see protocol.py)."""

    def takes(self, path: Path) -> bool:
        return find(path) is not None

    def open(self, path: Path, source: Model) -> Subject:
        """As the protocol says; a source that is no Whisper is refused."""
        refuse_other(source)
        paths = find(path)
        if paths is None:
            raise CheckpointError(f"{path}: no encoder, decoder and tokens of sherpa-onnx", "export it again")
        found = [read(paths.encoder), read(paths.decoder)]
        kind, size = _kind(found), _size(found[1], source)
        heads, _ = side.alignment_of(source, size)
        wanted = list(graphs(source, kind, size, heads))
        table = token_table(paths.tokens)
        own = all(one.producer == PRODUCER for one in found)
        problems = [one for pair in zip(found, wanted, strict=True) for one in _other(*pair)] if own else []
        files = {record.path for one in found for record in one.records.values()} | {one.path for one in found}
        return Subject(
            path, "onnx", kind, kind != "int8",
            structure=_structure(found, paths, source, size, problems if own else None),
            tensors=_tensors(found, wanted, source) if own and not problems else (), clients=clients(paths),
            filters=mel_filters(int(source.config["num_mel_bins"])),
            tokens=[table.get(i, b"") for i in range(max(table, default=-1) + 1)],
            nbytes=sum(one.stat().st_size for one in {*files, paths.tokens}),
        )  # fmt: skip


def _kind(found: list[OnnxFile]) -> str:
    """The type by what any matrix is in."""
    types = {record.dtype for one in found for record in one.records.values() if len(record.shape) == 2}
    return next((NAMES[one] for one in (INT8, FLOAT16) if one in types), "float32")


def _size(decoder: OnnxFile, source: Model) -> int:
    """Tokens: the source's, or those that are left of it without its padding."""
    trimmed = whisper.size_of(source, trim=True)
    held = [one for name in (whisper.EMBEDDING, f"{whisper.EMBEDDING}_quantized") if (one := decoder.records.get(name))]
    return trimmed if held and trimmed in held[0].shape else int(source.config["vocab_size"])


def _other(found: OnnxFile, wanted: Graph) -> Iterator[str]:
    """Where a graph is another than the source's."""
    held: dict[str, Held] = {name: (one.shape, str(one.dtype)) for name, one in found.records.items()}
    yield from other_tensors(held, {one.name: (one.shape, str(one.dtype)) for one in wanted.stored})
    for what, mine, theirs in (
        ("nodes", found.nodes, wanted.nodes), ("inputs", found.inputs, wanted.inputs),
        ("outputs", found.outputs, wanted.outputs),
    ):  # fmt: skip
        if len(mine) != len(theirs):
            yield f"{found.path.name} has {len(mine)} {what}, by the source {len(theirs)}"
        elif mine != theirs:
            first = next(i for i, pair in enumerate(zip(mine, theirs, strict=True)) if pair[0] != pair[1])
            yield f"of {found.path.name}'s {what} number {first + 1} is another"
    for one in wanted.stored:
        record = found.records.get(one.name)
        if one.weight is None and record is not None and _raw(record).tobytes() != one.data:
            yield f"{one.name} of {found.path.name} has another value"


def _structure(
    found: list[OnnxFile], paths: GraphPaths, source: Model, size: int, problems: list[str] | None
) -> Iterator[Verdict]:
    for one, part, inputs, outputs in zip(found, PARTS, ([MEL], INPUTS), (CROSS, OUTPUTS), strict=True):
        # by their order, in which sherpa-onnx takes them; attention may follow the outputs
        right = one.input_names == list(inputs) and one.output_names[: len(outputs)] == list(outputs)
        told = f"{', '.join(one.input_names)} -> {', '.join(one.output_names)}"
        yield judged(
            0, f"inputs and outputs of the {part}", "" if right else f"others, or in another order: {told}", told
        )
    if problems is None:
        what = "graph and weights"
        yield flagged(0, what, f"made by {found[0].producer or 'nobody'}: its weights have no names to be known by")
    else:
        told = f"{sum(len(one.nodes) for one in found)} nodes, {sum(len(one.records) for one in found)} constants"
        yield judged(0, "nodes, names, shapes and types", some(problems), told, problems=problems)
    yield _metadata(found[0], source, size)
    yield _table(paths.tokens, source, size)
    yield judged(0, "no NaN, no infinity", some(_not_finite(found)))


def _metadata(encoder: OnnxFile, source: Model, size: int) -> Verdict:
    """What sherpa-onnx reads there, key by key."""
    what, heads = "metadata", side.alignment_of(source, size)[0]
    if side.family_of(whisper.token_ids(source)) is None:
        return skipped(0, what, "the source has no tokenizer of Whisper's: --tokenizer DIR")
    wanted = side.metadata(source, "", size, heads)
    if "n_alignment_heads" not in encoder.metadata:  # of graphs that do not tell what is looked at
        wanted = {key: value for key, value in wanted.items() if "alignment_heads" not in key}
    wrong = [f"no {key}" for key in ASKED if key not in encoder.metadata]
    wrong += [f"{key} is {encoder.metadata[key][:30]}, by the source {value[:30]}" for key, value in wanted.items()
              if key in encoder.metadata and key not in NAMED and encoder.metadata[key] != value]  # fmt: skip
    return judged(0, what, some(wrong, 3), f"{len(encoder.metadata)} keys", wrong=len(wrong))


def _table(path: Path, source: Model, size: int) -> Verdict:
    what = "tokens, id for id"
    if side.family_of(whisper.token_ids(source)) is None:
        return skipped(0, what, "the source has no tokenizer of Whisper's: --tokenizer DIR")
    mine = token_table(path)
    theirs = {int(i): word for word, _, i in (line.partition(" ") for line in side.table(source, size).splitlines())}
    wrong = [f"token {i} is {mine.get(i)!r}" for i, word in theirs.items()
             if i not in mine or side.base64(mine[i]) != word]  # fmt: skip
    wrong += [f"token {i} is no text" for i in mine.keys() - theirs.keys()]
    return judged(0, what, some(wrong, 2), f"{len(mine):,}", wrong=len(wrong))


def _raw(record: StoredAt) -> NDArray[np.uint8]:
    return MappedFile(record.path).bytes()[record.start : record.start + record.nbytes]


def _not_finite(found: list[OnnxFile]) -> Iterator[str]:
    for one in found:
        for record in one.records.values():
            dtype = NAMES.get(record.dtype, "")
            if dtype in ("float32", "float16") and record.nbytes and not finite(_raw(record), dtype):
                yield record.name


def _tensors(found: list[OnnxFile], wanted: list[Graph], source: Model) -> Iterator[TensorProof]:
    for file, graph in zip(found, wanted, strict=True):
        held: dict[Weight, list[Stored]] = {}
        for one in graph.stored:
            if one.weight is not None:
                held.setdefault(one.weight, []).append(one)
        for weight, stored in held.items():
            yield _proof(file, weight, stored, source)


def _proof(file: OnnxFile, weight: Weight, stored: list[Stored], source: Model) -> TensorProof:
    """A weight by its rows, which are columns there where it is a matrix."""
    first = file.records[stored[0].name]
    dtype = NAMES[first.dtype]
    whole = _raw(first).view(dtype).reshape(first.shape)
    turned = weight.form == "matrix" or dtype == "int8"
    scales = floats(_raw(file.records[stored[1].name]), "float32") if len(stored) > 1 else None
    distance, at, wrong = Distance(), 0, -1
    for values in blocks(whisper.tensor_of(source, weight.tensor), weight.row):
        rows = np.asarray(values, np.float32).reshape(-1, weight.row)[: weight.rows - at]
        mine = whole[:, at : at + len(rows)].T if turned else whole.reshape(weight.rows, -1)[at : at + len(rows)]
        step = scales[at : at + len(rows), None] if scales is not None else None
        if step is None:
            other = np.ascontiguousarray(mine) != rounded(rows, dtype)
            distance.add(mine, rows)
        else:
            other = ~(np.abs(mine - rows / step) <= HALF + SLACK)
            distance.add(mine * step, rows)
        if wrong < 0 and other.any():
            wrong = at * weight.row + int(np.flatnonzero(other)[0])
        at += len(rows)
    problem = f"differs from the source in {dtype} from its value {wrong:,} on" if wrong >= 0 else ""
    problem = problem or (_unused(whole) if scales is not None else "")
    return TensorProof(weight.tensor, dtype, None if scales is not None else wrong < 0, distance.error, problem)


def _unused(whole: NDArray[np.generic]) -> str:
    """A scale that is too large wastes the range, which no value shows: the largest of a row must fill it."""
    largest = np.abs(whole.astype(np.int16)).max(0)
    wrong = np.flatnonzero((largest != 127) & (largest != 0))
    return f"uses {int(largest[wrong[0]])} of 127 steps in row {int(wrong[0])}" if len(wrong) else ""
