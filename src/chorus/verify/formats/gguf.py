"""llama.cpp's file of a language model beside the model that it was made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.checkpoints.model import Model
from chorus.errors import CheckpointError, some
from chorus.export.ggml.layout import TYPES, NumberType, count_of
from chorus.export.gguf import keys as k
from chorus.export.gguf.exporter import words_of
from chorus.export.gguf.kinds import check_kind, heads_of, kind_of
from chorus.export.gguf.package import Keys, package
from chorus.export.gguf.tensors import GgufTensor, entries, named, turned_heads
from chorus.export.gguf.writer import FILE_TYPES
from chorus.export.protocol import ExportOptions
from chorus.export.values import Array
from chorus.plain import JsonMap, JsonObject
from chorus.verify.formats import gguf_file
from chorus.verify.formats.blocks import BlockTensor, not_finite, proof
from chorus.verify.formats.gguf_file import GgufHeld, read
from chorus.verify.formats.hf import transformers_client
from chorus.verify.front_end import in_runtime
from chorus.verify.protocol import Client, Subject, TensorProof
from chorus.verify.runtime import RuntimeChild
from chorus.verify.structure import Held, OtherSourceError, other_tensors
from chorus.verify.values import source_values
from chorus.verify.verdict import Verdict, flagged, judged, skipped

LLAMA_CPP, LOADED = "llama.cpp", "chorus.verify.formats.llama_cpp_runtime:LoadedGguf"
# what llama.cpp works out itself where a file does not say it, as those of its own converter
DERIVED = {"attention.key_length", "attention.value_length", "rope.dimension_count", "vocab_size"}
TOKENS = "tokenizer.ggml."
LISTS = ("tokens", "token_type", "merges", "scores")


class GgufVerifier:
    """The format (see protocol.py)."""

    def takes(self, path: Path) -> bool:
        return gguf_file.takes(path, "model")

    def open(self, path: Path, source: Model) -> Subject:
        """As the protocol says; a source that is no such language model is refused."""
        refuse_other_kind(source)
        found, made = read(path), entries(source, package())
        kind = main_type(found)
        problems = list(other_tensors(held(found), wanted(found, made)))
        return Subject(
            path, "gguf", kind.name, not kind.quantised, structure=_structure(found, source, made, problems, kind),
            tensors=() if problems else _tensors(found, source, made), clients=(_llama_cpp(path), _transformers(path)),
            nbytes=found.size, as_float16=sum(one.stored(TYPES["f16"]).nbytes(one.count) for one in made),
        )  # fmt: skip


def refuse_other_kind(source: Model) -> None:
    """`OtherSourceError` where the source is no language model that llama.cpp runs."""
    problem = next((one.problem for one in check_kind(source) if one.problem), "")
    if problem:
        raise OtherSourceError(f"{source.label}: {problem}", "name what it was made of")


def main_type(found: GgufHeld) -> NumberType:
    """The type of most matrices."""
    kinds = Counter(one.kind.name for one in found.entries.values() if len(one.shape) > 1)
    return TYPES[kinds.most_common(1)[0][0] if kinds else "f32"]


def _llama_cpp(path: Path) -> Client:
    opens = partial(RuntimeChild, LOADED, {"path": str(path)}, what=f"{LLAMA_CPP}'s process")
    return Client(
        LLAMA_CPP, "llama-cpp-python", lambda: find_spec("llama_cpp") is not None, opens,
        partial(in_runtime, opens, LLAMA_CPP, composes=True),
    )  # fmt: skip


def _transformers(path: Path) -> Client:
    # it builds a Qwen's tokenizer with a normaliser, whether the source has one or not
    return transformers_client("SavedLanguageModel", {"path": str(path.parent), "file": path.name}, composes=True)


def held(found: GgufHeld) -> dict[str, Held]:
    """Name -> shape and type of every tensor."""
    return {name: (one.shape, one.kind.name) for name, one in found.entries.items()}


def wanted(found: GgufHeld, made: list[GgufTensor]) -> dict[str, Held]:
    """What the source makes; matrices in whatever type they have, as llama.cpp's own mixtures have several."""
    result = {}
    for one in made:
        there, stored = found.entries.get(one.name), one.stored(TYPES["f16"])
        free = stored.name == "f16" and there is not None
        result[one.name] = (one.shape, there.kind.name if there is not None and free else "f32")
    return result


def _structure(
    found: GgufHeld, source: Model, made: list[GgufTensor], problems: list[str], kind: NumberType
) -> Iterator[Verdict]:
    told = f"{len(found.entries)} tensors, {found.size:,} bytes"
    yield judged(0, "names, shapes and types", some(problems), told, problems=problems)
    yield file_type(found, kind)
    yield behind(found)
    yield from _keys(found, source, made, kind)
    yield judged(0, "no NaN, no infinity", some(not_finite(blocks_of(found))))


def file_type(found: GgufHeld, kind: NumberType) -> Verdict:
    """Whether the file says the type that its matrices have; mixtures have numbers of their own."""
    what, said = "type that it says", found.keys.get("general.file_type")
    name = next((name for name, number in FILE_TYPES.items() if number == said), None)
    if name is None:
        return flagged(0, what, f"{said}, which is none of one type alone; most matrices are {kind.name}")
    return judged(0, what, f"{name}, most matrices are {kind.name}" if name != kind.name else "", name)


def behind(found: GgufHeld) -> Verdict:
    """Whether the file ends where its last tensor does, but for what fills up."""
    align = int(found.keys.get("general.alignment", 32))
    end = max((one.start + one.kind.nbytes(count_of(one.shape)) for one in found.entries.values()), default=0)
    problem = (
        "" if end <= found.size <= -(-end // align) * align else f"it has {found.size:,} bytes, of use are {end:,}"
    )
    return judged(0, "its end", problem, f"{found.size:,} bytes")


def _keys(found: GgufHeld, source: Model, made: list[GgufTensor], kind: NumberType) -> Iterator[Verdict]:
    language = kind_of(source)
    # the keys by the exporter's own words: that they are right is shown by a runtime, L3
    told = package().GGUFWriter(path=None, arch=language.name)
    k.describe_model(told, source, language, made)
    architecture = f"{language.name}."
    theirs = found.keys.get("general.architecture")
    yield judged(0, "architecture", f"{theirs}, the source's is {language.name}" if theirs != language.name else "",
                 language.name)  # fmt: skip
    yield _alike("sizes and positions", _under(_said(told), architecture), found.keys, architecture, DERIVED)
    try:
        words = words_of(source, ExportOptions())
    except CheckpointError as error:
        yield skipped(0, "tokens, id for id", f"{error.message}: {error.hint}")
        return
    told = package().GGUFWriter(path=None, arch=language.name)
    k.describe_words(told, words)
    said = _said(told)
    template = {name for name in said if name.startswith("tokenizer.chat_template")}
    mine = _under(said, TOKENS)
    yield _lists(mine, found.keys)
    yield _pre(mine, found.keys)
    # whole templates: a chat that is begun in another way is another model
    yield _alike("special tokens", {n: v for n, v in mine.items() if n not in (*LISTS, "pre")}, found.keys, TOKENS)
    yield _alike("chat template", {name: said[name] for name in template}, found.keys, "")


def _said(writer: Keys) -> JsonObject:
    """What was told to the package's writer."""
    return {name: one.value for name, one in writer.kv_data[0].items()}


def _under(keys: JsonMap, prefix: str) -> JsonObject:
    return {name.removeprefix(prefix): value for name, value in keys.items() if name.startswith(prefix)}


def _same(mine: object, theirs: object) -> bool:
    # a file has float32 of what a config says
    if isinstance(theirs, float) and isinstance(mine, float | int):
        return bool(np.float32(mine) == np.float32(theirs))
    return bool(mine == theirs)


def _alike(what: str, wanted: JsonMap, keys: JsonMap, prefix: str, free: Collection[str] = ()) -> Verdict:
    """Keys that the source makes and the file has otherwise; those that are `free` it need not have."""
    other = []
    for name, value in wanted.items():
        mine = keys.get(prefix + name)
        if mine is None and name not in free:
            other.append(f"no {name}")
        elif mine is not None and not _same(mine, value):
            other.append(f"{name} is {str(mine)[:40]}, by the source {str(value)[:40]}")
    return judged(0, what, some(other, 3), f"{len(wanted)} settings")


def _lists(wanted: JsonMap, keys: JsonMap) -> Verdict:
    other = []
    for name in LISTS:
        mine, theirs = keys.get(TOKENS + name), wanted.get(name)
        if mine is None and theirs is None:
            continue
        mine, theirs = list(mine or ()), list(theirs or ())
        if len(mine) != len(theirs):
            other.append(f"{name}: {len(mine):,}, in the tokenizer {len(theirs):,}")
            continue
        at = next((i for i, pair in enumerate(zip(mine, theirs, strict=True)) if not _same(*pair)), None)
        if at is not None:
            other.append(f"{name}: {at} is {mine[at]!r}, in the tokenizer {theirs[at]!r}")
    return judged(0, "tokens, id for id", some(other, 2), f"{len(wanted['tokens']):,}")


def _pre(wanted: JsonMap, keys: JsonMap) -> Verdict:
    """How texts are cut before their tokens: --pre-tokenizer may have named another."""
    what, mine, theirs = "how texts are cut", keys.get(f"{TOKENS}pre"), wanted["pre"]
    if mine == theirs:
        return judged(0, what, "", str(theirs))
    return flagged(0, what, f"by the rules of {mine}, the source's usual ones are {theirs}")


def blocks_of(found: GgufHeld) -> Iterator[BlockTensor]:
    """Every tensor as its blocks."""
    for name, one in found.entries.items():
        yield BlockTensor(name, one.kind, one.shape, partial(found.raw, name))


def _tensors(found: GgufHeld, source: Model, made: list[GgufTensor]) -> Iterator[TensorProof]:
    own = named(source, package())
    shapes = {name: tensor.shape for name, (_, tensor) in own.items()}
    heads, keys, _ = heads_of(source, shapes)
    parts = {one.name: one.parts for one in made}
    for one in blocks_of(found):
        if one.name not in own:  # what scales positions: computed, in no file of the source
            yield proof(one, values_in(parts[one.name]()))
            continue
        tensor = own[one.name][1]
        yield proof(one, partial(_values, tensor, turned_heads(one.name, kind_of(source), heads, keys)))


def values_in(parts: Iterator[Array]) -> Callable[[int, int], NDArray[np.float32]]:
    """Values so and so of a small tensor's parts."""
    whole = np.concatenate([np.asarray(part, np.float32).reshape(-1) for part in parts])

    def values(start: int, stop: int) -> NDArray[np.float32]:
        return whole[start:stop]

    return values


def _values(tensor: LazyTensor, heads: int, start: int, stop: int) -> NDArray[np.float32]:
    """The source's values in llama.cpp's order of rows: of a head that is turned, row by row from its two halves."""
    if not heads:  # the same order in both
        return source_values(tensor, start, stop)
    row = count_of(tensor.shape[1:])
    width = tensor.shape[0] // heads
    rows = np.arange(start // row, stop // row)
    # llama.cpp's row 2 i of a head is transformers' row i, its row 2 i + 1 the one half a head later
    head, place = rows // width, rows % width
    chosen = head * width + place // 2 + place % 2 * (width // 2)
    first = int(head[0]) * width
    last = (int(head[-1]) + 1) * width
    found: NDArray[np.float32] = source_values(tensor, first * row, last * row).reshape(-1, row)[chosen - first]
    return found.reshape(-1)
