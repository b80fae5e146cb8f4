"""Carries out a plan whose result is an adapter: every tensor's merged delta in factors, the base not written.

Deltas of adapters stay factored: linear methods concatenate them, subspace methods work on them as they are, and
neither forms a matrix of the model's size. Other methods, and models that are no adapters, give one dense delta at
a time, which is cut to the stated rank.

    W' = W + L R              a LoRA module, alpha = rank
    W' = (1 + t) W + L R      rows scaled, as DoRA's merges are: a DoRA module with m = |W'| row by row
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from chorus.architectures.modules import modules_of
from chorus.checkpoints.adapted import AdaptedTensor, row_norms, row_scaled_delta
from chorus.checkpoints.adapter_report import AdapterResult, ModuleReport
from chorus.checkpoints.adapter_writer import AdapterWriter, Layout
from chorus.checkpoints.output_place import refuse_input
from chorus.checkpoints.writer import appearing_whole
from chorus.errors import MisfitError, UsageError
from chorus.lazy import lazy
from chorus.linalg.low_rank import LowRank, low_rank_sum, recompress, svd
from chorus.linalg.ranks import RankRule
from chorus.linalg.spectra import Rank, singular_triplets
from chorus.merge.arithmetic.computation import Computation
from chorus.merge.arithmetic.tensor_plan import TensorPlan
from chorus.merge.arithmetic.treatment import matrix_shape
from chorus.merge.plan import Plan, Variant
from chorus.merge.runs.adapter_files import write_adapter_files
from chorus.merge.runs.adapter_ways import Way, base_of, check_adapter_plan, tied_copies, way_of
from chorus.merge.runs.local import spread
from chorus.progress import Progress
from chorus.runtime import pick_device

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@dataclass(frozen=True)
class _Delta:
    """A merged delta: diag(rows) W + factors. `values` instead of factors where it is dense."""

    rows: torch.Tensor | None
    factors: LowRank | None
    values: torch.Tensor | None
    way: Way


def run_as_adapter(
    plan: Plan, output: Path, rule: RankRule, progress: Progress = lambda done, total: None, *, work: str = ""
) -> AdapterResult:
    """Carry out a plan into adapter directories, one a variant. Raises `PlanError` where that cannot be.

    `work` tells what is written: what a kill left of the same is begun again without being asked.
    """
    pick_device(plan.options.device)
    refuse_input(output, plan.places)
    check_adapter_plan(plan, rule)
    whole = AdapterResult(output, [v.name for v in plan.variants if v.name])
    with appearing_whole(output, overwrite=plan.options.overwrite, work=work) as partial:
        for variant in plan.variants:
            whole.add(_Run(plan, variant, partial.path / variant.name, rule).run(progress))
    return whole


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
        # not the inputs' type, as in a model: factors are small, and a delta suffers most from a cast
        dtype = next(iter(variant.tensors.values())).dtype if written else "float32"
        self.writer = AdapterWriter(directory, dtype)
        self.lock, self.session = Lock(), plan.session
        self.ranks: dict[str, int] = {}
        self.done = 0
        self.modules = modules_of(self.model.config, {name: tensor.shape for name, tensor in self.base.items()})
        self.tensors = [(t, self._way(t)) for t in variant.tensors.values()]
        ways = {t.name: way for t, way in self.tensors if way != "none" and (way != "whole" or self._saved(t))}
        self.tensors += [(copy, ways[source]) for source, copy in tied_copies(plan, variant, ways)]

    def _way(self, tensor: TensorPlan) -> Way:
        way = way_of(self.plan, tensor, self.base)
        return "whole" if way == "dense" and tensor.name.removesuffix(".weight") in self.modules.unfit else way

    def run(self, progress: Progress) -> AdapterResult:
        work = [(t, way) for t, way in self.tensors if way != "none"]
        # largest first, so that the threads end together
        work.sort(key=lambda pair: (-pair[0].numel, pair[0].name))
        total = sum(t.nbytes for t, _ in work)
        with self.session.computing():
            if self.rule.budget is not None:
                self._spend(work)
            reports = spread(
                work, self._in_thread, threads=self.session.threads, poll=lambda: progress(self.done, total)
            )
            self.result.modules += [report for report in reports if report is not None]
            # only after the last module is it known whether any has a magnitude
            self._complete_dora()
        self.result.modules.sort(key=lambda r: r.tensor)
        self.result.dropped.sort()  # appended by the threads as they came
        self.result.saved = sorted(self.writer.saved)
        self.result.parameters = self.writer.parameters
        if not self.result.parameters:
            # it would be refused by whoever reads it
            raise MisfitError(
                "the merge is its base: an adapter of it would hold no tensor",
                "check the models and their weights; a merge into a model may be a copy of the base",
            )
        self.result.warnings = write_adapter_files(
            self.plan, self.variant, self.model, self.modules, self.writer, self.result
        )
        return self.result

    def _complete_dora(self) -> None:
        """DoRA holds for all modules of an adapter: the plain ones get the magnitudes that change nothing."""
        for module, layout in self.writer.without_magnitude():
            _must_be_linear(module, layout)
            left, right = self.writer.factors(module)
            tensor = self.base[f"{module}.weight"]
            magnitude = row_norms(tensor, LowRank(left, right, tensor.shape))
            self.writer.add(module, left, right, magnitude=magnitude)

    def _spend(self, work: Sequence[tuple[TensorPlan, Way]]) -> None:
        """A first round that only looks at the spectra and shares the budget out."""
        values, shapes = {}, {}
        for tensor, way in work:
            if way != "whole":
                # formed here and once more in the second round: kept, all deltas together are as large as the model
                delta = self._delta(tensor, way)
                values[tensor.name] = self._spectrum(delta, tensor)
                shapes[tensor.name] = matrix_shape(tensor.shape)
        self.ranks = self.rule.ranks(values, shapes)

    def _spectrum(self, delta: _Delta, tensor: TensorPlan) -> list[float]:
        if delta.factors is not None:
            return [float(v) for v in svd(delta.factors)[1]]
        assert delta.values is not None
        # no vectors: the budget is shared out by values
        found = singular_triplets(delta.values.reshape(matrix_shape(tensor.shape)), lambda values: 0)
        assert found.spectrum is not None
        return [float(v) for v in found.spectrum]

    def _in_thread(self, pair: tuple[TensorPlan, Way]) -> ModuleReport | None:
        tensor, way = pair
        report = None
        with self.session.in_thread():
            if way == "whole":
                self._whole(tensor)
            else:
                report = self._module(tensor, self._delta(tensor, way))
        with self.lock:
            self.done += tensor.nbytes
        return report

    def _work(self, tensor: TensorPlan) -> Computation:
        self.session.reader().start()
        return self.session.computation(tensor)

    def _delta(self, tensor: TensorPlan, way: Way) -> _Delta:
        """The merged delta of a matrix."""
        work = self._work(tensor)
        if way == "linear":
            return self._linear(tensor, work)
        if way == "factors":
            merged = work.merged_delta()
            assert isinstance(merged, LowRank)
            return _Delta(None, merged.matrix(), None, "factors")
        return _Delta(None, None, self._dense(tensor, work), "dense")

    def _linear(self, tensor: TensorPlan, work: Computation) -> _Delta:
        """sum_i c_i W_i - W in factors: what the coefficients lack to a sum of one scales the base."""
        (step,) = work.steps
        coefficients = step.call.coefficients(step)
        rows: torch.Tensor | None = None
        factors = []
        for which, c in zip(tensor.inputs, coefficients, strict=True):
            found = row_scaled_delta(work.reader.tensor(which), self.base[tensor.name])
            assert found is not None
            scale, delta = found
            for x in (delta.left, delta.right):
                work.reader.checked(which, x)
            rows = scale * c if rows is None else rows + scale * c
            factors.append(delta.matrix().scaled(c))
        if not work.deltas and rows is not None:
            rows = rows + (sum(coefficients) - 1)
        # rounding (three thirds, norms of a DoRA that was not trained) must not make a DoRA of a LoRA
        still = rows is None or float(rows.abs().max()) < 1e-6
        return _Delta(None if still else rows, low_rank_sum(factors, [1.0] * len(factors)), None, "linear")

    def _blocks(self, tensor: TensorPlan, work: Computation) -> Iterator[tuple[int, int, torch.Tensor]]:
        """The merged delta of one tensor a range at a time: start, stop, values."""
        work.prepare()
        for start, stop in work.ranges():
            merged = work.compute(start, stop)
            origin = work.base
            # a mean of weights was not told of the base, and gives a model: the base is taken off it
            if origin is None:
                origin = self.base[tensor.name].flat(start, stop).float()
            yield start, stop, (merged - origin).float().cpu()

    def _dense(self, tensor: TensorPlan, work: Computation) -> torch.Tensor:
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
            assert delta.values is not None
            matrix = delta.values.reshape(shape)
            # of the delta itself, as not every route sees the whole spectrum
            squares = float(matrix.double().square().sum())
            found = singular_triplets(matrix, self._limit(tensor), projection=True)
            # half of each value to either factor (mergekit's distribute_scale): a cast to float16 spoils neither
            root = found.values.sqrt()
            left, right = found.left * root, (found.right * root).T
            energy = float(found.values.double().square().sum()) / squares if squares else 1.0
        magnitude = None
        if delta.rows is not None:
            _must_be_linear(tensor.name.removesuffix(".weight"), self._layout(tensor))
            factors = LowRank(left, right, tensor.shape)
            # (1 + t) W + L R = (1 + t) (W + L R / (1 + t)): the factor is divided, and m = |W'| with the sign of 1 + t,
            # since DoRA divides by a norm
            scale = 1 + delta.rows
            magnitude = row_norms(self.base[tensor.name], factors, delta.rows) * scale.sign()
            left = left / scale[:, None]
        # PEFT leaves a module as it is that the adapter does not name
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

    def _limit(self, tensor: TensorPlan) -> Rank:
        """The rank rule for one matrix, as the kernels take it."""
        if self.rule.budget is not None:
            return self.ranks[tensor.name]
        return self.rule.max_rank if self.rule.energy is None else self.rule.rank_of

    def _cut_factors(self, tensor: TensorPlan, factors: LowRank) -> tuple[torch.Tensor, torch.Tensor, float]:
        limit = self._limit(tensor)
        # as they are: a decomposition could only round them
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
        # GPT-2's Conv1D, to PEFT fan_in_fan_out
        if any(t.factors.transposed for t in adapted):
            return "transposed"
        # a head that is tied to an embedding has the embedding's factors, and is linear
        if tensor.role.kind == "embedding" or (
            tensor.role.kind != "linear" and any(t.factors.embedding for t in adapted)
        ):
            return "embedding"
        return "convolution" if len(tensor.shape) > 2 else "linear"

    def _saved(self, tensor: TensorPlan) -> bool:
        """Whether an adapter holds this tensor whole; embeddings of full fine-tunes would make an adapter large."""
        for which in tensor.inputs:
            model = self.plan.models[which.model]
            if model.is_of_adapter(model.checkpoint[which.tensor]):
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
        if len(tensor.shape) < 2 or self._saved(tensor):
            # a second time, and whole: most tensors that come here have no change or no place
            merged = self.base[tensor.name].read().float() + self._dense(tensor, work).reshape(tensor.shape)
            if self.writer.add_whole(tensor.name, merged, matrix=self._in_matrix_module(tensor.name)):
                return
        with self.lock:
            self.result.dropped.append((tensor.name, size))
