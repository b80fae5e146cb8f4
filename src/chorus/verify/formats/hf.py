"""A model directory as transformers reads it, beside the model that it was made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus.checkpoints.dtypes import FLOATS, itemsize
from chorus.checkpoints.lazy_tensor import FileTensor, LazyTensor
from chorus.checkpoints.model import Model
from chorus.checkpoints.open import open_model
from chorus.checkpoints.ties import settled
from chorus.checkpoints.weights import is_converted
from chorus.errors import CheckpointError, some
from chorus.export import whisper
from chorus.export.hf.exporter import files_of, whole_generation_of
from chorus.export.values import BLOCK
from chorus.files import present, read_json
from chorus.models.causal import KIND
from chorus.models.registry import kind_of
from chorus.plain import JsonMap
from chorus.verify.front_end import in_runtime
from chorus.verify.protocol import Client, Subject, TensorProof
from chorus.verify.ready import extractor
from chorus.verify.runtime import RuntimeChild
from chorus.verify.structure import Held, names_of, other_ids, other_tensors
from chorus.verify.values import finite, plain_proof
from chorus.verify.verdict import Verdict, flagged, holds, judged, skipped

NAME, LOADED = "transformers", "chorus.verify.formats.transformers_runtime:"
# of a config, what tells of the files and who wrote them, not of the model
OF_FILES = {
    "dtype",
    "torch_dtype",
    "transformers_version",
    "_name_or_path",
    "transformers_weights",
    "_from_model_config",
}


class HfVerifier:
    """The format (see protocol.py)."""

    def takes(self, path: Path) -> bool:
        return path.is_dir() and present(path / "config.json") and not is_converted(path)

    def open(self, path: Path, source: Model) -> Subject:
        """As the protocol says."""
        # a head that is stored beside the embedding it is tied to, and one that is not stored, are the same
        found, wanted = settled(open_model(path)), settled(source)
        theirs, mine = _tensors(wanted), _tensors(found)
        held = {name: (tensor.shape, tensor.stored_dtype) for name, tensor in mine.items()}
        problems = [*found.warnings, *other_tensors(held, _wanted(theirs, held))]
        sizes = Counter[str]()
        for shape, dtype in held.values():
            sizes[dtype] += prod(shape) * itemsize(dtype)
        kind = sizes.most_common(1)[0][0] if sizes else ""
        return Subject(
            path, "hf", kind, True, structure=_structure(found, wanted, problems, kind),
            tensors=() if problems else _proofs(mine, theirs), clients=_clients(path, source),
            nbytes=sum(one.stat().st_size for one in path.iterdir() if one.is_file()),
        )  # fmt: skip


def transformers_client(loaded: str, settings: JsonMap, *, composes: bool = False) -> Client:
    """transformers, in a process of its own, of one class of transformers_runtime.py (`composes`: see in_runtime)."""
    opens = partial(RuntimeChild, LOADED + loaded, settings, what=f"{NAME}' process")
    return Client(
        NAME, "transformers torch", lambda: find_spec("torch") is not None, opens,
        partial(in_runtime, opens, NAME, composes=composes),
    )  # fmt: skip


def _clients(path: Path, source: Model) -> tuple[Client, ...]:
    if whisper.is_whisper(source):
        return (transformers_client("SavedWhisper", {"path": str(path)}),)
    language = kind_of(source.config) is KIND
    return (transformers_client("SavedLanguageModel", {"path": str(path)}),) if language else ()


def _tensors(model: Model) -> dict[str, LazyTensor]:
    """By the architecture's names, whatever each of the two calls them."""
    names = model.spelling or {name: name for name in model.checkpoint}
    return {own: model.checkpoint[stored] for own, stored in names.items()}


def _wanted(source: Mapping[str, LazyTensor], held: Mapping[str, Held]) -> dict[str, Held]:
    """The source's; in any float that the directory has them in, counters and masks in their own type."""
    wanted = {}
    for name, tensor in source.items():
        mine = held.get(name, ((), ""))[1]
        free = tensor.stored_dtype in FLOATS and mine in FLOATS
        wanted[name] = (tensor.shape, mine if free else tensor.stored_dtype)
    return wanted


def _structure(found: Model, source: Model, problems: list[str], kind: str) -> Iterator[Verdict]:
    told = f"{len(found.checkpoint)} tensors in {len(found.paths)} files"
    yield judged(0, "names, shapes and types", some(problems, 2), told, problems=problems)
    yield _config(found, source, kind)
    yield _generation(found, source)
    yield from _tokens(found, source)
    if whisper.is_whisper(source):
        yield from (judged(0, one.what, one.problem) for one in extractor(found))
    yield judged(0, "no NaN, no infinity", some(_not_finite(found)))


def _config(found: Model, source: Model, kind: str) -> Verdict:
    mine, theirs = found.config, source.config
    # what only one of the two writes down is a default of the other
    both = [key for key in theirs if key in mine and key not in OF_FILES]
    other = [f"{key} is {mine[key]!r}, the source's {theirs[key]!r}" for key in both if mine[key] != theirs[key]]
    said = mine.get("dtype", mine.get("torch_dtype"))
    other += [f"it says {said}, most values are {kind}"] if said not in (None, kind) else []
    return judged(0, "config.json", some(other, 2), f"{len(both)} settings")


def _generation(found: Model, source: Model) -> Verdict:
    what = "generation_config.json"
    wanted = whole_generation_of(source, files_of(source))
    place = (found.directory or Path()) / what
    if not present(place):
        problem = "it is missing: languages, tasks and special tokens are told there" if wanted else ""
        return judged(0, what, problem, "the source has none either")
    mine = read_json(place)
    both = [key for key in wanted if key in mine and key not in OF_FILES]
    other = [f"{key} is {str(mine[key])[:40]}, the source's {str(wanted[key])[:40]}" for key in both
             if mine[key] != wanted[key]]  # fmt: skip
    return judged(0, what, some(other, 2), f"{len(both)} settings")


def _tokens(found: Model, source: Model) -> Iterator[Verdict]:
    what, mine, theirs = "tokens, id for id", whisper.token_ids(found), whisper.token_ids(source)
    if not theirs:
        yield skipped(0, what, "the source has no tokenizer: --tokenizer DIR")
        return
    other = other_ids(mine, theirs)
    yield judged(0, what, some(other, 2), f"{len(theirs):,}", other=len(other))
    # they are in no text of the source's, and somebody put them there
    more = sorted(name for name in mine if not names_of(name) & theirs.keys())
    if more:
        yield flagged(0, "tokens of its own", some(map(repr, more), 3))
    rows = int(found.config.get("vocab_size") or 0)
    last = max(mine.values(), default=-1)
    told = f"token {last} has no row in {rows:,}" if rows and last >= rows else ""
    yield judged(0, "a row for every token", told, f"{rows:,}") if rows else holds(0, "a row for every token")


def _not_finite(found: Model) -> Iterator[str]:
    for name, tensor in found.checkpoint.items():
        raw, count = _raw(tensor), prod(tensor.shape)
        starts = range(0, count, BLOCK) if tensor.stored_dtype in FLOATS else ()
        if not all(finite(raw(at, min(at + BLOCK, count)), tensor.stored_dtype) for at in starts):
            yield name


# the bytes, not the values: a mapped file shows them without a copy
def _raw(tensor: LazyTensor) -> partial[NDArray[np.uint8]]:
    if not isinstance(tensor, FileTensor):
        raise CheckpointError(f"{tensor.name}: not of a safetensors file", "save it again, as safetensors")
    return partial(tensor.bytes)


def _proofs(mine: Mapping[str, LazyTensor], theirs: Mapping[str, LazyTensor]) -> Iterator[TensorProof]:
    for name, tensor in mine.items():
        yield plain_proof(name, tensor.stored_dtype, prod(tensor.shape), _raw(tensor), theirs[name])
