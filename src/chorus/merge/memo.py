"""What a subspace method computed of the same deltas before: found in the cache by their content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chorus.cache import Cache, key_of
from chorus.provenance import versions

if TYPE_CHECKING:
    from chorus.merge.whole import Whole


class CachedMemo:
    """The memo of one tensor's merge. Keys hold the bytes of base and models (of adapters: of their factors)."""

    def __init__(self, owner: Whole, cache: Cache) -> None:
        self.owner, self.cache = owner, cache

    def __call__(
        self, kind: str, models: Sequence[int], settings: Mapping[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        key = key_of(
            kind=kind,
            settings=dict(settings),
            shape=self.owner.shape,
            deltas=[self.owner.identity(i) for i in models],
            device=str(self.owner.reader.device).split(":")[0],
            versions={k: v for k, v in versions().items() if k in ("torch", "numpy", "scipy")},
        )
        found = self.cache.get(key)
        if found is not None:
            return {name: tensor.to(self.owner.reader.device) for name, tensor in found.items()}
        made = compute()
        self.cache.put(key, made)
        return made
