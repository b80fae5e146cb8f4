"""Many merges of the same models in memory: weights, deltas, spectra and the last unscaled delta are kept.

For searches: thirty settings of a method read each file once, decompose each matrix once, and, where settings differ in
`lambda` alone, merge once. Results agree with `chorus merge` to float32 rounding (the factor is applied last here).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock, local
from typing import Any

from chorus.checkpoints.dtypes import torch_dtype
from chorus.checkpoints.lazy_tensor import FileTensor, MemoryTensor
from chorus.lazy import lazy
from chorus.linalg.lapack import one_blas_thread
from chorus.merge.arithmetic.compute import Computation
from chorus.merge.arithmetic.reader import Reader
from chorus.merge.arithmetic.work import work_of
from chorus.merge.method import METHODS
from chorus.merge.plan import COPY, Input, Plan, TensorPlan
from chorus.merge.runs.engine import check_duplicates

torch = lazy("torch")

DEFAULT_BUDGET_BYTES = 6_000_000_000
FACTOR = "lambda_"  # a factor of the merged delta, in every method that has it (a contract test holds them to it)


class Store:
    """What is kept between merges, up to a budget; safe for threads. Has the interface of a cache of tensors."""

    limit = 1  # as a cache: not turned off

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used = 0
        self._kept: dict[Any, Any] = {}
        self._lock = Lock()

    def get(self, key: Any) -> Any:
        return self._kept.get(key)

    def put(self, key: Any, value: Any) -> None:
        """Keep a tensor or a map of such, if there is room."""
        tensors = value.values() if isinstance(value, Mapping) else [value]
        size = sum(t.numel() * t.element_size() for t in tensors if hasattr(t, "numel"))
        with self._lock:
            before = self._kept.get(key)
            if before is not None or self.used + size > self.budget_bytes:
                return
            self._kept[key] = value
            self.used += size

    def replace(self, key: Any, value: Any) -> None:
        """Keep a value in the place of an earlier one, whatever it takes: one for each tensor."""
        with self._lock:
            self._kept[key] = value


class ResidentReader(Reader):
    """A reader that keeps what it widened; `names` are the models', the same in every plan."""

    def __init__(self, plan: Plan, store: Store) -> None:
        options = plan.options
        super().__init__(
            plan.models, device=options.device, allow_nonfinite=options.allow_nonfinite, cache=store,  # type: ignore[arg-type]
        )  # fmt: skip
        self.store, self.names = store, [str(r) for r in plan.references]

    def _key(self, *which: Input) -> tuple[Any, ...]:
        return (self.device, *((self.names[w.model], w.tensor) for w in which))

    def values(self, which: Input, start: int, stop: int) -> Any:
        key = ("values", self._key(which))
        kept = self.store.get(key)
        if kept is None:
            numel = math.prod(self.tensor(which).shape)
            kept = super().values(which, 0, numel).clone()
            self._blocks.pop(which, None)
            self.store.put(key, kept)
        return kept[start:stop]

    def whole_delta(self, which: Input, base: Input, numel: int) -> Any:
        key = ("delta", self._key(which, base))
        kept = self.store.get(key)
        if kept is None:
            kept = super().whole_delta(which, base, numel)
            self.store.put(key, kept)
        return kept

    def digest(self, which: Input) -> str:
        key = ("digest", self._key(which))
        kept = self.store.get(key)
        if kept is None:
            kept = super().digest(which) if isinstance(self.tensor(which), FileTensor) else repr(key)
            self.store.replace(key, kept)
        return str(kept)


class Resident:
    """Merges plans in memory, one after the other, and keeps what the next may use."""

    def __init__(self, budget_bytes: int = DEFAULT_BUDGET_BYTES) -> None:
        self.store = Store(budget_bytes)
        self._checked: set[tuple[str, ...]] = set()

    def merge(self, plan: Plan, variant: str | None = None) -> dict[str, MemoryTensor]:
        """All tensors of a plan, computed, in the type that the plan writes."""
        chosen = plan.variants[0] if variant is None else next(v for v in plan.variants if v.name == variant)
        names = tuple(str(r) for r in plan.references)
        if names not in self._checked:
            check_duplicates(plan)
            self._checked.add(names)
        threads = local()

        def one(tensor: TensorPlan) -> tuple[str, MemoryTensor]:
            with torch.inference_mode():
                torch.set_num_threads(1)
                if not hasattr(threads, "reader"):
                    threads.reader = ResidentReader(plan, self.store)
                threads.reader.start()
                values = self._values(plan, tensor, threads.reader).to(torch_dtype(tensor.dtype))
                return tensor.name, MemoryTensor(tensor.name, values.reshape(tensor.shape).cpu())

        before = torch.get_num_threads()
        ordered = sorted(chosen.tensors.values(), key=lambda t: -t.numel)
        try:
            with one_blas_thread(), ThreadPoolExecutor(plan.jobs) as pool:
                made = dict(pool.map(one, ordered))
        finally:
            torch.set_num_threads(before)
        return {name: made[name] for name in chosen.tensors}

    def _values(self, plan: Plan, tensor: TensorPlan, reader: ResidentReader) -> Any:
        """The merged values, flat."""
        if tensor.method == COPY:
            return reader.tensor(tensor.inputs[0]).flat(0, tensor.numel)
        factor = tensor.parameters.get(FACTOR)
        if factor is None or METHODS.get(tensor.method).space != "deltas" or not tensor.base:
            return self._computed(plan, tensor, reader, whole=True)
        settings = tuple(sorted((k, repr(v)) for k, v in tensor.parameters.items() if k != FACTOR))
        mark = (tensor.method, settings, reader._key(*tensor.all_inputs), plan.seed)
        place = ("unscaled", tensor.name)
        kept = self.store.get(place)
        if kept is None or kept[0] != mark:
            unscaled = replace(tensor, parameters={**tensor.parameters, FACTOR: 1.0})
            kept = mark, self._computed(plan, unscaled, reader, whole=False)
            self.store.replace(place, kept)
        return reader.values(tensor.base, 0, tensor.numel) + factor * kept[1]

    def _computed(self, plan: Plan, tensor: TensorPlan, reader: ResidentReader, *, whole: bool) -> Any:
        """The method over all ranges; `whole` adds the base."""
        work = work_of(tensor, reader, seed=plan.seed, block_values=plan.options.block_values, in_torch=True)
        assert isinstance(work, Computation)
        work.prepare()
        parts = [(work.compute if whole else work.method_values)(a, b).clone() for a, b in work.ranges()]
        return torch.cat(parts) if parts else torch.empty(0)
