"""CTranslate2's directory, as faster-whisper loads it, beside the Whisper that it was made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus.checkpoints.lazy_tensor import MappedFile
from chorus.checkpoints.model import Model
from chorus.errors import CheckpointError, some
from chorus.export import whisper
from chorus.export.ctranslate2.form import CTranslate2Form, open_converted
from chorus.export.ctranslate2.layout import (
    EMBEDDING,
    FLOATS,
    HEAD,
    WEIGHTS,
    Part,
    Variable,
    constants,
    variables,
)
from chorus.export.ctranslate2.reader import CTranslate2File, Record, read
from chorus.export.ctranslate2.side_files import FRONT_END, SETTINGS, TOKENIZER, VOCABULARY, front_end, settings_of
from chorus.export.values import BLOCK
from chorus.files import MAX_TOKENIZER, parse_json, present, read_json, read_text
from chorus.plain import JsonMap
from chorus.verify.formats.faster_whisper import client
from chorus.verify.protocol import Subject, TensorProof
from chorus.verify.structure import names_of, other_ids, refuse_other
from chorus.verify.values import Distance, finite, floats, rounded, source_values
from chorus.verify.verdict import Verdict, flagged, judged, skipped

HALF = 0.5  # of a step: what rounding to whole numbers may be off by
SLACK = 1e-3  # of a step: the product with a scale is rounded as well
SHOWN = 40  # letters of a list that is told
HEARS = ("sampling_rate", "hop_length", "chunk_length", "n_fft")  # what faster-whisper takes of the front end's file


class CTranslate2Verifier:
    """The format (see protocol.py)."""

    def takes(self, path: Path) -> bool:
        return CTranslate2Form().takes(path)

    def open(self, path: Path, source: Model) -> Subject:
        """As the protocol says; a source that is no Whisper is refused."""
        refuse_other(source)
        place = path if path.is_dir() else path.parent
        found = read(place / WEIGHTS)
        config = {**source.config, "vocab_size": _size(found, source)}
        kind = _kind(found, config)
        exact = kind in FLOATS
        plain = not any(found.problems(config))
        return Subject(
            place, "ctranslate2", kind, exact, structure=_structure(found, place, source, config),
            tensors=_tensors(found, source, config) if plain else (),
            # every type is loaded as it computes on this processor without loss: float16 is none of a processor's
            clients=(client(place, "float32" if exact else "int8"),),
            tokens=_table(place, source, int(config["vocab_size"])),
            nbytes=sum(one.stat().st_size for one in place.iterdir() if one.is_file()),
        )  # fmt: skip


def _size(found: CTranslate2File, source: Model) -> int:
    """Tokens: the source's, or those that are left of it without its padding."""
    record, stored = found.record(EMBEDDING), int(source.config["vocab_size"])
    trimmed = whisper.size_of(source, trim=True)
    return trimmed if record is not None and record.shape[:1] == (trimmed,) else stored


def _kind(found: CTranslate2File, config: JsonMap) -> str:
    """The type by what most matrices are in, and what the rest is in."""
    records = [(one, found.record(one.name)) for one in variables(config)]
    matrices = Counter(record.dtype for one, record in records if record is not None and one.matrix)
    others = Counter(record.dtype for one, record in records if record is not None and not one.matrix)
    main, rest = (kinds.most_common(1)[0][0] if kinds else "" for kinds in (matrices, others))
    return main if main in FLOATS or main == "int16" else f"{main}_{rest}"


def _structure(found: CTranslate2File, place: Path, source: Model, config: JsonMap) -> Iterator[Verdict]:
    problems = list(found.problems(dict(config)))
    yield judged(
        0, "variables, shapes and types", some(problems), f"{len(found.records)} entries, {len(found.aliases)} of them "
        f"twice, {found.size:,} bytes to the end", problems=problems,
    )  # fmt: skip
    wanted = constants(config)
    other = [f"{name} is {found.constant(name)}, by the config {value}" for name, (_, value) in wanted.items()
             if found.constant(name) != value]  # fmt: skip
    yield judged(0, "constants", some(other), f"{len(wanted)}")
    yield _head(found)
    yield _vocabulary(place, source, int(config["vocab_size"]))
    yield _tokenizer(place, source)
    yield _settings(place, source, int(config["vocab_size"]))
    yield _front_end(place, source)
    try:
        open_converted(place, place.name)
        problem = ""
    except CheckpointError as error:
        problem = error.message
    yield judged(0, "opens as a model", problem)
    yield judged(0, "no NaN, no infinity", some(_not_finite(found)))


def _head(found: CTranslate2File) -> Verdict:
    there, same = found.record(HEAD), found.record(HEAD) is found.record(EMBEDDING)
    problem = "" if there is not None else f"it lacks {HEAD}"
    return judged(0, "head", problem, "tied to the embedding" if same else "of its own")


def _vocabulary(place: Path, source: Model, size: int) -> Verdict:
    what, ids = "tokens, id for id", whisper.token_ids(source)
    if not ids:
        return skipped(0, what, "the source has no tokenizer: --tokenizer DIR")
    if not present(place / VOCABULARY):
        return judged(0, what, f"no {VOCABULARY}, without which no token has a text")
    mine = parse_json(read_text(place / VOCABULARY, MAX_TOKENIZER), place / VOCABULARY)
    if not isinstance(mine, list) or len(mine) != size:
        return judged(0, what, f"{len(mine):,} tokens, the model has {size:,}")
    wrong = [f"token {i} is {mine[i]!r}, in the tokenizer {name!r}" for name, i in ids.items()
             if i < size and mine[i] not in names_of(name)]  # fmt: skip
    return judged(0, what, some(wrong, 2), f"{size:,}", wrong=len(wrong))


def _with_tokenizer(place: Path, source: Model) -> Model:
    """The source with the directory's tokenizer, by which faster-whisper makes texts of tokens."""
    return replace(source, tokenizer_directory=place / TOKENIZER)


def _tokenizer(place: Path, source: Model) -> Verdict:
    what, theirs = f"{TOKENIZER}, id for id", whisper.token_ids(source)
    if not present(place / TOKENIZER):
        return flagged(0, what, f"no {TOKENIZER}: faster-whisper fetches openai/whisper-tiny's in its place")
    if not theirs:
        return skipped(0, what, "the source has no tokenizer: --tokenizer DIR")
    try:
        mine = whisper.token_ids(_with_tokenizer(place, source))
    except CheckpointError as error:
        return judged(0, what, error.message)
    wrong = other_ids(mine, theirs)
    # one that is longer by tokens of another model's: the source's own alone would be found in it
    by_id = {i: name for name, i in theirs.items()}
    wrong += [f"{name} is {i}, where the source has {by_id[i]}" for name, i in mine.items()
              if i in by_id and by_id[i] not in names_of(name)]  # fmt: skip
    return judged(0, what, some(wrong, 2), f"{len(mine):,}", wrong=len(wrong))


def _table(place: Path, source: Model, size: int) -> list[bytes] | None:
    """The bytes of its text tokens; None where there are none to look at, which the structure tells."""
    if not present(place / TOKENIZER):
        return None
    try:
        return whisper.text_tokens(_with_tokenizer(place, source), size)
    except CheckpointError:
        return None


def _settings(place: Path, source: Model, size: int) -> Verdict:
    """The numbers of config.json, which CTranslate2 trusts; of no list the order matters."""
    what, ids = SETTINGS, whisper.token_ids(source)
    if not present(place / SETTINGS):
        return judged(0, what, "it is missing: what is never written, and the languages, are told there")
    if not ids:
        return skipped(0, what, "the source has no tokenizer: --tokenizer DIR")
    try:
        mine = read_json(place / SETTINGS)
    except CheckpointError as error:
        return judged(0, what, error.message)
    wanted, _ = settings_of(source, ids, size)
    # a list that is not there and an empty one are the same to its loader
    other = [f"{key} is {_shown(mine.get(key))}, by the source {_shown(value)}" for key, value in wanted.items()
             if _unordered(mine.get(key)) != _unordered(value)]  # fmt: skip
    return judged(0, what, some(other, 2), f"{len(wanted)} settings", other=len(other))


def _unordered(value: object) -> object:
    return sorted(map(repr, map(_plain, value))) if isinstance(value, list | tuple) else value or []


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value  # a pair, as a file has it


def _shown(value: object) -> str:
    told = str(value)
    return told if len(told) <= SHOWN else f"{told[:SHOWN]}..."


def _front_end(place: Path, source: Model) -> Verdict:
    what, wanted = FRONT_END, int(source.config["num_mel_bins"])
    there = present(place / FRONT_END)
    try:
        mine = read_json(place / FRONT_END) if there else {}
    except CheckpointError as error:
        return judged(0, what, error.message)
    bins = mine.get("feature_size", 80)  # what faster-whisper takes without it
    if bins != wanted:
        return judged(0, what, f"faster-whisper makes {bins} mel bins of it, the model takes {wanted}")
    if not there:
        return flagged(0, what, f"it is missing: faster-whisper takes {bins} mel bins for granted, as the model does")
    theirs = front_end(source)
    other = [f"{key} is {mine[key]}, the source's {theirs[key]}" for key in HEARS
             if key in mine and key in theirs and mine[key] != theirs[key]]  # fmt: skip
    return judged(0, what, some(other), f"{bins} mel bins")


def _raw(file: MappedFile, record: Record) -> NDArray[np.uint8]:
    return file.bytes()[record.start : record.start + record.nbytes]


def _not_finite(found: CTranslate2File) -> Iterator[str]:
    file = MappedFile(found.path)
    for record in found.records.values():
        if record.dtype in FLOATS and not finite(_raw(file, record), record.dtype):
            yield record.name


def _tensors(found: CTranslate2File, source: Model, config: JsonMap) -> Iterator[TensorProof]:
    file = MappedFile(found.path)
    for variable in variables(config):
        record = found.record(variable.name)
        assert record is not None, "one of the problems"
        yield _proof(file, found, variable, record, source)


def _proof(file: MappedFile, found: CTranslate2File, variable: Variable, record: Record, source: Model) -> TensorProof:
    """All parts of a variable, one below the other, block by block."""
    scale = found.scale(record)
    scales = None if scale is None else floats(_raw(file, scale), "float32")
    raw, size = _raw(file, record), record.nbytes // variable.count
    distance, first, at = Distance(), -1, 0
    for part in variable.parts:
        for values in _blocks(source, part, variable.row):
            mine = floats(raw[at * size : (at + len(values)) * size], record.dtype)
            row_scales = None
            if scales is not None:
                rows = at // variable.row + np.arange(len(values)) // variable.row
                row_scales = scales[rows] if len(scales) > 1 else scales[0]
            other = _differing(values, mine, row_scales, record.dtype)
            first = at + int(other[0]) if first < 0 and len(other) else first
            held = mine if row_scales is None else mine / row_scales
            distance.add(held, values)
            at += len(values)
    problem = f"differs from the source in {record.dtype} from its value {first:,} on" if first >= 0 else ""
    problem = problem or _scales_problem(scales, raw, record)
    # of rounded numbers each value was looked at, and not the bytes
    return TensorProof(variable.name, record.dtype, None if scales is not None else first < 0, distance.error, problem)


def _blocks(source: Model, part: Part, row: int) -> Iterator[NDArray[np.float32]]:
    step = max(1, BLOCK // row) * row
    for start in range(0, part.count, step):
        stop = min(start + step, part.count)
        if not part.tensor:  # keys have no bias
            yield np.zeros(stop - start, np.float32)
        else:
            yield source_values(whisper.tensor_of(source, _tied(source, part.tensor)), start, stop)


def _tied(source: Model, name: str) -> str:
    """A head that is not stored is the embedding."""
    there = source.spelling.get(name, name) in source.checkpoint
    return whisper.EMBEDDING if name == whisper.HEAD and not there else name


def _differing(
    values: NDArray[np.float32], mine: NDArray[np.float32], scales: NDArray[np.float32] | None, dtype: str
) -> NDArray[np.intp]:
    """Places of values that are not the source's in this type. Whole numbers are rounded: to the nearest of them."""
    if scales is not None:
        return np.flatnonzero(~(np.abs(mine - values * scales) <= HALF + SLACK))
    wanted = rounded(values, dtype)
    return np.flatnonzero(~(mine == floats(wanted.view(np.uint8), dtype)))


def _scales_problem(scales: NDArray[np.float32] | None, raw: NDArray[np.uint8], record: Record) -> str:
    """A scale that is too small wastes the range, which no value shows: the largest of a row must fill it."""
    if scales is None or record.dtype != "int8":
        return ""
    largest = np.abs(raw.view(np.int8).reshape(len(scales), -1).astype(np.int16)).max(1)
    wrong = np.flatnonzero((largest != 127) & (largest != 0))
    return f"uses {int(largest[wrong[0]])} of 127 steps in row {int(wrong[0])}" if len(wrong) else ""
