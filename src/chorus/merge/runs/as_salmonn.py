"""Carries out a plan of SALMONN's trained parts into a `.pth` that its model reads, with LoRA again in factors.

    sum_i c_i s_i B_i A_i = (alpha / R) B' A'    linear methods: exact, R at most sum r_i; others: the best of a rank

All modules have one rank, as SALMONN's config has one `lora_rank`. Its `lora_alpha` stays the first model's: what
another rank does to the scale is in B', so that the one key to be changed is that without which nothing loads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from chorus.architectures.salmonn import is_salmonn
from chorus.checkpoints.adapter_report import AdapterResult, ModuleReport, notes
from chorus.checkpoints.dtypes import itemsize, torch_dtype
from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.checkpoints.output_place import refuse_input
from chorus.checkpoints.public_recipe import public_document
from chorus.checkpoints.salmonn import CONFIG, LORA, WEIGHTS, low_rank_of
from chorus.checkpoints.shards import Stored
from chorus.checkpoints.sidecar import write_json
from chorus.checkpoints.writer import appearing_whole, write_text
from chorus.errors import CheckpointError, ChorusError, PlanError, some
from chorus.export.openai.archive import STORAGES, Archive
from chorus.export.output import new_file
from chorus.lazy import lazy
from chorus.linalg.low_rank import LowRank, low_rank_sum, recompress, svd
from chorus.linalg.ranks import RankRule
from chorus.linalg.spectra import singular_triplets
from chorus.merge.arithmetic.merged_tensor import merged_checkpoint
from chorus.merge.arithmetic.reader import NONFINITE_HINT
from chorus.merge.arithmetic.tensor_plan import Input, TensorPlan
from chorus.merge.plan import Plan, Variant
from chorus.merge.runs.side_files import input_identities, provenance_of
from chorus.progress import Progress
from chorus.provenance import licence_warnings, model_card
from chorus.runtime import pick_device

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

NAME = "salmonn.pth"
NULL = 1e-6  # of a product's largest singular value: below it float32's factors hold rounding
BLOCK = 1 << 22  # values of a dense tensor that are read at a time


def makes_salmonn(plan: Plan) -> bool:
    """Whether what comes of a plan is SALMONN's."""
    return is_salmonn(plan.models[plan.donor].config)


def run_as_salmonn(
    plan: Plan, output: Path, rule: RankRule, progress: Progress = lambda done, total: None
) -> AdapterResult:
    """Carry out a plan into directories with a `salmonn.pth`, one a variant. `PlanError` where that cannot be."""
    pick_device(plan.options.device)
    refuse_input(output, plan.places)
    runs = [_Salmonn(plan, variant, rule) for variant in plan.variants]
    if problems := [problem for one in runs for problem in one.problems()]:
        raise PlanError(list(dict.fromkeys(problems)), source=plan.recipe.source)
    whole = AdapterResult(output, [v.name for v in plan.variants if v.name])
    with appearing_whole(output, overwrite=plan.options.overwrite) as partial:
        for one in runs:
            whole.add(one.run(partial.path / one.variant.name, progress))
    return whole


class _Salmonn:
    """One variant's way into its file."""

    def __init__(self, plan: Plan, variant: Variant, rule: RankRule) -> None:
        self.plan, self.variant, self.rule = plan, variant, rule
        self.lora = plan.models[plan.donor].config[LORA]
        self.products = [f"{module}.weight" for module in self.lora["modules"]]
        self.merged = merged_checkpoint(plan.session, variant.tensors, variant.name or plan.label)
        self.done = 0

    def problems(self) -> list[str]:
        dense = [name for name in self.products if not self._exact(self.variant.tensors[name])]
        found = []
        # SALMONN has no place for the matrices themselves, and factors of full rank would be larger
        if dense and not self.rule.given:
            found.append(
                f"{self.variant.method} makes products of full rank ({some(dense, 1)}): say the rank that LoRA is to "
                f"have, --as adapter --max-rank {self.lora['rank']}"
            )
        odd = [t.name for t in self.variant.tensors.values() if t.dtype not in STORAGES]
        return [*found, *([f"{some(odd)}: of a type that torch's archives have not"] if odd else [])]

    def run(self, directory: Path, progress: Progress) -> AdapterResult:
        directory.mkdir(parents=True, exist_ok=True)
        # all of them before the first is written: what rank they have together only the last one tells
        deltas = {name: self._delta(self.variant.tensors[name]) for name in self.products}
        rank = self._rank(deltas)
        alpha = self.lora["alpha"]
        result = AdapterResult(directory, [])
        factors: dict[str, torch.Tensor] = {}
        for name, delta in deltas.items():
            left, right, energy = _cut(delta, rank)
            way = "linear" if self._exact(self.variant.tensors[name]) else "dense"
            result.modules.append(ModuleReport(name, rank, energy, way))
            module = name.removesuffix(".weight")
            factors[f"{module}.lora_A{self.lora['named']}.weight"] = right
            factors[f"{module}.lora_B{self.lora['named']}.weight"] = left / (alpha / rank)
        result.parameters = sum(one.numel() for one in factors.values())
        self._write(directory / NAME, factors, {"lora_rank": rank, "lora_alpha": alpha}, progress)
        result.saved = sorted(name for name in self.variant.tensors if name not in deltas)
        result.warnings = self._beside(directory, result, rank)
        return result

    def _exact(self, tensor: TensorPlan) -> bool:
        """Whether a product comes out in factors: a copy of one, or a sum that the method weighs as a whole."""
        if not tensor.steps:
            return True
        linear = all(s.definition.linear and s.split(len(tensor.shape)) == "element" for s in tensor.steps)
        return linear and len(tensor.steps) == 1

    def _input(self, which: Input) -> LowRank:
        model = self.plan.models[which.model]
        found = low_rank_of(model.checkpoint[which.tensor])
        assert found is not None
        finite = bool(torch.isfinite(found.left).all() and torch.isfinite(found.right).all())
        if not finite and not self.plan.options.allow_nonfinite:
            raise CheckpointError(f"{model.label}: {which.tensor} holds NaN or infinity in its factors", NONFINITE_HINT)
        return found

    def _delta(self, tensor: TensorPlan) -> LowRank | torch.Tensor:
        """A merged product: factors side by side, else the matrix."""
        if not self._exact(tensor):
            # whole: a decomposition takes no pieces
            return self.merged[tensor.name].read().float()
        terms = [self._input(one) for one in tensor.inputs]
        if not tensor.steps:
            return terms[0]
        session = self.plan.session
        with session.computing(decomposes=False):
            work = session.computation(tensor, session.new_reader())
            (step,) = work.steps
            weights = [float(one) for one in step.call.coefficients(step)]
        if tensor.deltas and tensor.base is not None:  # b + sum c_i (x_i - b)
            terms.append(self._input(tensor.base))
            weights.append(1 - sum(weights))
        # a base that is wholly replaced would only raise the rank
        kept = [(term, weight) for term, weight in zip(terms, weights, strict=True) if abs(weight) > 1e-12]
        found = low_rank_sum([term for term, _ in kept] or terms[:1], [weight for _, weight in kept] or [0.0])
        return found if found.rank <= self.lora["rank"] else _lean(found)

    def _rank(self, deltas: dict[str, LowRank | torch.Tensor]) -> int:
        """The rank of all modules: the largest that one has, within what the rule allows."""
        if not deltas:
            return int(self.lora["rank"])
        most = max(one.rank if isinstance(one, LowRank) else min(one.shape) for one in deltas.values())
        if self.rule.budget is not None:
            cost = sum(sum(self.variant.tensors[name].shape) for name in deltas)
            return max(1, min(most, self.rule.budget // cost))
        if self.rule.energy is not None:
            return max(1, *(self.rule.rank_of(_spectrum(one)) for one in deltas.values()))
        return most if self.rule.max_rank is None else min(most, self.rule.max_rank)

    def _write(self, path: Path, factors: dict[str, torch.Tensor], lora: dict[str, object], progress: Progress) -> None:
        tensors: dict[str, LazyTensor | torch.Tensor] = {}
        stored: list[Stored] = []
        for name, planned in self.variant.tensors.items():
            module = name.removesuffix(".weight")
            pair = [f"{module}.{half}{self.lora['named']}.weight" for half in ("lora_A", "lora_B")]
            if pair[0] in factors:
                tensors |= {one: factors[one] for one in pair}
                stored += [(one, planned.dtype, tuple(factors[one].shape)) for one in pair]
            else:
                tensors[name] = self.merged[name]
                stored.append((name, planned.dtype, planned.shape))
        total = sum(itemsize(dtype) * math.prod(shape) for _, dtype, shape in stored)
        # SALMONN's loader looks at the weights alone; the settings are for people, and for reading it here again
        settings = {CONFIG: {"model": lora}}
        with new_file(path) as file, Archive(path, file, settings, WEIGHTS, stored) as archive:
            for name, dtype, _ in stored:
                archive.begin()
                for values in _bytes(name, tensors[name], dtype):
                    archive.values(values)
                    self.done += values.nbytes
                    progress(self.done, total * len(self.plan.variants))
                archive.end()

    def _beside(self, directory: Path, result: AdapterResult, rank: int) -> list[str]:
        """The card and `chorus.json`; returns what must be said."""
        plan, variant, alpha = self.plan, self.variant, self.lora["alpha"]
        # the files are read, unlike an adapter's base: they are small, and all that there is
        document = provenance_of(plan, variant, input_identities(plan, {}), {})
        document["lora"] = {"rank": rank, "alpha": alpha, "modules": [vars(one) for one in result.modules]}
        write_json(directory / "chorus.json", document)
        lines = [line.replace(", or merge into a model", "") for line in notes(result)]
        if result.modules and rank != self.lora["rank"]:
            lines.append(
                f"LoRA has the rank {rank}, {plan.models[plan.donor].label}'s is {self.lora['rank']}: SALMONN's config "
                f"must say lora_rank: {rank} (lora_alpha: {alpha:g}, as before), or --as adapter "
                f"--max-rank {self.lora['rank']} cuts it"
            )
        if plan.options.model_card:
            recipe = public_document(plan.recipe.document, plan.references)
            card = model_card(
                title=variant.name or plan.recipe.recipe.name or f"{variant.method} of {len(plan.models)} SALMONNs",
                method=variant.method, base_models=plan.hub_ids, licences=plan.licences, languages=[],
                pipeline_tag=None, recipe_yaml=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
                losses=lines, adapter=True, intro=f"A merge of SALMONN's trained parts by `{variant.method}`",
            )  # fmt: skip
            write_text(directory / "README.md", card)
        return lines + licence_warnings(plan.licences)


def _lean(delta: LowRank) -> LowRank:
    """Without the directions in which the terms cancel: a model plus what makes another of it is that other one."""
    values = svd(delta)[1]
    count = int((values > NULL * values[0]).sum()) if len(values) else 0
    return recompress(delta, max(1, count))[0] if count < delta.rank else delta


def _cut(delta: LowRank | torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Left and right factors of exactly this rank, zeros behind the last direction, and the energy that they keep."""
    energy = 1.0
    if isinstance(delta, LowRank) and delta.rank <= rank:  # as they are: a decomposition could only round them
        left, right = delta.left, delta.right
    else:
        matrix = delta.matrix() if isinstance(delta, LowRank) else delta
        squares = _squares(matrix)
        found = singular_triplets(matrix, rank, whole=False, projection=True)
        root = found.values.sqrt()
        left, right = found.left * root, (found.right * root).T
        energy = min(1.0, float(found.values.double().square().sum()) / squares) if squares else 1.0
    more = rank - left.shape[1]
    if more:
        left = torch.cat([left, left.new_zeros(left.shape[0], more)], dim=1)
        right = torch.cat([right, right.new_zeros(more, right.shape[1])])
    return left, right, energy


def _squares(matrix: LowRank | torch.Tensor) -> float:
    if isinstance(matrix, LowRank):
        return float(svd(matrix)[1].square().sum())
    return float(matrix.double().square().sum())


def _spectrum(delta: LowRank | torch.Tensor) -> list[float]:
    if isinstance(delta, LowRank):
        return [float(value) for value in svd(delta)[1]]
    found = singular_triplets(delta, lambda values: 0).spectrum
    assert found is not None
    return [float(value) for value in found]


def _bytes(name: str, tensor: LazyTensor | torch.Tensor, dtype: str) -> Iterator[np.ndarray]:
    """A tensor's bytes in a type, a block at a time; `ChorusError` for factors that do not fit it."""
    if isinstance(tensor, torch.Tensor):
        cast = tensor.to(torch_dtype(dtype))
        # a product may be small where one factor is large; merged tensors are looked at where they are merged
        if bool((cast.isinf() & tensor.isfinite()).any()):
            raise ChorusError(
                f"{name}: a factor's value of {float(tensor.abs().max()):.4g} does not fit {dtype}",
                "write out_dtype: bfloat16 or float32 in the recipe",
            )
        yield cast.contiguous().reshape(-1).view(torch.uint8).numpy()
        return
    count = math.prod(tensor.shape)
    for start in range(0, count, BLOCK):
        values = tensor.flat(start, min(start + BLOCK, count)).to(torch_dtype(dtype))
        yield values.contiguous().view(torch.uint8).numpy()
