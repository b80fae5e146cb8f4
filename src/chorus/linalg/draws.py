"""Random numbers from a counter: the draw of a value depends on its key and flat index, on nothing else.

So a mask does not change with block size, threads, order, device, or what else is merged. A key comes from
(seed, method, the model's index in the recipe, the tensor's name).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.identity import number_of
from chorus.lazy import lazy

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from chorus.linalg import kernels
else:
    np = lazy("numpy")
    torch = lazy("torch")
    kernels = lazy("chorus.linalg.kernels")


MASK32 = 0xFFFFFFFF


def key_of(seed: int, method: str, model: int, tensor: str) -> int:
    """A 64-bit key; the same on every machine."""
    return number_of(f"{seed}|{method}|{model}|{tensor}")


def keep_random(x: Tensor, probability: float, key: int, offset: int) -> Tensor:
    """x where a Bernoulli draw of this probability succeeds, 0 elsewhere; x flat, its first value at `offset`."""
    if probability >= 1:
        return x
    key += offset >> 32  # the counter's upper half moves the key
    first, key0, key1 = offset & MASK32, key & MASK32, (key >> 32) & MASK32
    limit = round(probability * 2**32)  # the draw is a 32-bit number: kept where it lies below
    if x.device.type == "cpu" and x.dtype == torch.float32:
        out = torch.empty_like(x)
        numbers = (np.uint32(n) for n in (first, key0, key1, limit))  # numba compiles anew for every type it meets
        kernels.keep_random(x.numpy(), *numbers, out.numpy())
        return out
    index = torch.arange(x.numel(), device=x.device) + first
    h = _mix(((index * 0x9E3779B9) + key0) & MASK32)
    h = _mix(h ^ key1)
    return torch.where(h < limit, x, torch.zeros_like(x))


def _mix(h: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finaliser, in int64."""
    h = h ^ (h >> 16)
    h = (h * 0x85EBCA6B) & MASK32
    h = h ^ (h >> 13)
    h = (h * 0xC2B2AE35) & MASK32
    return h ^ (h >> 16)
