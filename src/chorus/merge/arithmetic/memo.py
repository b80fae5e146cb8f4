"""What a subspace method computed of the same deltas before: found in the cache by their content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from chorus.cache import TensorCache, cache_key
from chorus.provenance import versions

if TYPE_CHECKING:
    from torch import Tensor


class CachedMemo:
    """The memo of one tensor's merge. Keys hold the bytes of base and models (of adapters: of their factors)."""

    def __init__(self, cache: TensorCache, shape: tuple[int, ...], device: str, identity: Callable[[int], str]) -> None:
        """`identity(i)` says by content what the delta of model i is computed from."""
        self.cache, self.shape, self.device, self.identity = cache, shape, device, identity

    def __call__(
        self,
        kind: str,
        models: Sequence[int],
        settings: Mapping[str, object],
        compute: Callable[[], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        key = cache_key(
            kind=kind,
            settings=dict(settings),
            shape=self.shape,
            deltas=[self.identity(i) for i in models],
            # cuda:0 and cuda:1 compute alike, while a GPU's last digits are not the CPU's
            device=self.device.split(":")[0],
            # another LAPACK rounds otherwise, and a hit must give the bytes that computing would
            versions={k: v for k, v in versions().items() if k in ("torch", "numpy", "scipy")},
        )
        found = self.cache.get(key)
        if found is not None:
            return {name: tensor.to(self.device) for name, tensor in found.items()}
        computed = compute()
        self.cache.put(key, computed)
        return computed
