"""SALMONN's `.pth`: a flat state dict of what was trained, LoRA of the LLM among it; the frozen models lie elsewhere.

    {"model": {name: tensor}, "config": {"model": {"lora_rank": 8, "lora_alpha": 32}}, "optimizer": ..., "epoch": ...}

as its runner saves them and its model reads them, the key "model" without strictness (bytedance/SALMONN, branch
salmonn: runner.py, models/salmonn.py). Of a module with LoRA the product s B A is one tensor here, `MODULE.weight`,
known by its factors: two files' products can be added, their factors by themselves cannot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.architectures.salmonn import CLASS, MODEL_TYPE
from chorus.checkpoints.adapted import AdaptedTensor, Factors
from chorus.checkpoints.adapter_names import FACTOR
from chorus.checkpoints.dtypes import torch_dtype
from chorus.checkpoints.lazy_tensor import Checkpoint, LazyTensor, MemoryTensor
from chorus.checkpoints.model import Model
from chorus.errors import CheckpointError, some
from chorus.files import shown
from chorus.lazy import lazy
from chorus.linalg.low_rank import LowRank, low_rank_sum
from chorus.plain import JsonObject

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

WEIGHTS, CONFIG, LORA = "model", "config", "_lora"  # keys of the file, and of the config here
MARKS = ("speech_llama_proj.", "speech_Qformer.", "speech_query_tokens")
MOST = 1e9  # whole numbers of Python may be larger than any float
ALPHA = 32  # where the file has no settings: what SALMONN's model and all its configs say
AGAIN = "download it again, or save it again by SALMONN's own runner"


class Zeros:
    """What LoRA's product is added to here: nothing. The LLM's own weight lies in another file."""

    def __init__(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        self.name, self.shape, self.dtype, self.stored_dtype = name, shape, dtype, dtype

    def flat(self, start: int, stop: int) -> Tensor:
        return torch.zeros(stop - start, dtype=torch_dtype(self.dtype))

    def read(self) -> Tensor:
        return self.flat(0, math.prod(self.shape)).reshape(self.shape)


# the same object for all files: two products that are added to one weight are known as such
zeros = lru_cache(maxsize=None)(Zeros)


def low_rank_of(tensor: LazyTensor) -> LowRank | None:
    """A tensor as factors, where it is a product of LoRA's alone; None for others."""
    if isinstance(tensor, AdaptedTensor) and isinstance(tensor.base, Zeros):
        left, right, _ = tensor.factors_as_stored()
        tensor.release()
        return LowRank(left * tensor.factors.scale, right, tensor.shape)
    return tensor.low_rank() if isinstance(tensor, ShiftedProduct) else None


class ShiftedProduct:
    """A product of LoRA's, and a weighted difference to it that is known by its factors too; in float32."""

    dtype = "float32"

    def __init__(self, base: LazyTensor, left: LazyTensor, right: LazyTensor) -> None:
        self.name, self.shape, self.base, self.left, self.right = base.name, base.shape, base, left, right
        self.stored_dtype = base.stored_dtype

    def shift(self) -> LowRank:
        """The difference."""
        return LowRank(self.left.read().float(), self.right.read().float(), self.shape)

    def low_rank(self) -> LowRank:
        """The sum, as factors."""
        below = low_rank_of(self.base)
        assert below is not None
        return low_rank_sum([below, self.shift()], [1.0, 1.0])

    def difference(self, start: int, stop: int) -> Tensor:
        """Values `start` to `stop` of the difference."""
        columns = math.prod(self.shape[1:])
        first, last = start // columns, -(-stop // columns)
        return self.shift().rows(first, last).reshape(-1)[start - first * columns : stop - first * columns]

    def flat(self, start: int, stop: int) -> Tensor:
        return self.base.flat(start, stop).float() + self.difference(start, stop)

    def read(self) -> Tensor:
        return self.flat(0, math.prod(self.shape)).reshape(self.shape)


def is_state(state: object) -> bool:
    """Whether what was unpickled is SALMONN's: by the names of its tensors."""
    # by what no other model has: the key is anybody's, and a LoRA alone may be of any LLM
    weights = state.get(WEIGHTS) if isinstance(state, dict) else None
    return isinstance(weights, dict) and any(str(name).startswith(MARKS) for name in weights)


def open_salmonn(path: Path, label: str, state: JsonObject, tensors: Mapping[str, MemoryTensor]) -> Model:
    """The model of a file's content and its tensors: dense ones as they are, LoRA's pairs as products."""
    found: dict[str, LazyTensor] = {}
    halves: dict[str, dict[str, MemoryTensor]] = {}
    middles = set()
    for name, tensor in tensors.items():
        parts = FACTOR.fullmatch(name)
        if parts is None:
            found[name] = tensor
        elif parts[2] in ("lora_A", "lora_B") and parts[4] == "weight":
            halves.setdefault(parts[1], {})[parts[2]] = tensor
            # the adapter's own name, which PEFT 0.3 writes and SALMONN asks for
            middles.add(f".{parts[3]}" if parts[3] else "")
        else:
            raise CheckpointError(f"{path}: {name} is no plain LoRA, which SALMONN has", AGAIN)
    rank, alpha = _rank_of(path, halves), _alpha_of(path, state)
    if halves:
        _check_rank(path, state, rank)
    for module, pair in halves.items():
        a, b = pair["lora_A"], pair["lora_B"]
        name, shape = f"{module}.weight", (b.shape[0], a.shape[1])
        if name in found:
            raise CheckpointError(f"{path}: {name} stands there whole and as LoRA", AGAIN)
        factors = Factors(module, scale=alpha / rank, a=a, b=b)
        found[name] = AdaptedTensor(zeros(name, shape, a.dtype), factors)
    lora: JsonObject = {"rank": rank, "alpha": alpha, "modules": sorted(halves), "named": "".join(sorted(middles)[:1])}
    # of two adapters SALMONN's model would load one, and pass over the other in silence
    if len(middles) > 1:
        raise CheckpointError(f"{path}: adapters of several names", AGAIN)
    config: JsonObject = {"model_type": MODEL_TYPE, "architectures": [CLASS], LORA: lora}
    return Model(label, Checkpoint(found, label), config, None, paths={path.name: path})


def _rank_of(path: Path, halves: Mapping[str, Mapping[str, MemoryTensor]]) -> int:
    """The rank that all pairs have; 1 where there are none."""
    for module, pair in halves.items():
        if len(pair) < 2:
            raise CheckpointError(f"{path}: {module} has {next(iter(pair))} alone, half a pair", AGAIN)
        a, b = pair["lora_A"].shape, pair["lora_B"].shape
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or not a[0]:
            raise CheckpointError(
                f"{path}: {module} has factors of {list(a)} and {list(b)}, which make no product", AGAIN
            )
    ranks = sorted({pair["lora_A"].shape[0] for pair in halves.values()})
    if len(ranks) > 1:
        raise CheckpointError(f"{path}: LoRA of the ranks {some(map(str, ranks))}, SALMONN has one", AGAIN)
    return ranks[0] if ranks else 1


def _alpha_of(path: Path, state: JsonObject) -> float:
    alpha = _settings(state).get("lora_alpha", ALPHA)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= MOST:
        raise CheckpointError(f"{path}: lora_alpha is {_told(alpha)} in its config, which is no scale", AGAIN)
    return float(alpha)


def _settings(state: JsonObject) -> JsonObject:
    """What the file says of its model: below `model`, as SALMONN's runner writes it, else beside each other."""
    config = state.get(CONFIG)
    inner = config.get("model", config) if isinstance(config, dict) else None
    return inner if isinstance(inner, dict) else {}


def _told(value: object) -> str:
    """A setting as a message holds it."""
    return "too large" if isinstance(value, int) and value > MOST else shown(repr(value))


def _check_rank(path: Path, state: JsonObject, rank: int) -> None:
    """`CheckpointError` where the config tells another rank than the factors have: of which scale they are is open."""
    said = _settings(state).get("lora_rank", rank)
    if said != rank:
        raise CheckpointError(f"{path}: lora_rank is {_told(said)} in its config, its LoRA has {rank}", AGAIN)
