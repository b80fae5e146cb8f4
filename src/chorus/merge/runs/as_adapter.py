"""Carries out a plan whose result is an adapter: every tensor's merged delta in factors, the base not written.

Deltas of adapters stay factored: linear methods concatenate them, subspace methods work on them as they are, and
neither forms a matrix of the model's size. Other methods, and models that are no adapters, give one dense delta at
a time, which is cut to the stated rank.

    W' = W + L R              a LoRA module, alpha = rank
    W' = (1 + t) W + L R      rows scaled, as DoRA's merges are: a DoRA module with m = |W'| row by row
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, local
from typing import TYPE_CHECKING, Any

from chorus.checkpoints.adapter import AdaptedTensor, row_norms, row_scaled_delta, same_tensor
from chorus.checkpoints.adapter_report import AdapterResult, ModuleReport
from chorus.checkpoints.adapter_writer import AdapterWriter, Layout
from chorus.checkpoints.lazy_tensor import Checkpoint, FileTensor
from chorus.checkpoints.model import Model, OpenOptions
from chorus.checkpoints.open import open_model
from chorus.checkpoints.writer import appearing_whole
from chorus.errors import PlanError, UsageError
from chorus.lazy import lazy
from chorus.linalg import native
from chorus.linalg.low_rank import LowRank, low_rank_sum, recompress, svd
from chorus.linalg.ranks import RankRule
from chorus.linalg.spectra import singular_triplets
from chorus.merge.arithmetic.compute import Computation
from chorus.merge.arithmetic.reader import Reader
from chorus.merge.arithmetic.treatment import matrix_shape
from chorus.merge.arithmetic.whole import Whole
from chorus.merge.arithmetic.work import work_of
from chorus.merge.method import METHODS
from chorus.merge.plan import COPY, Plan, TensorPlan, Variant, split_of
from chorus.merge.runs.adapter_files import write_adapter_files
from chorus.merge.runs.engine import cache_for, one_thread_each
from chorus.runtime import pick_device

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Progress = Callable[[int, int], None]
NOT_DECOMPOSED = ("norm", "bias", "position", "embedding")


@dataclass(frozen=True)
class _Delta:
    """A merged delta: diag(rows) W + factors. `values` instead of factors where it is dense."""

    rows: Any
    factors: LowRank | None
    values: Any
    way: str


def run_as_adapter(
    plan: Plan, output: Path, rule: RankRule, progress: Progress = lambda done, total: None
) -> AdapterResult:
    """Carry out a plan into adapter directories, one a variant. Raises `PlanError` where that cannot be."""
    pick_device(plan.options.device)
    check_adapter_plan(plan, rule)
    whole = AdapterResult(output, [v.name for v in plan.variants if v.name])
    with appearing_whole(output, overwrite=plan.options.overwrite) as partial:
        for variant in plan.variants:
            whole.add(_Run(plan, variant, partial.path / variant.name, rule).run(progress))
    return whole


def check_adapter_plan(plan: Plan, rule: RankRule) -> None:
    """Refuse what cannot become an adapter before any work."""
    problems = []
    base = base_of(plan)
    stands = base.checkpoint
    for model in plan.models:
        adapted = [t for t in model.checkpoint.values() if isinstance(t, AdaptedTensor)]
        if not all(_stands_on(t, model, stands) for t in adapted):
            problems.append(f"{model.label}: its adapter stands on another base than {base.label}")
    for variant in plan.variants:
        if _scales_base(plan, variant):
            problems.append(
                f"{variant.method}: weights that do not sum to one scale the base itself, which no adapter holds; "
                "write normalize: true, or use task_arithmetic"
            )
        for tensor in variant.tensors.values():
            if tensor.name not in stands:
                problems.append(f"{tensor.name}: the base has no such tensor; layers cannot be stacked in an adapter")
            elif not rule.given and len(tensor.shape) > 1 and _way(plan, tensor, stands) == "dense":
                problems.append(
                    f"{variant.method} on {plan.models[tensor.inputs[0].model].label} makes matrices of full rank: "
                    "say --max-rank, --energy or --budget"
                )
    if problems:
        raise PlanError(list(dict.fromkeys(problems)), source=plan.recipe.source)


def base_of(plan: Plan) -> Model:
    """The model that the result stands on: the recipe's base, or the one base of all its adapters."""
    if plan.base is not None:
        return plan.models[plan.base]
    bases = {r.without_adapter for r in plan.references}
    if len(bases) != 1 or any(r.adapter is None for r in plan.references):
        raise PlanError(["an adapter stands on a base: the recipe needs a base_model"], source=plan.recipe.source)
    options = plan.options
    return open_model(bases.pop(), OpenOptions(options.allow_pickle, options.offline, options.cache_dir))


def _way(plan: Plan, tensor: TensorPlan, stands: Checkpoint) -> str:
    """How a tensor's delta comes about: "none" (no model changes it), "linear", "factors", "dense" or "whole"."""
    base = stands[tensor.name]
    stored = [plan.models[i.model].checkpoint[i.tensor] for i in tensor.inputs]
    if tensor.method == COPY or all(same_tensor(t, base) for t in stored):
        return "none" if same_tensor(stored[0], base) else "whole"
    adapted = [isinstance(t, AdaptedTensor) and same_tensor(t.base, base) for t in stored]
    tuned = any(isinstance(t, AdaptedTensor) for t in stored)
    if len(tensor.shape) < 2 or (not tuned and tensor.role.kind in NOT_DECOMPOSED):
        return "whole"
    if not all(a or same_tensor(t, base) for a, t in zip(adapted, stored, strict=True)):
        return "dense"
    scaled = any(isinstance(t, AdaptedTensor) and t.factors.magnitude is not None for t in stored)
    exact = all(same_tensor(t, base) or row_form(t, base) for t in stored)
    method = METHODS.get(tensor.method)
    if method.linear and split_of(tensor) == "element":
        return "linear" if exact else "dense"
    return "factors" if method.low_rank and tensor.treatment == "matrix" and not scaled else "dense"


def row_form(tensor: Any, base: Any) -> bool:
    """Whether a tensor is the base's with rows scaled plus low rank (DoRA on transposed weights scales columns)."""
    if not isinstance(tensor, AdaptedTensor) or not same_tensor(tensor.base, base):
        return False
    plain = len(tensor.shape) == 2 and not (tensor.factors.transposed or tensor.factors.embedding)
    return tensor.factors.magnitude is None or plain


def _stands_on(tensor: AdaptedTensor, model: Model, stands: Checkpoint) -> bool:
    """Whether an adapter's tensor stands on this base, or on a copy of its own in the adapter's file."""
    own = isinstance(tensor.base, FileTensor) and tensor.base.file.path in model.adapter_paths.values()
    return own or (tensor.name in stands and same_tensor(tensor.base, stands[tensor.name]))


def _scales_base(plan: Plan, variant: Variant) -> bool:
    """Whether a mean of weights does not sum to one, so that it changes every tensor of the base."""
    method = METHODS.get(variant.method)
    for tensor in variant.tensors.values():
        if method.space != "deltas" and tensor.parameters.get("normalize") is False:
            return abs(sum(tensor.parameters["weight"]) - 1) > 1e-6
    return False


def _must_be_linear(module: str, layout: Layout) -> None:
    """Row scaling, which is DoRA's form, is exact for linear modules only, and holds for a whole adapter."""
    if layout != "linear":
        raise UsageError(
            f"{module}: the result scales rows (DoRA, or a mean on the sphere), which of a module of its kind "
            f"({layout}) has no exact form in an adapter",
            f"leave it out (exclude: [{{name: {module}}}]), or merge into a model",
        )


class _Run:
    """One variant's way into an adapter directory."""

    def __init__(self, plan: Plan, variant: Variant, directory: Path, rule: RankRule) -> None:
        self.plan, self.variant, self.rule = plan, variant, rule
        self.result = AdapterResult(directory, [])
        self.model = base_of(plan)
        self.base = self.model.checkpoint
        written = plan.recipe.recipe.out_dtype or plan.recipe.recipe.dtype
        dtype = next(iter(variant.tensors.values())).dtype if written else "float32"
        self.writer = AdapterWriter(directory, dtype)
        self.lock, self.thread = Lock(), local()
        self.ranks: dict[str, int] = {}
        self.cache = cache_for(plan)
        self.tensors = [(t, _way(plan, t, self.base)) for t in variant.tensors.values()]

    def run(self, progress: Progress) -> AdapterResult:
        work = [(t, way) for t, way in self.tensors if way != "none"]
        work.sort(key=lambda pair: (-pair[0].numel, pair[0].name))
        total = sum(t.nbytes for t, _ in work)
        with one_thread_each(decomposes=True):
            if self.rule.budget is not None:
                self._spend(work)
            done = 0
            with ThreadPoolExecutor(self.plan.jobs, thread_name_prefix="adapter") as pool:
                for tensor, report in zip([t for t, _ in work], pool.map(self._threaded, work), strict=True):
                    done += tensor.nbytes
                    progress(done, total)
                    if report is not None:
                        self.result.modules.append(report)
            self._complete_dora()
        self.result.modules.sort(key=lambda r: r.tensor)
        self.result.dropped.sort()
        self.result.saved = sorted(self.writer.saved)
        self.result.parameters = self.writer.parameters
        self.result.warnings = write_adapter_files(self.plan, self.variant, self.model, self.writer, self.result)
        return self.result

    def _complete_dora(self) -> None:
        """DoRA holds for all modules of an adapter: the plain ones get the magnitudes that change nothing."""
        for module, layout in self.writer.without_magnitude():
            _must_be_linear(module, layout)
            left, right = self.writer.factors(module)
            tensor = self.base[f"{module}.weight"]
            magnitude = row_norms(tensor, LowRank(left, right, tensor.shape))
            self.writer.add(module, left, right, magnitude=magnitude)

    def _spend(self, work: list[tuple[TensorPlan, str]]) -> None:
        """A first round that only looks at the spectra and shares the budget out."""
        values, shapes = {}, {}
        for tensor, way in work:
            if way != "whole":
                delta = self._delta(tensor, way)
                values[tensor.name] = self._spectrum(delta, tensor)
                shapes[tensor.name] = matrix_shape(tensor.shape)
        self.ranks = self.rule.ranks(values, shapes)

    def _spectrum(self, delta: _Delta, tensor: TensorPlan) -> list[float]:
        if delta.factors is not None:
            return [float(v) for v in svd(delta.factors)[1]]
        found = singular_triplets(delta.values.reshape(matrix_shape(tensor.shape)), lambda values: 0)
        assert found.spectrum is not None
        return [float(v) for v in found.spectrum]

    def _threaded(self, pair: tuple[TensorPlan, str]) -> ModuleReport | None:
        with torch.inference_mode():
            torch.set_num_threads(1)
            tensor, way = pair
            if way != "whole":
                return self._module(tensor, self._delta(tensor, way))
            self._whole(tensor)
            return None

    def _reader(self) -> Reader:
        if not hasattr(self.thread, "reader"):
            options = self.plan.options
            self.thread.reader = Reader(
                self.plan.models, device=options.device, allow_nonfinite=options.allow_nonfinite, cache=self.cache
            )
        reader: Reader = self.thread.reader
        reader.start()
        return reader

    def _work(self, tensor: TensorPlan) -> Computation:
        options = self.plan.options
        work = work_of(tensor, self._reader(), seed=self.plan.seed, block_values=options.block_values, in_torch=True)
        assert isinstance(work, Computation)
        return work

    def _delta(self, tensor: TensorPlan, way: str) -> _Delta:
        """The merged delta of a matrix."""
        work = self._work(tensor)
        if way == "linear":
            return self._linear(tensor, work)
        if way == "factors":
            assert isinstance(work, Whole)
            merged = work.merged_delta()
            assert isinstance(merged, LowRank)
            return _Delta(None, merged.matrix(), None, "factors")
        return _Delta(None, None, self._dense(tensor, work), "dense")

    def _linear(self, tensor: TensorPlan, work: Computation) -> _Delta:
        """sum_i c_i W_i - W in factors: what the coefficients lack to a sum of one scales the base."""
        assert work.method is not None
        coefficients = work.call(work.method.function, native.Terms(work.count), work.keywords(work))
        rows, factors = None, []
        for which, c in zip(tensor.inputs, coefficients, strict=True):
            found = row_scaled_delta(work.reader.tensor(which), self.base[tensor.name])
            assert found is not None
            scale, delta = found
            for x in (delta.left, delta.right):
                work.reader.checked(which, x)
            rows = scale * c if rows is None else rows + scale * c
            factors.append(delta.matrix().scaled(c))
        if not work.deltas:
            rows = rows + (sum(coefficients) - 1)
        still = rows is None or float(rows.abs().max()) < 1e-6
        return _Delta(None if still else rows, low_rank_sum(factors, [1.0] * len(factors)), None, "linear")

    def _blocks(self, tensor: TensorPlan, work: Computation) -> Iterator[tuple[int, int, Any]]:
        """The merged delta of one tensor a range at a time: start, stop, values."""
        work.prepare()
        for start, stop in work.ranges():
            merged = work.compute(start, stop)
            origin = work.base
            if origin is None:
                origin = self.base[tensor.name].flat(start, stop).float()
            yield start, stop, (merged - origin).float().cpu()

    def _dense(self, tensor: TensorPlan, work: Computation) -> Any:
        """The merged delta of one tensor, whole."""
        out = torch.empty(tensor.numel)
        for start, stop, values in self._blocks(tensor, work):
            out[start:stop] = values
        return out

    def _module(self, tensor: TensorPlan, delta: _Delta) -> ModuleReport | None:
        """Cut a delta to its rank and write its factors."""
        shape = matrix_shape(tensor.shape)
        if delta.factors is not None:
            left, right, energy = self._cut_factors(tensor, delta.factors)
        else:
            matrix = delta.values.reshape(shape)
            squares = float(matrix.double().square().sum())
            found = singular_triplets(matrix, self._limit(tensor), projection=True)
            root = found.values.sqrt()
            left, right = found.left * root, (found.right * root).T
            energy = float(found.values.double().square().sum()) / squares if squares else 1.0
        magnitude = None
        if delta.rows is not None:
            _must_be_linear(tensor.name.removesuffix(".weight"), self._layout(tensor))
            factors = LowRank(left, right, tensor.shape)
            scale = 1 + delta.rows
            magnitude = row_norms(self.base[tensor.name], factors, delta.rows) * scale.sign()
            left = left / scale[:, None]
        elif not left.shape[1] or not float(left.abs().max()) > 0:
            return ModuleReport(tensor.name, 0, 1.0, delta.way)
        self.writer.add(
            tensor.name.removesuffix(".weight"),
            left,
            right,
            layout=self._layout(tensor),
            kernel=tensor.shape[2:],
            magnitude=magnitude,
        )
        return ModuleReport(tensor.name, int(left.shape[1]), min(energy, 1.0), delta.way)

    def _limit(self, tensor: TensorPlan) -> Any:
        """The rank rule for one matrix, as the kernels take it."""
        if self.rule.budget is not None:
            return self.ranks[tensor.name]
        return self.rule.max_rank if self.rule.energy is None else self.rule.rank_of

    def _cut_factors(self, tensor: TensorPlan, factors: LowRank) -> tuple[Any, Any, float]:
        limit = self._limit(tensor)
        if limit is None or (isinstance(limit, int) and limit >= factors.rank):
            return factors.left, factors.right, 1.0
        if isinstance(limit, int):
            kept, rest = recompress(factors, limit)
            squares = float((kept.left.double().norm(dim=0) ** 4).sum())  # each column is as long as sqrt(s)
            return kept.left, kept.right, squares / (squares + rest**2) if squares else 1.0
        found = singular_triplets(factors, limit)
        assert found.spectrum is not None
        squares = float(found.spectrum.square().sum())
        root = found.values.sqrt()
        energy = float(found.values.double().square().sum()) / squares if squares else 1.0
        return found.left * root, (found.right * root).T, energy

    def _layout(self, tensor: TensorPlan) -> Layout:
        stored = [self.plan.models[i.model].checkpoint[i.tensor] for i in tensor.inputs]
        adapted = [t for t in stored if isinstance(t, AdaptedTensor)]
        if any(t.factors.transposed for t in adapted):
            return "transposed"
        if tensor.role.kind == "embedding" or any(t.factors.embedding for t in adapted):
            return "embedding"
        return "convolution" if len(tensor.shape) > 2 else "linear"

    def _saved_by_adapter(self, tensor: TensorPlan) -> bool:
        """Whether an adapter holds this tensor whole; embeddings of full fine-tunes would make an adapter large."""
        for which in tensor.inputs:
            model = self.plan.models[which.model]
            stored = model.checkpoint[which.tensor]
            if isinstance(stored, FileTensor) and stored.file.path in model.adapter_paths.values():
                return True
        return False

    def _in_matrix_module(self, name: str) -> bool:
        weight = self.base.get(f"{name.rpartition('.')[0]}.weight")
        return weight is not None and len(weight.shape) > 1

    def _whole(self, tensor: TensorPlan) -> None:
        """A tensor without factors: kept whole where PEFT can keep it so, else dropped and its size told."""
        work = self._work(tensor)
        size = math.sqrt(sum(float(v.double().square().sum()) for _, _, v in self._blocks(tensor, work)))
        if not size:
            return
        if len(tensor.shape) < 2 or self._saved_by_adapter(tensor):
            merged = self.base[tensor.name].read().float() + self._dense(tensor, work).reshape(tensor.shape)
            if self.writer.add_whole(tensor.name, merged, matrix=self._in_matrix_module(tensor.name)):
                return
        with self.lock:
            self.result.dropped.append((tensor.name, size))
