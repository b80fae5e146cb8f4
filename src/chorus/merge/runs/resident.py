"""Many merges of the same models in memory: weights, deltas, spectra and the last unscaled delta are kept.

For searches: thirty settings of a method read each file once, decompose each matrix once, and, where settings differ in
`lambda` alone, merge once. Results agree with `chorus merge` to float32 rounding (the factor is applied last here).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import replace
from threading import Lock, local
from typing import TYPE_CHECKING

from chorus.checkpoints.dtypes import torch_dtype
from chorus.checkpoints.lazy_tensor import FileTensor, MemoryTensor
from chorus.lazy import lazy
from chorus.merge.arithmetic.reader import Reader
from chorus.merge.arithmetic.tensor_plan import Input, TensorPlan
from chorus.merge.plan import Plan
from chorus.merge.runs.local import spread

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

DEFAULT_BUDGET_BYTES = 6_000_000_000
FACTOR = "lambda_"  # a factor of the merged delta, in every method that has it (a contract test holds them to it)


class Store:
    """What is kept between merges, up to a budget; safe for threads. Named tensors are kept as a cache keeps them."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used = 0
        self.values: dict[Hashable, Tensor] = {}
        self.digests: dict[Hashable, str] = {}
        self.unscaled: dict[str, tuple[Hashable, Tensor]] = {}  # tensor -> what its delta depends on, and the delta
        self._maps: dict[str, dict[str, Tensor]] = {}
        self._lock = Lock()

    def get(self, key: str) -> dict[str, Tensor] | None:
        # without the lock: a map is put there whole, once
        return self._maps.get(key)

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        with self._lock:
            if key not in self._maps and self._fits(list(tensors.values())):
                self._maps[key] = dict(tensors)

    def keep(self, key: Hashable, value: Tensor) -> None:
        """Keep a tensor, if there is room."""
        with self._lock:
            if key not in self.values and self._fits([value]):
                self.values[key] = value

    def _fits(self, tensors: list[Tensor]) -> bool:
        size = sum(t.numel() * t.element_size() for t in tensors)
        # nothing makes room: every setting asks for everything again, so what is thrown out would be missed at once
        if self.used + size > self.budget_bytes:
            return False
        self.used += size
        return True


class ResidentReader(Reader):
    """A reader that keeps what it widened; `names` are the models' fingerprints, the same in every plan."""

    def __init__(self, plan: Plan, store: Store) -> None:
        options = plan.options
        super().__init__(
            plan.sources, device=options.device, allow_nonfinite=options.allow_nonfinite, cache=store
        )  # fmt: skip
        self.store, self.names = store, [model.fingerprint() for model in plan.sources]

    def key(self, *which: Input) -> tuple[Hashable, ...]:
        return (self.device, *((self.names[w.model], w.tensor) for w in which))

    def values(self, which: Input, start: int, stop: int) -> Tensor:
        key = ("values", self.key(which))
        kept = self.store.values.get(key)
        if kept is None:
            numel = math.prod(self.tensor(which).shape)
            # the reader's own stands in a buffer; its slot is free again
            kept = super().values(which, 0, numel).clone()
            self._blocks.pop(which, None)
            self.store.keep(key, kept)
        return kept[start:stop]

    def whole_delta(self, which: Input, base: Input, numel: int) -> Tensor:
        key = ("delta", self.key(which, base))
        kept = self.store.values.get(key)
        if kept is None:
            kept = super().whole_delta(which, base, numel)
            self.store.keep(key, kept)
        return kept

    def digest(self, which: Input) -> str:
        key = self.key(which)
        if key not in self.store.digests:
            stored = isinstance(self.tensor(which), FileTensor)
            # what lies in no file goes by its name, which is enough within one search
            self.store.digests[key] = super().digest(which) if stored else repr(key)
        return self.store.digests[key]


class _ResidentThread(local):
    """A thread's reader of one merge."""

    reader: ResidentReader | None = None


class Resident:
    """Merges plans in memory, one after the other, and keeps what the next may use."""

    def __init__(self, budget_bytes: int = DEFAULT_BUDGET_BYTES) -> None:
        self.store = Store(budget_bytes)

    def merge(self, plan: Plan, variant: str | None = None) -> dict[str, MemoryTensor]:
        """All tensors of a plan, computed, in the type that the plan writes."""
        chosen = plan.variant(variant)
        threads, session = _ResidentThread(), plan.session

        def one(tensor: TensorPlan) -> tuple[str, MemoryTensor]:
            with session.in_thread():
                if threads.reader is None:
                    threads.reader = ResidentReader(plan, self.store)
                threads.reader.start()
                values = self._values(plan, tensor, threads.reader).to(torch_dtype(tensor.dtype))
                return tensor.name, MemoryTensor(tensor.name, values.reshape(tensor.shape).cpu())

        ordered = sorted(chosen.tensors.values(), key=lambda t: -t.numel)
        with session.computing():
            merged = dict(spread(ordered, one, threads=session.threads))
        # in the plan's order, which is not that of the work
        return {name: merged[name] for name in chosen.tensors}

    def _values(self, plan: Plan, tensor: TensorPlan, reader: ResidentReader) -> Tensor:
        """The merged values, flat."""
        if not tensor.steps:
            copied: Tensor = reader.tensor(tensor.inputs[0]).flat(0, tensor.numel)
            return copied
        last = tensor.steps[-1]
        factor = last.parameters.get(FACTOR)
        if not isinstance(factor, float) or last.definition.space != "deltas" or not tensor.base:
            return self._computed(plan, tensor, reader, whole=True)
        unscaled = replace(last, parameters={**last.parameters, FACTOR: 1.0})
        steps = (*tensor.steps[:-1], unscaled)
        # the store outlives the plan: another's delta must not pass for this one's
        made_of = (repr(steps), reader.key(*tensor.all_inputs), plan.seed)
        kept = self.store.unscaled.get(tensor.name)
        if kept is None or kept[0] != made_of:
            kept = made_of, self._computed(plan, replace(tensor, steps=steps), reader, whole=False)
            self.store.unscaled[tensor.name] = kept
        return reader.values(tensor.base, 0, tensor.numel) + factor * kept[1]

    def _computed(self, plan: Plan, tensor: TensorPlan, reader: ResidentReader, *, whole: bool) -> Tensor:
        """The steps over all ranges; `whole` adds the base."""
        work = plan.session.computation(tensor, reader)
        work.prepare()
        compute = work.compute if whole else work.merged_values
        parts = [compute(start, stop).clone() for start, stop in work.ranges()]
        return torch.cat(parts) if parts else torch.empty(0)
