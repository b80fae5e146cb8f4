"""How a model's tensors are laid out in weight files: one, or shards with an index."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

from chorus.checkpoints.dtypes import itemsize
from chorus.checkpoints.model import SINGLE
from chorus.checkpoints.safetensors_header import build_header
from chorus.plain import JsonMap, JsonObject

DEFAULT_SHARD_BYTES = 5_000_000_000  # mergekit's --out-shard-size, which counts bytes whatever its help says
Stored = tuple[str, str, tuple[int, ...]]  # a tensor's name, type and shape


@dataclass(frozen=True)
class Shard:
    """One output file: its header, its whole size, where each tensor starts."""

    file: str
    header: bytes
    size: int
    starts: dict[str, int]


def nbytes_of(tensor: Stored) -> int:
    """Bytes of a tensor's values."""
    _, dtype, shape = tensor
    return math.prod(shape) * itemsize(dtype)


def lay_out(tensors: Sequence[Stored], max_shard_bytes: int) -> list[Shard]:
    """Assign tensors to files, in the order that they have, none above the limit where it can be kept."""
    groups: list[list[Stored]] = [[]]
    size = 0
    for tensor in tensors:
        # files are cut between tensors only: one above the limit has a file to itself
        if groups[-1] and size + nbytes_of(tensor) > max_shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += nbytes_of(tensor)
    shards = []
    for i, group in enumerate(groups, 1):
        file = SINGLE if len(groups) == 1 else f"model-{i:05d}-of-{len(groups):05d}.safetensors"
        # now, before any value is known: with every place fixed, threads and resumes may write in any order
        header, starts = build_header(group)
        shards.append(Shard(file, header, len(header) + sum(map(nbytes_of, group)), starts))
    return shards


def stored_config(config: JsonMap, tensors: Sequence[Stored]) -> JsonObject:
    """A config made true of what is stored: the type of its weights, and nothing of the files that it came from."""
    found = copy.deepcopy(dict(config))
    found.pop("_name_or_path", None)  # a path on the machine that saved the model
    found.pop("transformers_weights", None)  # its files, which the result has not
    if tensors:
        # one word for a file that may hold several types: that of most of its bytes
        largest = max(tensors, key=lambda tensor: (nbytes_of(tensor), tensor[0]))
        found.pop("torch_dtype", None)  # what transformers 4 calls it
        found["dtype"] = largest[1]
    return found


def index_of(shards: Sequence[Shard]) -> JsonObject:
    """The index of several: which file holds which tensor."""
    weight_map = {name: shard.file for shard in shards for name in shard.starts}
    # of the tensors, without the headers, as transformers counts
    nbytes = sum(shard.size - len(shard.header) for shard in shards)
    return {"metadata": {"total_size": nbytes}, "weight_map": dict(sorted(weight_map.items()))}
